"""`flask authorizations list`: authorizations, newest first, a page at a time."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app import authorization_search, documents, evidence, tokens
from app.authorization_search import Cursor, CursorError, Filter, Page
from app.cli import options
from app.cli.current_service import look_up, the_service
from app.cli.options import NotOnRecordError, require_known_client
from app.cli.tables import moment, plain, print_json, print_table
from app.database.contents import distinct_values, has_value
from app.documents import Document
from app.models import Authorization
from app.state_machine import AuthorizationState


def _cursor(_context: click.Context, _parameter: click.Parameter, written: str | None) -> Cursor | None:
    try:
        return None if written is None else Cursor.read(written)
    except CursorError as error:
        raise click.BadParameter(str(error)) from None


@click.command("list")
@with_appcontext
@click.option(
    "--state", type=click.Choice([each.value for each in AuthorizationState]), help="Only those in this state."
)
@click.option("--user-ref", metavar="TEXT", help="Only those of this user of yours.")
@click.option("--user-id", metavar="TEXT", help="Only those of the user with this id at the wallet.")
@click.option("--wallet", "customer_belongs_to", metavar="TEXT", help="Only those at this wallet, such as GCASH.")
@click.option("--client", "client_id", metavar="ID", help="Only those of this client.")
@click.option("--created-after", metavar="TIME", type=options.Moment(), help="Only those consulted then or later.")
@click.option("--created-before", metavar="TIME", type=options.Moment(), help="Only those consulted before that.")
@click.option("--updated-after", metavar="TIME", type=options.Moment(), help="Only those that changed since.")
@click.option("--updated-before", metavar="TIME", type=options.Moment(), help="Only those that have not changed since.")
@click.option("--canceled-since", metavar="TIME", type=options.Moment(), help="Only those canceled since.")
@click.option("--canceled-before", metavar="TIME", type=options.Moment(), help="Only those canceled before that.")
@click.option(
    "--expires-within",
    metavar="AGE",
    type=options.Age(),
    help="Only those whose token ends from now until then, such as 10d: soonest first.",
)
@click.option("--reasons", is_flag=True, help="Say why each was canceled, in the clear: the words of a person.")
@click.option("--oldest-first", is_flag=True, help="Begin with the oldest, not with the newest.")
@click.option("--cursor", metavar="CURSOR", callback=_cursor, help="Go on where a listing ended.")
@options.as_json
@options.limit
def list_authorizations(
    canceled_since: datetime | None,
    canceled_before: datetime | None,
    expires_within: timedelta | None,
    cursor: Cursor | None,
    limit: int,
    *,
    reasons: bool,
    oldest_first: bool,
    as_json: bool,
    **filters: Any,  # noqa: ANN401 -- those of the options that a filter is named like
) -> None:
    """List authorizations, newest first. A TIME is ISO 8601 with a zone, or an age such as 1d.

    Those listed by a change are in the order of their last one. Times are from the first on, and before the second.
    """
    now = datetime.now(UTC)
    wanted = _wanted(filters, canceled_since, canceled_before, None if expires_within is None else now + expires_within)

    def page(session: Session) -> tuple[Page, list[Document], Mapping[UUID, Document], Mapping[UUID, datetime | None]]:
        found = authorization_search.listing(
            session, wanted, limit=limit, now=now, after=cursor, oldest_first=oldest_first
        )
        if not found.rows:
            require_known_client(session, wanted.client_id)
            _require_known_wallet(session, wanted.customer_belongs_to)
        why = evidence.cancellations(session, the_service().vault, found.rows) if reasons else {}
        if as_json:
            return found, documents.authorization_summaries(session, found.rows), why, {}
        return found, [], why, tokens.current_expiries(session, [each.id for each in found.rows])

    try:
        found, summaries, why, ends = look_up(page)
    except CursorError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        if reasons:
            summaries = [{**each, "cancellation": why.get(UUID(each["id"]))} for each in summaries]
        print_json(summaries)
    else:
        _print_listing(found.rows, why if reasons else None, ends, is_by_update=wanted.is_by_update)
    if found.next is not None:
        # An id is the cursor that people have known.
        options.tell_of_more(limit, found.next.id if found.next.at is None else found.next)


def _wanted(
    filters: Mapping[str, Any],
    canceled_since: datetime | None,
    canceled_before: datetime | None,
    expires_before: datetime | None,
) -> Filter:
    if canceled_since is not None or canceled_before is not None:
        if filters["state"] not in {None, AuthorizationState.CANCELED}:
            message = "--canceled-since and --canceled-before go with no other --state."
            raise click.UsageError(message)
        if filters["updated_after"] is not None or filters["updated_before"] is not None:
            message = "Give either --canceled-since and --canceled-before, or --updated-after and --updated-before."
            raise click.UsageError(message)
        # A canceled authorization is not moved again.
        canceled = {"updated_after": canceled_since, "updated_before": canceled_before}
        filters = {**filters, **canceled, "state": AuthorizationState.CANCELED}
    return Filter(**filters, expires_before=expires_before)


def _require_known_wallet(session: Session, wallet: str | None) -> None:
    """Tell a misspelled wallet from one of which nothing matches. Raises `NotOnRecordError`."""
    if wallet is not None and not has_value(session, Authorization.customer_belongs_to, wallet):
        raise NotOnRecordError("--wallet", wallet, distinct_values(session, Authorization.customer_belongs_to))


def _print_listing(
    rows: Sequence[Authorization],
    why: Mapping[UUID, Document] | None,
    ends: Mapping[UUID, datetime | None],
    *,
    is_by_update: bool,
) -> None:
    headers = ["CREATED", "STATE", "USER"]
    lines = [[moment(row.created_at), row.state, row.user_ref] for row in rows]
    columns: dict[str, list[str | None]] = {}
    if is_by_update:
        columns["UPDATED"] = [moment(row.updated_at) for row in rows]
    if why is not None:
        columns["WHY"] = [_why(why.get(row.id)) for row in rows]
    columns["AUTH STATE"] = [row.auth_state for row in rows]
    if any(ends.values()):
        columns["TOKEN UNTIL"] = [moment(ends.get(row.id)) for row in rows]
    if len({row.client_id for row in rows}) > 1:
        columns["CLIENT"] = [row.client_id for row in rows]
    for header, cells in columns.items():
        headers.append(header)
        for line, cell in zip(lines, cells, strict=True):
            line.append(cell)
    print_table(headers, lines, free=[each for each in ("USER", "WHY", "CLIENT") if each in headers], last="AUTH STATE")


def _why(cancellation: Document | None) -> str | None:
    """Say who canceled it, and in whose words."""
    if cancellation is None:
        return None
    who = cancellation["cause"] if cancellation["by"] is None else f"{cancellation['cause']} {cancellation['by']}"
    said = [cancellation[each] for each in ("walletReason", "merchantReason", "reason") if cancellation[each]]
    if cancellation["isPurged"]:
        said.append("(the notification was purged)")
    return ": ".join([plain(who), *map(plain, said)])
