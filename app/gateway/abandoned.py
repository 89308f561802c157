"""Attempts that nobody makes any more and that have no end on record: their calls are repeated after a while.

A worker that died has left them, or an answer of the database was lost. Their calls are due again once no request of
theirs can be under way.
"""

from collections.abc import Callable, Container
from datetime import datetime
from functools import partial
from uuid import UUID

from app import call_statements
from app.call_statements import AttemptKey
from app.database import Database
from app.limits import CALL_ABANDONED_SECONDS


class AbandonedAttempts:
    """What one worker knows of abandoned attempts, and from when on it may repeat their calls.

    Another worker may have had the lease in the meantime: what that one has begun has another number.
    """

    def __init__(self, *, may_call: Callable[[], bool], monotonic: Callable[[], float]) -> None:
        self._may_call = may_call
        self._monotonic = monotonic
        self._release_at: dict[AttemptKey, float] = {}

    def __len__(self) -> int:
        return len(self._release_at)

    def add(self, attempt: AttemptKey, *, seconds: float) -> None:
        """Take an attempt that this worker has begun and does not make, and repeat its call after so many seconds."""
        self._release_at[attempt] = self._monotonic() + seconds

    def find(self, database: Database, *, made_here: Container[UUID]) -> None:
        """Look which attempts have no end on record and are of calls that this worker does not make."""
        found = database.run(call_statements.attempts_in_flight, read_only=True)
        # Asked again: what the next holder of the lease has begun may go out a while after it is on record.
        if not self._may_call():
            return
        release_at = self._monotonic() + CALL_ABANDONED_SECONDS
        for each in found:
            call_id, _ = each
            if call_id not in made_here:
                self._release_at.setdefault(each, release_at)

    def release(self, database: Database, *, now: datetime) -> None:
        """Make the calls due again whose attempts were abandoned long enough ago, by the database's time `now`."""
        over = [each for each, at in self._release_at.items() if at <= self._monotonic()]
        if over:
            database.run(partial(call_statements.release, attempts=over, now=now))
            for each in over:
                del self._release_at[each]
