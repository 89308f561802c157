"""Leases: what one background worker at a time may do, whichever of them lives.

A holder raises the beat of its lease every few seconds. Another takes the lease when it has seen the same beat
for longer than a holder may go without one, by its own monotonic clock: no two machines' clocks are compared. One whose
process has ended, on the same machine, is known to be gone, so that its lease is taken at once. A holder
that could not raise its beat for 5 s starts nothing new, and after 8 s another may begin. What was started before may
overlap with that: a request takes up to 10 s, so that a webhook can be sent twice.
"""

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.database.bulk import insertion
from app.database.pipeline import execute, plain
from app.events.backlog import SILENCE_MAX
from app.models import Lease
from app.process_name import has_ended

#: The lease of the background worker that makes calls to Alipay.
CALLS = "calls"
#: How often a holder raises the beat.
BEAT_SECONDS = 2.0
#: A beat that stood still for so long belongs to a background worker that is gone.
TAKEOVER_SECONDS = 8.0
#: A holder that has not raised its beat for so long starts nothing new. Requests in flight may overlap the next holder.
HELD_SECONDS = 5.0
#: What stands between the name of a holder and that of its process.
_OF_PROCESS = " "


def is_held(session: Session, name: str, *, now: datetime) -> bool:
    """Say, for people, whether a living background worker holds a lease. It decides nothing."""
    lease = session.get(Lease, name)
    if lease is None or lease.holder is None:
        return False
    _, _, process = lease.holder.partition(_OF_PROCESS)
    return not has_ended(process) and now - lease.at < SILENCE_MAX


@dataclass(slots=True)
class _Seen:
    beat: int
    since: float


class Leases:
    """The leases that one background worker holds or waits for. Used by one thread; `holds` by any."""

    def __init__(
        self, name: str, *, process: str | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Take a name, which one that takes the place of a worker that has ended has from that, and its process's."""
        self._name = name
        self.holder = name if process is None else f"{name}{_OF_PROCESS}{process}"
        self._monotonic = monotonic
        #: When each lease was last renewed: what was not renewed since is not held.
        self._renewed: dict[str, float] = {}
        self._seen: dict[str, _Seen] = {}

    def holds(self, name: str) -> bool:
        """Say whether this background worker, and no other, may do this now."""
        renewed = self._renewed.get(name)
        return renewed is not None and self._monotonic() - renewed < HELD_SECONDS

    def renew(self, session: Session, names: Collection[str], *, now: datetime) -> Callable[[], None]:
        """Raise the beats of what is held, and take what nobody holds any more.

        Call what is returned once the transaction is committed: until then nothing is held anew.
        """
        asked = self._monotonic()
        found = {each.name: each for each in session.scalars(select(Lease).where(Lease.name.in_(names)))}
        held: set[str] = set()
        for name in sorted(names):
            lease = found.get(name)
            if lease is None:
                # Of several that have not found it one inserts it; the others find it the next time.
                row = plain(Lease)(name=name, holder=self.holder, beat=1, at=now)
                statement = insertion(Lease, [row], on_conflict="leave", returning=[Lease.name])
                (inserted,) = execute(session.connection(), statement)
                held |= {name} if inserted.rows else set()
            elif self._is_free(lease) and self._raise_beat(session, lease, now):
                held.add(name)
        return lambda: self._note(names, held, asked)

    def release(self, session: Session, names: Collection[str] | None = None) -> None:
        """Give back what is held, all or these, so that another worker need not wait."""
        given_back = update(Lease).where(Lease.holder == self.holder).values(holder=None)
        session.execute(given_back if names is None else given_back.where(Lease.name.in_(names)))
        for name in list(self._renewed) if names is None else names:
            self._renewed.pop(name, None)

    def _is_free(self, lease: Lease) -> bool:
        """Say whether this background worker may take a lease, or keep it."""
        name, _, process = (lease.holder or "").partition(_OF_PROCESS)
        if lease.holder is None or name == self._name or has_ended(process):
            return True
        seen = self._seen.get(lease.name)
        if seen is None or seen.beat != lease.beat:
            self._seen[lease.name] = _Seen(lease.beat, self._monotonic())
            return False
        return self._monotonic() - seen.since >= TAKEOVER_SECONDS

    def _raise_beat(self, session: Session, lease: Lease, now: datetime) -> bool:
        """Write the next beat, unless another worker has written one."""
        statement = (
            update(Lease)
            .where(Lease.name == lease.name, Lease.beat == lease.beat)
            .values(holder=self.holder, beat=lease.beat + 1, at=now)
            .returning(Lease.name)
            .execution_options(synchronize_session=False)
        )
        return session.scalars(statement).one_or_none() is not None

    def _note(self, names: Iterable[str], held: Collection[str], asked: float) -> None:
        for name in names:
            if name in held:
                self._renewed[name] = asked
                self._seen.pop(name, None)
            else:
                self._renewed.pop(name, None)
