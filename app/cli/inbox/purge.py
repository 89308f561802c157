"""`flask inbox purge`: delete old notifications that nothing waits for."""

from datetime import UTC, datetime, timedelta
from functools import partial

import click
from flask.cli import with_appcontext

from app.cli import options
from app.cli.current_service import look_up, the_service
from app.cli.long_running import progress_bar, run_step
from app.cli.tables import moment
from app.inbox_admin import Position, count_ahead, oldest_received_at, purge_batch
from app.maintenance import record_run

_TOO_YOUNG = "notifications younger than two days are kept: Alipay sends them for 24 h 22 min."


@click.command()
@with_appcontext
@click.option(
    "--older-than",
    metavar="AGE",
    type=options.Age(_TOO_YOUNG),
    required=True,
    help="Such as 90d, 72h or 2w; at least 2d.",
)
@options.yes
def purge(older_than: timedelta, *, yes: bool) -> None:
    """Delete notifications that were last received longer ago than that.

    Parked and failed ones stay, whatever their age, and history is never deleted. It asks first; where there is no
    terminal to ask at, as in a nightly job, it does nothing without --yes.
    """
    now = datetime.now(UTC)
    before = now - older_than
    options.confirm(f"This deletes for good what was last received before {moment(before)}.", yes=yes)
    database = the_service().database
    oldest = look_up(oldest_received_at)
    deleted, ahead = 0, look_up(partial(count_ahead, now=now))
    after: Position | None = None
    with progress_bar("Purging", _seconds(oldest or before, before)) as progress:
        while True:
            purged = run_step(partial(database.run, partial(purge_batch, older_than=before, now=now, after=after)))
            deleted += purged.deleted
            ahead += purged.ahead
            if purged.up_to is None:
                break
            after = purged.up_to
            progress.update(_seconds(oldest or before, after[0]) - progress.pos)
    database.run(partial(record_run, name="purge", at=datetime.now(UTC)))
    click.echo(f"Purged {deleted}.")
    if ahead:
        claim = "1 entry claims" if ahead == 1 else f"{ahead} entries claim"
        click.echo(f"{claim} a time to come, and will be kept for as long: look at the clocks.")


def _seconds(start: datetime, end: datetime) -> int:
    return max(0, round((end - start).total_seconds()))
