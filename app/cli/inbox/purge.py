"""`flask inbox purge`: delete old notifications that nothing waits for."""

import re
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import click
from flask.cli import with_appcontext
from typing_extensions import override

from app.cli.current_service import look_up, the_service
from app.cli.errors import Refusal
from app.cli.long_running import progress_bar, run_step
from app.cli.tables import moment
from app.inbox.upkeep import Position, count_ahead, oldest_received_at, purge_batch
from app.maintenance import record_run

#: Alipay redelivers for 24 h 22 min. A purged notification that came again would be taken for a new one.
PURGE_AGE_MIN = timedelta(days=2)

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_AGE = re.compile(r"(?P<number>[0-9]{1,5})(?P<unit>[hdw])")


class TooYoungError(Refusal):
    """A purge would delete notifications that Alipay may still redeliver."""

    def __init__(self) -> None:
        super().__init__("Notifications younger than two days are kept: Alipay sends them again for 24 h 22 min.")


class Age(click.ParamType[timedelta]):
    """A duration such as 90d, 36h or 2w."""

    name = "age"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read hours, days or weeks."""
        match = _AGE.fullmatch(str(value))
        if match is None:
            self.fail("it must be a number of hours, days or weeks, such as 36h, 90d or 2w.", param, ctx)
        return int(match["number"]) * _UNITS[match["unit"]]


@click.command()
@with_appcontext
@click.option("--older-than", metavar="AGE", type=Age(), required=True, help="Such as 90d, 36h or 2w; at least 2d.")
@click.option("--yes", is_flag=True, help="Do not ask first, as a command that is run by a timer never does.")
def purge(older_than: timedelta, *, yes: bool) -> None:
    """Delete notifications that were last received longer ago than that.

    Parked and failed ones stay, whatever their age, and history is never deleted. At a terminal it asks first.
    """
    if older_than < PURGE_AGE_MIN:
        raise TooYoungError
    now = datetime.now(UTC)
    before = now - older_than
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete for good what was last received before {moment(before)}?", abort=True)
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
