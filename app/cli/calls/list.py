"""`flask calls list`: calls to Alipay, newest first, a page at a time."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app import authorizations, call_statements, documents
from app.call_statements import CallFilter
from app.cli import options
from app.cli.current_service import look_up
from app.cli.options import require_known_client
from app.cli.tables import ending, minute, moment, print_json, print_table
from app.documents import Document
from app.key_locks import AuthStateKey
from app.models import Call
from app.vocabulary import CallKind, CallStatus


@click.command("list")
@with_appcontext
@click.option("--status", type=click.Choice([each.value for each in CallStatus]), help="Only those that stand so.")
@click.option("--kind", type=click.Choice([each.value for each in CallKind]), help="Only of this kind.")
@click.option("--auth-state", metavar="TEXT", help="Only those of the authorizations with this authState.")
@click.option("--client", "client_id", metavar="ID", help="Only those of this client.")
@click.option("--cursor", metavar="ID", type=click.UUID, help="Go on after the call with this ID.")
@options.as_json
@options.limit
def list_calls(
    status: str | None,
    kind: str | None,
    auth_state: str | None,
    client_id: str | None,
    cursor: UUID | None,
    limit: int,
    *,
    as_json: bool,
) -> None:
    """List calls to Alipay, newest first."""

    def page(session: Session) -> tuple[Sequence[Call], Mapping[UUID, AuthStateKey], list[Document]]:
        found = None if auth_state is None else [each.id for each in authorizations.find_all(session, auth_state)]
        wanted = CallFilter(status=status, kind=kind, client_id=client_id, authorization_ids=found)
        rows = call_statements.listing(session, wanted, limit=limit + 1, before=cursor)
        if not rows:
            require_known_client(session, client_id)
        summaries = documents.call_summaries(session, rows[:limit]) if as_json else []
        return rows, call_statements.auth_state_keys(session, rows), summaries

    rows, keys, summaries = look_up(page)
    shown = rows[:limit]
    if as_json:
        print_json(summaries)
    else:
        _print_listing(shown, keys)
    if len(rows) > limit:
        options.tell_of_more(limit, shown[-1].id)


def _print_listing(rows: Sequence[Call], keys: Mapping[UUID, AuthStateKey]) -> None:
    has_several_clients = len({each.client_id for each in rows}) > 1
    headers = ["ID", "CREATED", "KIND", "STATUS", *(["CLIENT"] if has_several_clients else []), "AUTH STATE"]

    def line(call: Call, created: str) -> list[object]:
        _, auth_state = keys[call.authorization_id]
        client = [call.client_id] if has_several_clients else []
        return [call.id, created, call.kind, ending(call.status, call.result_code), *client, auth_state]

    print_table(
        headers,
        [line(each, moment(each.created_at)) for each in rows],
        free=("STATUS", "CLIENT") if has_several_clients else ("STATUS",),
        last="AUTH STATE",
        shorter=[line(each, minute(each.created_at)) for each in rows],
    )
