"""`flask inbox process`: process stored notifications again."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app.cli.current_service import look_up, the_service
from app.cli.errors import REFUSED, Refusal
from app.cli.inbox.entries import entry_id_type, find_entry
from app.cli.long_running import progress_bar, run_step
from app.inbox_admin import Filter, listing, replayable_ids
from app.processing import Processed
from app.vocabulary import OPEN_OUTCOMES, REPLAYABLE_OUTCOMES, Outcome

#: Ids are read this many at a time; each entry is processed in a transaction of its own.
_BATCH_SIZE = 1000


class NotReplayableError(Refusal):
    """The outcome of an entry that is to be processed again is final."""

    def __init__(self, entry_id: int, outcome: str) -> None:
        open_ones = "only those that are parked, failed, dismissed or malformed can end otherwise"
        super().__init__(f"Entry {entry_id} is {outcome}: {open_ones}.")


@click.command()
@with_appcontext
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
    with progress_bar("Processing", last_id) as progress:
        for entry_id in entry_ids or _replayable_ids(frozenset(map(Outcome, outcomes or OPEN_OUTCOMES)), last_id):
            tally.add(run_step(partial(receiver.replay, entry_id)))
            progress.update(entry_id - progress.pos)
    counts = ", ".join(_said(tally.ended[outcome], outcome) for outcome in Outcome if tally.ended[outcome])
    click.echo(f"Processed {tally.ended.total()}: {counts}." if counts else "There was nothing to process.")
    if tally.ended[Outcome.FAILED]:
        raise click.exceptions.Exit(REFUSED)


def _said(count: int, outcome: Outcome) -> str:
    """Say how many ended so. What was parked before has not ended at all."""
    if outcome is not Outcome.PARKED:
        return f"{count} {outcome}"
    return f"{count} {'is' if count == 1 else 'are'} still parked"


class Tally:
    """Counts outcomes, each entry once: a later entry may resume one that stayed parked."""

    def __init__(self) -> None:
        self.ended: Counter[Outcome | str] = Counter()
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
    """Find the newest entry: those that arrive while the command runs are left out."""
    newest = look_up(partial(listing, wanted=Filter(), limit=1))
    return newest[0].id if newest else 0


def _replayable_ids(outcomes: frozenset[Outcome], last_id: int) -> Iterator[int]:
    after = 0
    while ids := look_up(partial(replayable_ids, outcomes=outcomes, after=after, limit=_BATCH_SIZE)):
        yield from (entry_id for entry_id in ids if entry_id <= last_id)
        after = ids[-1]
