"""`flask events list`: events, newest first, or as a reader of the feed gets them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app import authorizations, documents
from app.cli import options
from app.cli.current_service import look_up
from app.cli.options import WholeNumber
from app.cli.tables import ending, minute, moment, print_json, print_table
from app.events import feed
from app.events.feed import EventFilter, PastCursorError, PublishedEvent
from app.events.staging import EventType

#: A background worker numbers within a second. What waits for longer waits for one.
_NUMBERED_WITHIN = timedelta(seconds=10)

_cursor_type = WholeNumber("a cursor of the feed, a number such as 17", 0, 2**63 - 1)


@click.command("list")
@with_appcontext
@click.option("--type", "event_type", type=click.Choice([each.value for each in EventType]), help="Only of this type.")
@click.option("--auth-state", metavar="TEXT", help="Only those of the authorizations with this authState.")
@click.option("--after", metavar="CURSOR", type=_cursor_type, help="As the feed has them, after this; 0 is the start.")
@click.option("--cursor", metavar="CURSOR", type=_cursor_type, help="Go on, newest first, after the one with this.")
@options.as_json
@options.limit
def list_events(
    event_type: str | None,
    auth_state: str | None,
    after: int | None,
    cursor: int | None,
    limit: int,
    *,
    as_json: bool,
) -> None:
    """List events, newest first; with --after as a reader of the feed gets them, oldest first."""
    if after is not None and cursor is not None:
        message = "Give either --after or --cursor."
        raise click.UsageError(message)

    def page(session: Session) -> tuple[Sequence[PublishedEvent], datetime | None, PastCursorError | None]:
        found = None if auth_state is None else [each.id for each in authorizations.find_all(session, auth_state)]
        wanted = EventFilter(event_type, found)
        return (
            feed.listing(session, wanted, limit=limit + 1, before=cursor, after=after),
            feed.oldest_staged_at(session),
            # 0 is no reader's cursor, but the start.
            feed.missed(session, after) if after else None,
        )

    rows, staged_at, missed = look_up(page)
    shown = rows[:limit]
    if as_json:
        print_json([{"cursor": str(row.position), **documents.event_document(row)} for row in shown])
    else:
        _print_listing(shown)
    if len(rows) > limit:
        options.tell_of_more(limit, shown[-1].position, option="--cursor" if after is None else "--after")
    if missed is not None:
        click.echo(str(missed), err=True)
    if staged_at is not None and staged_at < datetime.now(UTC) - _NUMBERED_WITHIN:
        click.echo(
            f"Events since {moment(staged_at)} are not in the feed yet: no worker numbers them. flask serve runs one, "
            "and so does flask work.",
            err=True,
        )


def _print_listing(rows: Sequence[PublishedEvent]) -> None:
    has_calls = any(each.call_id is not None for each in rows)
    headers = ["CURSOR", "ID", "AT", "TYPE", "#", *(["CALL"] if has_calls else []), "AUTH STATE"]

    def line(event: PublishedEvent, at: str) -> list[object]:
        call = [event.call_status and ending(event.call_status, event.result_code)] if has_calls else []
        return [event.position, event.event_id, at, event.type, event.sequence, *call, event.auth_state]

    print_table(
        headers,
        [line(each, moment(each.at)) for each in rows],
        free=("TYPE",),
        last="AUTH STATE",
        shorter=[line(each, minute(each.at)) for each in rows],
    )
