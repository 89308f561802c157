"""`flask authorizations list`: authorizations, newest first, a page at a time."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app import authorizations, documents, tokens
from app.authorizations import Filter
from app.cli import options
from app.cli.current_service import look_up
from app.cli.options import require_known_client
from app.cli.tables import moment, print_json, print_table
from app.documents import Document
from app.models import Authorization
from app.state_machine import AuthorizationState


@click.command("list")
@with_appcontext
@click.option(
    "--state", type=click.Choice([each.value for each in AuthorizationState]), help="Only those in this state."
)
@click.option("--user-ref", metavar="TEXT", help="Only those of this user of yours.")
@click.option("--client", "client_id", metavar="ID", help="Only those of this client.")
@click.option("--cursor", metavar="ID", type=click.UUID, help="Go on after the authorization with this id.")
@options.as_json
@options.limit
def list_authorizations(
    state: str | None, user_ref: str | None, client_id: str | None, cursor: UUID | None, limit: int, *, as_json: bool
) -> None:
    """List authorizations, newest first."""
    wanted = Filter(user_ref=user_ref, state=state, client_id=client_id)

    def page(session: Session) -> tuple[Sequence[Authorization], Mapping[UUID, datetime | None], list[Document]]:
        rows = authorizations.listing(session, wanted, limit=limit + 1, before=cursor)
        if not rows:
            require_known_client(session, client_id)
        if as_json:
            return rows, {}, documents.authorization_summaries(session, rows[:limit])
        return rows, tokens.current_expiries(session, [each.id for each in rows]), []

    rows, ends, summaries = look_up(page)
    shown = rows[:limit]
    if as_json:
        print_json(summaries)
    else:
        _print_listing(shown, ends)
    if len(rows) > limit:
        options.tell_of_more(limit, shown[-1].id)


def _print_listing(rows: Sequence[Authorization], ends: Mapping[UUID, datetime | None]) -> None:
    headers = ["CREATED", "STATE", "USER", "AUTH STATE"]
    lines = [[moment(row.created_at), row.state, row.user_ref, row.auth_state] for row in rows]
    if any(ends.values()):
        headers.append("TOKEN UNTIL")
        for line, row in zip(lines, rows, strict=True):
            line.append(moment(ends.get(row.id)))
    if len({row.client_id for row in rows}) > 1:
        headers.append("CLIENT")
        for line, row in zip(lines, rows, strict=True):
            line.append(row.client_id)
    print_table(headers, lines, free=("USER", "CLIENT"), last="AUTH STATE")
