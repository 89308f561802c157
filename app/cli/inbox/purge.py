"""`flask inbox purge`: delete old notifications that nothing waits for."""

import re
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import click
from flask.cli import with_appcontext
from typing_extensions import override

from app.cli import options
from app.cli.current_service import look_up, the_service
from app.cli.long_running import progress_bar, run_step
from app.cli.tables import moment
from app.inbox_admin import Position, count_ahead, oldest_received_at, purge_batch
from app.maintenance import record_run

#: Alipay redelivers for 24 h 22 min. A purged notification that came again would be taken for a new one.
PURGE_AGE_MIN = timedelta(days=2)

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_AGE = re.compile(r"(?P<number>[0-9]{1,5})(?P<unit>[hdw])")


class Age(click.ParamType[timedelta]):
    """A duration such as 90d, 72h or 2w, after which Alipay sends nothing again."""

    name = "age"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read hours, days or weeks."""
        match = _AGE.fullmatch(str(value))
        if match is None:
            self.fail("it must be a number of hours, days or weeks, such as 72h, 90d or 2w.", param, ctx)
        age = int(match["number"]) * _UNITS[match["unit"]]
        if age < PURGE_AGE_MIN:
            self.fail("notifications younger than two days are kept: Alipay sends them for 24 h 22 min.", param, ctx)
        return age


@click.command()
@with_appcontext
@click.option("--older-than", metavar="AGE", type=Age(), required=True, help="Such as 90d, 72h or 2w; at least 2d.")
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
