"""Process notifications again, and purge those that nobody needs any more: `flask inbox process` and `purge`."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import click
from sqlalchemy.orm import Session
from typing_extensions import override

from app.cli.errors import REFUSED, Refusal
from app.cli.groups import look_up, the_service
from app.cli.inbox import entry_id_type, find_entry, inbox
from app.cli.pace import leaving_room
from app.cli.progress import bar
from app.inbox import OPEN_OUTCOMES, REPLAYABLE_OUTCOMES, Outcome
from app.inbox.upkeep import Filter, listing, purge_batch, replayable_ids
from app.maintenance import record_run

#: Ids are read this many at a time; each entry is processed in a transaction of its own.
_BATCH_SIZE = 1000

#: Alipay redelivers for 24 h 22 min. A purged notification that came again would be taken for a new one.
PURGE_AGE_MIN = timedelta(days=2)

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_AGE = re.compile(r"(?P<number>[0-9]{1,5})(?P<unit>[hdw])")


class NotReplayableError(Refusal):
    """An entry that is to be processed again has been decided for good."""

    def __init__(self, entry_id: int, outcome: str) -> None:
        super().__init__(
            f"Entry {entry_id} is {outcome}: only those that are parked, failed or malformed can end otherwise."
        )


class TooYoungError(Refusal):
    """A purge would delete what Alipay may still send again."""

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


@inbox.command()
@click.argument("entry_ids", metavar="[ID]...", type=entry_id_type, nargs=-1)
@click.option(
    "--outcome",
    "outcomes",
    type=click.Choice(sorted(each.value for each in REPLAYABLE_OUTCOMES)),
    multiple=True,
    help="All that ended so; may be repeated.  [default: failed and parked]",
)
def process(entry_ids: tuple[int, ...], outcomes: tuple[str, ...]) -> None:
    """Process notifications again that are parked or failed, by their IDs or all of them.

    Malformed ones too, where they are named by ID or outcome: an upgrade may understand them. What that lets move is
    processed as well. Ends with 1 if one of them failed again.
    """
    if entry_ids and outcomes:
        message = "Give either IDs or --outcome."
        raise click.UsageError(message)
    receiver = the_service().receiver
    ended: Counter[Outcome] = Counter()
    if entry_ids:
        look_up(partial(_require_replayable, entry_ids))
    last_id = _newest_id() if not entry_ids else 0
    with bar("Processing", last_id) as progress:
        for entry_id in entry_ids or _replayable_ids(frozenset(map(Outcome, outcomes or OPEN_OUTCOMES)), last_id):
            with leaving_room():
                ended.update(done.outcome for done in receiver.process(entry_id))
            progress.update(entry_id - progress.pos)
    counts = ", ".join(f"{ended[outcome]} {outcome}" for outcome in Outcome if ended[outcome])
    click.echo(f"Processed {ended.total()}: {counts}." if ended else "There was nothing to process.")
    if ended[Outcome.FAILED]:
        raise click.exceptions.Exit(REFUSED)


def _require_replayable(entry_ids: Iterable[int], session: Session) -> None:
    for entry_id in entry_ids:
        entry = find_entry(session, entry_id)
        if entry.outcome not in REPLAYABLE_OUTCOMES:
            raise NotReplayableError(entry_id, entry.outcome)


def _newest_id() -> int:
    """Find where a walk through the inbox is to end: what comes later is not its business."""
    newest = look_up(partial(listing, wanted=Filter(), limit=1))
    return newest[0].id if newest else 0


def _replayable_ids(outcomes: frozenset[Outcome], last_id: int) -> Iterator[int]:
    after = 0
    while ids := look_up(partial(replayable_ids, outcomes=outcomes, after=after, limit=_BATCH_SIZE)):
        yield from (entry_id for entry_id in ids if entry_id <= last_id)
        after = ids[-1]


@inbox.command()
@click.option("--older-than", metavar="AGE", type=Age(), required=True, help="Such as 90d, 36h or 2w; at least 2d.")
def purge(older_than: timedelta) -> None:
    """Delete notifications that were last received longer ago than that.

    Parked and failed ones stay, whatever their age, and history is never deleted.
    """
    if older_than < PURGE_AGE_MIN:
        raise TooYoungError
    before = datetime.now(UTC) - older_than
    deleted = after = 0
    with bar("Purging", _newest_id()) as progress:
        while True:
            with leaving_room():
                purged = the_service().database.run(partial(purge_batch, older_than=before, after=after))
            deleted += purged.deleted
            if purged.up_to is None:
                break
            progress.update(purged.up_to - after)
            after = purged.up_to
    the_service().database.run(partial(record_run, name="purge", at=datetime.now(UTC)))
    click.echo(f"Purged {deleted}.")
