"""`flask inbox list`: notifications, newest first, a page at a time."""

from collections.abc import Sequence

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app import documents
from app.alipay.notification import NotificationType
from app.cli import options
from app.cli.current_service import look_up
from app.cli.inbox.entries import entry_id_type, print_entries
from app.cli.options import NotOnRecordError
from app.cli.tables import print_json
from app.database.contents import distinct_values, has_value
from app.inbox_admin import Filter, listing
from app.models import InboxEntry
from app.vocabulary import Outcome, Reason


@click.command("list")
@with_appcontext
@click.option("--outcome", type=click.Choice([each.value for each in Outcome]), help="Only those that ended so.")
@click.option("--type", "notification_type", metavar="TYPE", help="Only those of this type, known or not.")
@click.option("--reason", metavar="TEXT", help="Only those that ended so for this reason.")
@click.option("--auth-state", metavar="TEXT", help="Only those that name this authState: no cancellation does.")
@click.option("--oldest-first", is_flag=True, help="Begin with the oldest, not with the newest.")
@click.option("--cursor", metavar="ID", type=entry_id_type, help="Go on after the entry with this ID.")
@options.as_json
@options.limit
def list_entries(
    outcome: str | None,
    notification_type: str | None,
    reason: str | None,
    auth_state: str | None,
    cursor: int | None,
    limit: int,
    *,
    oldest_first: bool,
    as_json: bool,
) -> None:
    """List notifications, newest first."""
    wanted = Filter(outcome=outcome, type=notification_type, reason=reason, auth_state=auth_state)

    def page(session: Session) -> Sequence[InboxEntry]:
        rows = listing(session, wanted, limit=limit + 1, oldest_first=oldest_first, after=cursor)
        if not rows:
            _require_on_record(session, wanted)
        return rows

    rows = look_up(page)
    shown = rows[:limit]
    if as_json:
        print_json([documents.entry_summary(row) for row in shown])
    else:
        print_entries(shown)
    if len(rows) > limit:
        options.tell_of_more(limit, shown[-1].id)


def _require_on_record(session: Session, wanted: Filter) -> None:
    """Tell a filter that nothing can match from one that just nothing matches.

    Raises `NotOnRecordError`.
    """
    for option, value, column, known in (
        ("--type", wanted.type, InboxEntry.type, frozenset(NotificationType)),
        ("--reason", wanted.reason, InboxEntry.reason, frozenset(Reason)),
    ):
        if value is None or value in known or has_value(session, column, value):
            continue
        raise NotOnRecordError(option, value, known.union(distinct_values(session, column)))
