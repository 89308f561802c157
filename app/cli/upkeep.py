"""Process notifications again, dismiss and purge what nobody needs: `flask inbox process`, `dismiss` and `purge`."""

import logging
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import click
from sqlalchemy.orm import Session
from typing_extensions import override

from app.cli.errors import REFUSED, Refusal
from app.cli.groups import look_up, operating_user, the_service
from app.cli.inbox import entry_id_type, find_entry, inbox
from app.cli.options import Words
from app.cli.pace import do_piece
from app.cli.progress import bar
from app.cli.tables import moment
from app.inbox import OPEN_OUTCOMES, REPLAYABLE_OUTCOMES, Outcome
from app.inbox.upkeep import (
    DISMISSAL_REASON_CHARACTERS_MAX,
    Filter,
    NotParkedError,
    Position,
    count_ahead,
    dismiss as dismiss_entry,
    listing,
    oldest_received_at,
    purge_batch,
    replayable_ids,
)
from app.maintenance import record_run
from app.processing import Processed

_log = logging.getLogger(__name__)

#: Ids are read this many at a time; each entry is processed in a transaction of its own.
_BATCH_SIZE = 1000

#: Alipay redelivers for 24 h 22 min. A purged notification that came again would be taken for a new one.
PURGE_AGE_MIN = timedelta(days=2)

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_AGE = re.compile(r"(?P<number>[0-9]{1,5})(?P<unit>[hdw])")


class NotReplayableError(Refusal):
    """An entry that is to be processed again has been decided for good."""

    def __init__(self, entry_id: int, outcome: str) -> None:
        open_ones = "only those that are parked, failed, dismissed or malformed can end otherwise"
        super().__init__(f"Entry {entry_id} is {outcome}: {open_ones}.")


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
    help="All that ended so; may be given several times.  [default: failed and parked]",
)
def process(entry_ids: tuple[int, ...], outcomes: tuple[str, ...]) -> None:
    """Process notifications again that are parked or failed, by their IDs or all of them.

    Dismissed and malformed ones too, where they are named by ID or outcome: an upgrade may understand what was
    malformed. What that lets move is processed as well. Ends with 1 if one of them failed again.
    """
    if entry_ids and outcomes:
        message = "Give either IDs or --outcome."
        raise click.UsageError(message)
    receiver = the_service().receiver
    tally = Tally()
    entry_ids = tuple(dict.fromkeys(entry_ids))
    if entry_ids:
        look_up(partial(_require_replayable, entry_ids))
    last_id = _newest_id() if not entry_ids else 0
    with bar("Processing", last_id) as progress:
        for entry_id in entry_ids or _replayable_ids(frozenset(map(Outcome, outcomes or OPEN_OUTCOMES)), last_id):
            tally.add(do_piece(partial(receiver.process, entry_id)))
            progress.update(entry_id - progress.pos)
    counts = ", ".join(f"{tally.ended[outcome]} {outcome}" for outcome in Outcome if tally.ended[outcome])
    click.echo(f"Processed {tally.ended.total()}: {counts}." if counts else "There was nothing to process.")
    if tally.ended[Outcome.FAILED]:
        raise click.exceptions.Exit(REFUSED)


class Tally:
    """Counts how entries ended, each once: one that stayed parked may be resumed by another one later."""

    def __init__(self) -> None:
        self.ended: Counter[Outcome] = Counter()
        self._parked: set[int] = set()

    def add(self, processed: Iterable[Processed]) -> None:
        """Count entries as they have ended now."""
        for done in processed:
            if done.entry_id in self._parked:
                self._parked.remove(done.entry_id)
                self.ended[Outcome.PARKED] -= 1
            if done.outcome is Outcome.PARKED:
                self._parked.add(done.entry_id)
            self.ended[done.outcome] += 1


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
@click.argument("entry_ids", metavar="ID...", type=entry_id_type, nargs=-1, required=True)
@click.option(
    "--reason",
    metavar="TEXT",
    type=Words(DISMISSAL_REASON_CHARACTERS_MAX),
    required=True,
    help="Why it is not ours, in your words. It is kept in the clear: name nobody.",
)
def dismiss(entry_ids: tuple[int, ...], reason: str) -> None:
    """Dismiss parked notifications that are not ours, such as a test from the dashboard.

    They are kept, wait for nothing any more, and can be purged; `flask inbox process ID` processes one again. Ends with
    1 if one of them is not parked.
    """
    # That the database is ours, and migrated, before anything is written.
    _ = the_service().vault
    dismissed = 0
    ids = dict.fromkeys(entry_ids)
    for entry_id in ids:
        work = partial(dismiss_entry, entry_id=entry_id, reason=reason)
        try:
            do_piece(partial(the_service().database.run, work))
        except NotParkedError as error:
            click.echo(f"Error: {error}", err=True)
            continue
        dismissed += 1
        _log.warning("notification dismissed", extra={"entry": entry_id, "by": operating_user()})
    click.echo(f"Dismissed {dismissed}.")
    if dismissed < len(ids):
        raise click.exceptions.Exit(REFUSED)


@inbox.command()
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
    with bar("Purging", _seconds(oldest or before, before)) as progress:
        while True:
            purged = do_piece(partial(database.run, partial(purge_batch, older_than=before, now=now, after=after)))
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
