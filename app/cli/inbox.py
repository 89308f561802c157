"""See the notifications that were kept, and why each ended as it did: `flask inbox`."""

import re
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import BinaryIO

import click
from sqlalchemy.orm import Session

from app import documents, inbox as kept
from app.alipay.acknowledgement import is_acknowledgement
from app.alipay.delivery import BODY_BYTES_MAX, Delivery, MalformedRequestError, parse_request
from app.cli import options
from app.cli.errors import REFUSED, Refusal
from app.cli.explanations import explain
from app.cli.groups import Commands, look_up, the_service
from app.cli.tables import MASK, ending, moment, plain, print_facts, print_json, print_table
from app.inbox import Outcome
from app.inbox.upkeep import Filter, listing
from app.models import Authorization, InboxEntry
from app.vault import VaultError

#: What a column of ids holds on every database.
_ID_MAX = 2**63 - 1

#: The door lets no more headers in than this, nor a larger body.
_HEAD_BYTES_MAX = 64 * 1024
_REQUEST_BYTES_MAX = _HEAD_BYTES_MAX + BODY_BYTES_MAX
_TOO_LARGE = f"the body of a notification has at most {BODY_BYTES_MAX} bytes."

entry_id_type = click.IntRange(1, _ID_MAX)

inbox = Commands("inbox", help="See the notifications that were kept, deliver one from a file, process and purge.")


class NoEntryError(Refusal):
    """There is no inbox entry with this id."""

    def __init__(self, entry_id: int) -> None:
        super().__init__(f"There is no entry {entry_id} in the inbox; it may have been purged.")


def find_entry(session: Session, entry_id: int) -> InboxEntry:
    """Find an entry.

    Raises `NoEntryError`.
    """
    entry = kept.find(session.connection(), entry_id)
    if entry is None:
        raise NoEntryError(entry_id)
    return entry


@inbox.command("list")
@click.option("--outcome", type=click.Choice([each.value for each in Outcome]), help="Only those that ended so.")
@click.option("--type", "notification_type", metavar="TYPE", help="Only those of this type, known or not.")
@click.option("--auth-state", metavar="TEXT", help="Only those that name this authState: no cancellation does.")
@options.as_json
@options.limit
def list_entries(
    outcome: str | None, notification_type: str | None, auth_state: str | None, limit: int, *, as_json: bool
) -> None:
    """List notifications, newest first."""
    wanted = Filter(outcome=outcome, type=notification_type, auth_state=auth_state)
    rows = look_up(lambda session: listing(session, wanted, limit=limit + 1))
    shown = rows[:limit]
    if as_json:
        print_json([documents.entry_summary(row) for row in shown])
    else:
        print_table(
            ("ID", "RECEIVED", "TYPE", "OUTCOME", "AUTH STATE"),
            [
                (row.id, moment(row.received_at), row.type, ending(row.outcome, row.reason), row.auth_state)
                for row in shown
            ],
            free=("AUTH STATE",),
        )
    if len(rows) > limit:
        options.tell_of_more(limit)


@inbox.command()
@click.argument("entry_id", metavar="ID", type=entry_id_type)
@options.as_json
def show(entry_id: int, *, as_json: bool) -> None:
    """Show a notification, and say why it ended as it did. Its secrets stay sealed."""

    def look(session: Session) -> tuple[InboxEntry, Authorization | None]:
        entry = find_entry(session, entry_id)
        linked = entry.authorization_id
        return entry, None if linked is None else session.get_one(Authorization, linked)

    entry, authorization = look_up(look)
    body = _body(entry)
    explanation = explain(entry, authorization)
    if as_json:
        document = documents.entry_summary(entry)
        document |= {"foundState": entry.found_state, "explanation": explanation}
        document |= {"uri": entry.uri, "requestTime": entry.request_time, "keyVersion": _key_version(entry)}
        print_json(document | {"bodyBytes": None if body is None else len(body)})
        return
    click.echo(f"{explanation}\n")
    print_facts(
        {
            "id": entry.id,
            "type": entry.type,
            "client": entry.client_id,
            **_said(entry, body),
            "state found": entry.found_state,
            **_linked(authorization),
            "deliveries": entry.deliveries,
            "received": moment(entry.received_at),
            "last received": moment(entry.last_received_at),
            "request-time": entry.request_time,
            "uri": entry.uri,
            "key version": "the newest" if (version := _key_version(entry)) is None else version,
            "body": "does not open under the vault keys" if body is None else f"{len(body)} bytes, sealed",
        }
    )


