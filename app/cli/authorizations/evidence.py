"""`flask authorizations evidence`: what proves the moves of an authorization, and how somebody else verifies it."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app.alipay.keyring import fingerprint
from app.alipay.signature import read_request_time
from app.cli import options
from app.cli.authorizations.finding import find_one, name_argument
from app.cli.current_service import look_up, operating_user, the_service
from app.cli.errors import Refusal
from app.cli.tables import moment, plain, print_facts, print_json
from app.evidence import VERIFY_COMMAND, Evidence, ProvenMove, collect

_log = logging.getLogger(__name__)

#: Tokens are in the files.
_FOLDER_MODE, _FILE_MODE = 0o700, 0o600


class OutputError(Refusal):
    """The files cannot be written where they are to be."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{plain(path)} {problem}.")


@click.command()
@with_appcontext
@name_argument
@options.client
@click.option("--reveal", is_flag=True, help="Show bodies, signed strings and reasons in the clear: tokens are there.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIRECTORY",
    help="Write the files to verify with into this new folder, in the clear.",
)
@options.as_json
def evidence(name: str, client_id: str | None, output: Path | None, *, reveal: bool, as_json: bool) -> None:
    """Show what proves each move of an authorization: the notification, its signature, and Alipay's key.

    With --output somebody who has neither this service nor its keys can verify it. Of a notification that was purged,
    the history still says when it was learned, when it was recorded, and by whom.
    """
    service = the_service()

    def read(session: Session) -> Evidence:
        return collect(session, service.vault, service.keyring, find_one(session, name, client_id))

    found = look_up(read)
    if reveal or output is not None:
        fields = {"what": "evidence", "authorization": found.authorization.id, "by": operating_user()}
        _log.warning("secret read", extra=fields)
    if output is not None:
        _write_files(found, output)
    if as_json:
        print_json(found.document(is_revealed=reveal))
        return
    _print_evidence(found, is_revealed=reveal)
    if output is not None:
        click.echo(f"\nWritten to {plain(output)}. Tokens are in these files. In the folder of a move:")
        click.echo(f"  {VERIFY_COMMAND}")


def _print_evidence(found: Evidence, *, is_revealed: bool) -> None:
    authorization = found.authorization
    print_facts({"authState": authorization.auth_state, "state": authorization.state, "id": authorization.id})
    for each in found.erasures:
        by = "" if each.who is None else f" by {plain(each.who)}"
        click.echo(f"Its user was erased at {moment(each.at)}{by}: {plain(each.reason or 'no reason given')}.")
    for proven in found.moves:
        click.echo()
        print_facts({**_facts_of_move(proven), **_facts_of_proof(proven)})
        if is_revealed and proven.proof is not None:
            click.echo(f"signed:\n{plain(_text(proven.proof.signed))}")
    if is_revealed and found.cancellation is not None:
        click.echo()
        print_facts({name: found.cancellation[name] for name in ("walletReason", "merchantReason")})


def _text(signed: bytes) -> str:
    """Show the signed string; one that is no UTF-8, as a header may make it, byte by byte."""
    try:
        return signed.decode()
    except UnicodeDecodeError:
        return signed.decode("latin-1")


def _facts_of_move(proven: ProvenMove) -> dict[str, object]:
    move = proven.move
    return {
        "move": f"{move.sequence} {move.event}: {move.from_state or 'nothing'} to {move.to_state}",
        "learned": moment(move.learned_at or move.at),
        "recorded": moment(move.at),
        "by": move.cause if move.by is None else f"{move.cause}: {move.by}",
        "reason": move.reason,
    }


def _facts_of_proof(proven: ProvenMove) -> dict[str, object]:
    if proven.move.notification_id is None:
        return {}
    facts: dict[str, object] = {"notification": proven.move.notification_id}
    entry, proof = proven.entry, proven.proof
    if entry is None:
        return {**facts, "evidence": "purged: the history above is what is left"}
    sent_at = read_request_time(entry.request_time)
    facts["request-time"] = entry.request_time if sent_at is None else f"{entry.request_time}, {moment(sent_at)}"
    if proof is None or proven.body is None:
        return {**facts, "evidence": "erased with its user: the history above is what is left"}
    key = "not in the keyring any more" if proof.public_key is None else fingerprint(proof.public_key)
    version = "the newest" if proof.key_version is None else proof.key_version
    return {
        **facts,
        "key": f"{key}, version {version}",
        "body": f"{len(proven.body)} bytes",
        "signed": f"{len(proof.signed)} bytes",
        "signature": f"{len(proof.signature)} bytes",
    }


def _write_files(found: Evidence, folder: Path) -> None:
    """Write a folder for each move that has evidence, and the whole as JSON. Raises `OutputError`."""
    try:
        folder.mkdir(mode=_FOLDER_MODE)
        _write(folder / "evidence.json", json.dumps(found.document(), indent=2).encode())
        for proven in found.moves:
            files = dict(_files_of(proven))
            if not files:
                continue
            event = re.sub("[^a-z_]", "", proven.move.event)
            place = folder / f"{proven.move.sequence:02}-{event}"
            place.mkdir(mode=_FOLDER_MODE)
            for name, content in files.items():
                _write(place / name, content)
    except FileExistsError:
        raise OutputError(folder, "is there already: name a new folder") from None
    except OSError as error:
        raise OutputError(folder, f"cannot be written ({error.strerror})") from None


def _files_of(proven: ProvenMove) -> Iterator[tuple[str, bytes]]:
    if proven.proof is None or proven.body is None:
        return
    yield "signed.txt", proven.proof.signed
    yield "sig.bin", proven.proof.signature
    yield "body.json", proven.body
    yield "headers.txt", proven.head.encode("latin-1")
    if proven.pem is not None:
        yield "key.pem", proven.pem


def _write(path: Path, content: bytes) -> None:
    path.touch(_FILE_MODE, exist_ok=False)
    path.write_bytes(content)
