"""Attempts that have ended and are not on record yet: recorded in batches, and one by one where a batch breaks.

Those that end within a moment share one transaction. While the database is away they are kept, and tried again.
"""

import logging
import random
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from math import inf
from uuid import UUID

from app import metrics
from app.alipay.call import Done, Refused, Unknown
from app.database import DatabaseUnavailableError
from app.events.persistence import Persistence
from app.gateway import recording
from app.gateway.abandoned import AbandonedAttempts
from app.gateway.attempts import Answer, BegunAttempt, EndedAttempt
from app.gateway.recorded_call import count_and_log
from app.limits import CALL_ABANDONED_SECONDS, CALLS_RECORD_SECONDS
from app.logs import failure
from app.receiver import Receiver

_log = logging.getLogger(__name__)

#: After trouble with the database, and where somebody holds a row.
_PAUSE_SECONDS = 1.0


class UnrecordedAttempts:
    """The attempts of one worker that have ended, until they are on record."""

    def __init__(
        self,
        receiver: Callable[[], Receiver],
        *,
        in_flight: dict[UUID, BegunAttempt],
        abandoned: AbandonedAttempts,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        """Take what the worker makes, by the call's id: an attempt that is dealt with is removed from there."""
        self._receiver = receiver
        self._in_flight = in_flight
        self._abandoned = abandoned
        self._clock = clock
        self._monotonic = monotonic
        self._ended: list[EndedAttempt] = []
        self._record_at = 0.0
        #: Those that need rows that somebody holds, and from when on each is tried again.
        self._held: list[tuple[float, EndedAttempt]] = []
        self._recording = Persistence("recording calls")

    def __len__(self) -> int:
        return len(self._ended) + len(self._held)

    @property
    def record_at(self) -> float:
        """When the next batch is to be recorded, by the monotonic clock; infinity without one."""
        return self._record_at if self._ended else inf

    def add(self, ended: EndedAttempt) -> None:
        """Take an attempt that has ended, to be recorded with those that end within a moment."""
        if not self._ended:
            self._record_at = self._monotonic() + CALLS_RECORD_SECONDS
        self._ended.append(ended)

    def record_when_due(self) -> None:
        """Record the batch, if it is time for that. Nothing that the database does raises here."""
        now = self._monotonic()
        self._ended += [ended for at, ended in self._held if at <= now]
        self._held = [each for each in self._held if each[0] > now]
        if self._ended and now >= self._record_at and not self._recording.try_once(self._record):
            self._record_at = self._monotonic() + _PAUSE_SECONDS

    def _record(self) -> None:
        """Put on record what has ended: together, and where that breaks, each by itself."""
        receiver = self._receiver()
        try:
            self._record_together(receiver, self._ended, has_savepoints=False)
        except DatabaseUnavailableError as error:
            if not error.is_held_row:
                raise
            self._record_each(receiver)
        except Exception:  # noqa: BLE001 -- it is one of them, and shows below
            self._record_each(receiver)
        self._ended.clear()

    def _record_each(self, receiver: Receiver) -> None:
        """Put each by itself on record. One that needs a row that somebody holds is tried again in a moment."""
        while self._ended:
            ended = self._ended[0]
            try:
                self._record_together(receiver, [ended], has_savepoints=True)
            except DatabaseUnavailableError as error:
                if not error.is_held_row:
                    raise
                self._held.append((self._monotonic() + _PAUSE_SECONDS, ended))
            except Exception as error:  # noqa: BLE001 -- the others are to be recorded; this one is repeated
                self._abandon(ended, error)
            del self._ended[0]

    def _record_together(self, receiver: Receiver, ended: Sequence[EndedAttempt], *, has_savepoints: bool) -> None:
        now = self._clock()
        recorded = receiver.run_work(
            partial(recording.record_attempts, ended=ended, now=now, spread=random.random),
            has_savepoints=has_savepoints,
            waits_for_held_rows=False,
        )
        for each in ended:
            self._in_flight.pop(each.attempt.call_id, None)
            metrics.CALL_ATTEMPTS.inc(each.attempt.kind, _outcome(each.answer))
        answers = {each.attempt.call_id: each.answer for each in ended}
        for call in recorded:
            count_and_log(call, now=now, answer=answers[call.call.id])
            if call.recorded is not None:
                receiver.note_resumed(call.recorded)

    def _abandon(self, ended: EndedAttempt, error: Exception) -> None:
        """Leave in flight what cannot be recorded: its call is repeated as if nobody had answered."""
        attempt, outcome = ended.attempt, _outcome(ended.answer)
        _log.error("call not recorded", extra={"call": attempt.call_id, "outcome": outcome, **failure(error)})
        self._in_flight.pop(attempt.call_id, None)
        self._abandoned.add(attempt.key, seconds=CALL_ABANDONED_SECONDS)


def _outcome(answer: Answer) -> str:
    match answer:
        case Done():
            return "done"
        case Refused():
            return "refused"
        case Unknown():
            return "unknown"