def _body(entry: InboxEntry) -> bytes | None:
    """Open the body; `None` where it does not open, which may be just what is to be explained."""
    try:
        return kept.open_body(the_service().vault, entry)
    except VaultError:
        return None


def _said(entry: InboxEntry, body: bytes | None) -> Mapping[str, object]:
    """Say what the notification names; of secrets, that they are there."""
    notification = None if body is None else kept.read(body).notification
    if notification is None:
        return {"authState": entry.auth_state}
    return {
        "authState": notification.auth_state,
        "authCode": notification.auth_code and MASK,
        "accessToken": notification.access_token and MASK,
        "userId": notification.user_id,
        "userLoginId": notification.user_login_id and MASK,
        "resultStatus": notification.result_status,
    }


def _linked(authorization: Authorization | None) -> Mapping[str, object]:
    if authorization is None:
        return {}
    return {
        "authState": authorization.auth_state,
        "state now": authorization.state,
        "authorization": authorization.id,
    }


def _key_version(entry: InboxEntry) -> int | None:
    """Read which key signed it, from a header that was verified; `None` where it names none, which means the newest."""
    named = re.search(r"keyVersion=([0-9]+)", entry.signature)
    return None if named is None else int(named[1])


# --- delivering ------------------------------------------------------------------------------------------------------


@inbox.command()
@click.argument("file", type=click.File("rb"))
def deliver(file: BinaryIO) -> None:
    """Deliver the HTTP request in FILE, head and body; - is stdin.

    It is verified like any other, as a request to the path that Alipay signs, FLASK_PUBLIC_NOTIFY_PATH. Ends with 0 if
    it was acknowledged.
    """
    delivery = _request(file)
    receipt = the_service().receiver.receive(delivery)
    answer = receipt.answer
    print_facts(
        {
            "status": f"{answer.status} {HTTPStatus(answer.status).phrase}",
            "result": f"{answer.result_status} {answer.result_code}",
            "entry": receipt.entry_id,
            "outcome": receipt.outcome,
            "reason": receipt.reason,
        }
    )
    if not is_acknowledgement(answer.status, answer.body):
        raise click.exceptions.Exit(REFUSED)


class NotDeliveredError(Refusal):
    """The door would not have let the request in."""

    def __init__(self, status: HTTPStatus, problem: str) -> None:
        super().__init__(f"{status.value} {status.phrase}: {problem}")


def _request(file: BinaryIO) -> Delivery:
    """Read a request as the door does.

    Raises `NotDeliveredError` and `Refusal`.
    """
    raw = file.read(_REQUEST_BYTES_MAX + 1)
    if len(raw) > _REQUEST_BYTES_MAX:
        raise NotDeliveredError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)
    try:
        delivery = parse_request(raw)
    except MalformedRequestError as error:
        raise NotDeliveredError(HTTPStatus.BAD_REQUEST, str(error)) from None
    settings = the_service().settings
    path, mark, query = delivery.uri.partition("?")
    if path not in {settings.notify_path, settings.public_notify_path}:
        problem = f"notifications go to {settings.public_notify_path}, not to {plain(path)}."
        raise NotDeliveredError(HTTPStatus.NOT_FOUND, problem)
    if delivery.method != "POST":
        raise NotDeliveredError(HTTPStatus.METHOD_NOT_ALLOWED, "notifications are sent with POST.")
    if len(delivery.body) > BODY_BYTES_MAX:
        raise NotDeliveredError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)
    return replace(delivery, uri=settings.public_notify_path + mark + query)
