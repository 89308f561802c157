"""`flask doctor refused`: the deliveries that were refused within a day, and why each of them was."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app import quarantine
from app.alipay.diagnosis import Diagnosis
from app.cli import options
from app.cli.current_service import look_up, the_service
from app.cli.doctor.diagnosed import diagnose_request, print_diagnosis, registered_url_option
from app.cli.errors import Refusal
from app.cli.tables import minute, moment, plain, print_facts, print_json, print_table
from app.documents import Document
from app.models import RefusedDelivery
from app.wiring import Service


@click.command()
@with_appcontext
@click.argument("refused_id", metavar="[ID]", type=click.UUID, required=False)
@registered_url_option
@options.as_json
@options.limit
def refused(refused_id: UUID | None, registered_url: str | None, limit: int, *, as_json: bool) -> None:
    """List the deliveries that were refused within a day, newest first, or say of one why it was and what to do.

    Not all are kept: twenty of each client and cause, the newest among them, and at most one a second. It is
    diagnosed with the keyring as it is now.
    """
    if refused_id is None:
        _list(limit, as_json=as_json)
    else:
        _show(refused_id, registered_url, as_json=as_json)


def _list(limit: int, *, as_json: bool) -> None:
    rows = look_up(partial(quarantine.listing, limit=limit + 1, now=datetime.now(UTC)))
    shown = rows[:limit]
    if as_json:
        print_json([_document(row) for row in shown])
    elif not shown:
        click.echo("No delivery was refused within a day, or none is kept.")
    else:
        _print_listing(shown)
    if len(rows) > limit:
        click.echo(f"There are more than {limit}: --limit", err=True)


def _print_listing(rows: Sequence[RefusedDelivery]) -> None:
    def line(row: RefusedDelivery, at: str) -> list[object]:
        version = None if row.key_version is None else row.key_version
        return [row.id, at, row.cause, version, row.address, _client(row)]

    print_table(
        ("ID", "AT", "CAUSE", "KEY", "ADDRESS", "CLIENT"),
        [line(row, moment(row.at)) for row in rows],
        last="CLIENT",
        shorter=[line(row, minute(row.at)) for row in rows],
    )


def _client(row: RefusedDelivery) -> str | None:
    if not row.client_id:
        return None
    return row.client_id if row.is_known_client else f"{row.client_id} (not in the keyring)"


def _show(refused_id: UUID, registered_url: str | None, *, as_json: bool) -> None:
    def find(session: Session) -> RefusedDelivery:
        row = quarantine.find(session, refused_id)
        if row is None:
            message = f"There is no refused delivery {refused_id}: each is kept for a day at most."
            raise Refusal(message)
        return row

    service = the_service()
    row = look_up(find)
    request = quarantine.open_request(service.vault, row)
    diagnosis = diagnose_request(service, request, registered_url)
    if as_json:
        print_json({**_document(row), "diagnosis": diagnosis.document()})
        return
    print_facts(
        {
            "id": row.id,
            "refused": moment(row.at),
            "cause": row.cause,
            "client": _client(row),
            "key version": row.key_version,
            "verified path": row.path,
            "address": row.address or None,
            "request id": row.request_id or None,
        }
    )
    click.echo()
    if row.client_id and row.client_id not in service.keyring.clients:
        click.echo(_of_an_unknown_client(row.client_id, diagnosis, service))
    if diagnosis.verifies:
        click.echo(_why_it_verifies_now(row))
    print_diagnosis(diagnosis, request, service)


def _of_an_unknown_client(client_id: str, diagnosis: Diagnosis, service: Service) -> str:
    """Say what to do about a client that the keyring does not have, unless its key stands there under another."""
    said = f"The keyring does not have the client {plain(client_id)}"
    if service.settings.uses_only_defaults:
        return f"{said}, and the service runs without a setting: if it has an environment file, that was not read."
    if diagnosis.key is not None and not diagnosis.key.is_own:
        return f"{said}, and has the key that signed under {plain(diagnosis.key.client_id)}."
    return f"{said}: add it, or see who sends so."


def _why_it_verifies_now(row: RefusedDelivery) -> str:
    if row.cause == "stale":
        return "Only its age was against it: unset FLASK_FRESHNESS_SECONDS, or set the clock of this machine right."
    return "With the keyring and the settings as they are now, it is accepted when it is sent again."


def _document(row: RefusedDelivery) -> Document:
    return {
        "id": str(row.id),
        "at": moment(row.at),
        "clientId": row.client_id,
        "isKnownClient": row.is_known_client,
        "cause": row.cause,
        "keyVersion": row.key_version,
        "path": row.path,
        "address": row.address,
        "requestId": row.request_id,
    }
