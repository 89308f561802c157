"""Make the calls that are due: those that a user waits for first, several at once, one at a time for an authorization.

One background worker at a time does, the one that has the lease. Each attempt is on record before its request goes out.
A worker that takes the lease over repeats what was in flight only once no request of the other can be under way.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from queue import Empty, SimpleQueue
from typing import Protocol
from uuid import UUID

from app import call_statements, metrics, tokens
from app.alipay.call import SECONDS_MAX, Caller, Done, Operation, Refused, Unknown
from app.alipay.keyring import Keyring
from app.authorizations import Cause
from app.call_statements import AttemptKey
from app.database import Database, DatabaseUnavailableError
from app.database.clock import clock_lead
from app.events.persistence import Persistence
from app.gateway import recording, requests
from app.gateway.choosing import DueCalls, Job
from app.gateway.endings import Answer
from app.gateway.recording import EndedAttempt, EndedCall
from app.key_locks import AuthStateKey
from app.limits import (
    CALL_ABANDONED_SECONDS,
    CALLS_AT_ONCE_MAX,
    CALLS_POLL_SECONDS,
    CALLS_RECORD_SECONDS,
    CLIENT_CALLS_AT_ONCE_MAX,
    REFRESHES_AT_ONCE_MAX,
)
from app.logs import failure
from app.receiver import Receiver
from app.vault import Vault
from app.vocabulary import CallKind, CallStatus, CauseKind

_log = logging.getLogger(__name__)

#: How often to look which tokens are to be refreshed, and which calls have missed their deadline.
_LOOK_SECONDS = 1.0
_PLAN_SECONDS = 30.0
#: Calls past their deadline that are ended together.
_PAGE = 100
#: Rows that one transaction plans.
_PLANNED_MAX = 200
#: After trouble with the database.
_PAUSE_SECONDS = 1.0

_OPERATIONS = {
    CallKind.CONSULT: Operation.CONSULT,
    CallKind.EXCHANGE: Operation.APPLY_TOKEN,
    CallKind.REFRESH: Operation.APPLY_TOKEN,
    CallKind.REVOKE: Operation.REVOKE,
}


class Parts(Protocol):
    """What making calls needs of the service, each made when it is first asked for."""

    @property
    def database(self) -> Database:
        """Where everything is."""

    @property
    def keyring(self) -> Keyring:
        """Who is called, and with which keys."""

    @property
    def vault(self) -> Vault:
        """What opens requests."""

    @property
    def receiver(self) -> Receiver:
        """What records."""


class CallRunner:
    """Makes the calls of all clients, from a thread of its own and some for the requests."""

    def __init__(
        self,
        service: Parts,
        *,
        may_call: Callable[[], bool] = lambda: True,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the parts of the service, and what says whether this worker has the lease."""
        self._service = service
        self._may_call = may_call
        self._clock = clock
        self._monotonic = monotonic
        self._callers: dict[str, Caller] = {}
        self._requests: SimpleQueue[Job | None] = SimpleQueue()
        #: What has ended; `None` only wakes.
        self._ended: SimpleQueue[tuple[Job, Answer] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._due = DueCalls(monotonic)
        self._in_flight: dict[UUID, Job] = {}
        self._unrecorded: list[tuple[Job, Answer]] = []
        #: What waits for rows that somebody holds, and from when on it is tried again.
        self._held: list[tuple[float, Job, Answer]] = []
        self._record_at = 0.0
        #: By how much the database's clock is ahead of this machine's.
        self._clock_lead = timedelta(0)
        #: What is in flight without being made here, and from when on it can be repeated. That holds whoever had the
        #: lease since: an attempt that another has begun has another number.
        self._abandoned: dict[AttemptKey, float] = {}
        self._poll_at = self._look_at = self._plan_at = 0.0
        self._looking = Persistence("looking which calls are due")
        self._recording = Persistence("recording calls")
        self._tending = Persistence("tending calls")
        self._starting = Persistence("starting a thread for calls")

    # --- the loop ---

    def run_until(self, stop: threading.Event) -> None:
        """Make calls until told to stop; then wait for what is in flight, no longer than a request may take.

        Nothing that a gateway or the database does raises here.
        """
        while not stop.is_set():
            self._turn(self._seconds_to_wait())
            self._make_more()
        over_at = self._monotonic() + SECONDS_MAX + 1
        while (self._in_flight or self._unrecorded or self._held) and self._monotonic() < over_at:
            self._turn(CALLS_RECORD_SECONDS)
        for _ in self._threads:
            self._requests.put(None)
        for caller in self._callers.values():
            caller.close()

    def _seconds_to_wait(self) -> float:
        until = min(self._poll_at, self._record_at) if self._unrecorded else self._poll_at
        return min(CALLS_POLL_SECONDS, max(0.0, until - self._monotonic()))

    def _turn(self, seconds: float) -> None:
        """Wait for what ends, but not for longer, and record it."""
        try:
            ended = self._ended.get(timeout=seconds)
            while True:
                if ended is not None:
                    if not self._unrecorded:
                        self._record_at = self._monotonic() + CALLS_RECORD_SECONDS
                    self._unrecorded.append(ended)
                ended = self._ended.get_nowait()
        except Empty:
            pass
        now = self._monotonic()
        self._unrecorded += [(job, answer) for at, job, answer in self._held if at <= now]
        self._held = [each for each in self._held if each[0] > now]
        is_time = self._unrecorded and now >= self._record_at
        if is_time and not self._recording.try_once(self._record):
            self._record_at = self._monotonic() + _PAUSE_SECONDS

    def _make_more(self) -> None:
        now = self._monotonic()
        if now < self._poll_at:
            return
        self._poll_at = now + CALLS_POLL_SECONDS
        if not self._may_call():
            return
        # First, since the clocks are compared there.
        if now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            self._tending.try_once(self._tend)
        if not self._looking.try_once(self._look):
            self._poll_at = now + _PAUSE_SECONDS

    # --- what is due ---

    def _look(self) -> None:
        """Begin an attempt at each call that is due, as far as there is room, and send the requests."""
        database = self._service.database
        self._release_abandoned(database)
        room = CALLS_AT_ONCE_MAX - len(self._in_flight)
        now = self._database_time()
        if room <= 0 or not database.run(partial(call_statements.is_any_due, now=now), read_only=True):
            return
        # Opened beforehand: that may ask the database, which is not to be asked from within a transaction.
        vault = self._service.vault
        begin = partial(
            self._due.begin,
            vault=vault,
            keyring=self._service.keyring,
            in_flight=self._in_flight.values(),
            room=room,
            now=now,
        )
        jobs = database.run(begin)
        # Asked again: the transaction may have taken longer than the lease is held.
        if not self._may_call():
            for job in jobs:
                self._abandoned[job.attempt] = self._monotonic()
            return
        for job in jobs:
            if len(self._threads) <= len(self._in_flight) and not self._starting.try_once(self._start_thread):
                # Nothing was sent, so that it can be tried again as soon as there is room.
                self._abandoned[job.attempt] = self._monotonic() + _PAUSE_SECONDS
                continue
            self._in_flight[job.call_id] = job
            self._requests.put(job)

    def _start_thread(self) -> None:
        """Start one more thread for requests. Raises `RuntimeError` where the system has no room for it."""
        # Not waited for at the end of the process: a resolver may keep one for longer than its time.
        thread = threading.Thread(target=self._request, name="call", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _request(self) -> None:
        while (job := self._requests.get()) is not None:
            try:
                answer = self._caller(job.auth_state_key[0]).call(_OPERATIONS[job.kind], job.body, now=self._clock())
            except Exception as error:  # noqa: BLE001 -- a fault of ours is on record as one, and the thread goes on
                _log.error("call broke", extra={"call": job.call_id, **failure(error)})
                answer = Unknown(f"The service could not make it: {type(error).__name__}.", None, None, 0)
            self._ended.put((job, answer))

    def _caller(self, client_id: str) -> Caller:
        caller = self._callers.get(client_id)
        if caller is None:
            # Two threads may make one at the same moment; then one of the two is let go, which does no harm.
            client = self._service.keyring.client(client_id)
            caller = self._callers.setdefault(client_id, Caller(client, pool_size=CLIENT_CALLS_AT_ONCE_MAX))
        return caller

    # --- what has ended ---

    def _record(self) -> None:
        """Put on record what has ended: together, and where that breaks, each by itself."""
        receiver = self._service.receiver
        try:
            self._record_together(receiver, self._unrecorded, has_savepoints=False)
        except DatabaseUnavailableError as error:
            if not error.is_held_row:
                raise
            self._record_each(receiver)
        except Exception:  # noqa: BLE001 -- it is one of them, and shows below
            self._record_each(receiver)
        self._unrecorded.clear()

    def _record_each(self, receiver: Receiver) -> None:
        """Put each by itself on record. One that needs a row that somebody holds is tried again in a moment."""
        while self._unrecorded:
            job, answer = self._unrecorded[0]
            try:
                self._record_together(receiver, self._unrecorded[:1], has_savepoints=True)
            except DatabaseUnavailableError as error:
                if not error.is_held_row:
                    raise
                self._held.append((self._monotonic() + _PAUSE_SECONDS, job, answer))
            except Exception as error:  # noqa: BLE001 -- the others are to be recorded; this one is repeated
                self._set_aside(job, answer, error)
            del self._unrecorded[0]

    def _record_together(
        self, receiver: Receiver, ended: Sequence[tuple[Job, Answer]], *, has_savepoints: bool
    ) -> None:
        now = self._clock()
        attempts = [
            EndedAttempt(job.call_id, job.number, job.auth_state_key, job.subject_index, answer)
            for job, answer in ended
        ]
        done = receiver.run_work(
            partial(recording.record_attempts, ended=attempts, now=now, spread=random.random),
            has_savepoints=has_savepoints,
            waits_for_held_rows=False,
        )
        for job, answer in ended:
            self._in_flight.pop(job.call_id, None)
            metrics.CALL_ATTEMPTS.inc(job.kind, _outcome(answer))
        answers = {job.call_id: answer for job, answer in ended}
        for each in done:
            _count_and_log(each, now=now, answer=answers.get(each.call.id))
            if each.recorded is not None:
                receiver.note_resumed(each.recorded)

    def _set_aside(self, job: Job, answer: Answer, error: Exception) -> None:
        """Leave in flight what cannot be recorded: it is then repeated as if nobody had answered."""
        _log.error("call not recorded", extra={"call": job.call_id, "outcome": _outcome(answer), **failure(error)})
        self._in_flight.pop(job.call_id, None)
        self._abandoned[job.attempt] = self._monotonic() + CALL_ABANDONED_SECONDS

    # --- what others left, and what time brings ---

    def _database_time(self) -> datetime:
        """Say what the database's clock shows: calls are due by that, whichever machine began them."""
        return self._clock() + self._clock_lead

    def _compare_clocks(self, database: Database) -> None:
        self._clock_lead = database.run(clock_lead, read_only=True)

    def _note_abandoned(self, database: Database) -> None:
        """See what is in flight and not made here: a worker before began it, or the answer to our commit was lost."""
        left = database.run(call_statements.in_flight, read_only=True)
        # Asked again: what another has begun may go out a while after it is on record.
        if not self._may_call():
            return
        until = self._monotonic() + CALL_ABANDONED_SECONDS
        for each in left:
            call_id, _ = each
            if call_id not in self._in_flight:
                self._abandoned.setdefault(each, until)

    def _release_abandoned(self, database: Database) -> None:
        now = self._monotonic()
        over = [each for each, until in self._abandoned.items() if until <= now]
        if over:
            database.run(partial(call_statements.release, attempts=over, now=self._database_time()))
            for each in over:
                del self._abandoned[each]

    def _tend(self) -> None:
        """End what is past its deadline, and begin the refreshes that are due."""
        database, receiver, now = self._service.database, self._service.receiver, self._clock()
        self._compare_clocks(database)
        self._note_abandoned(database)
        overdue = database.run(partial(call_statements.overdue, now=self._database_time(), limit=_PAGE), read_only=True)
        if overdue and not self._end_overdue(receiver, overdue, now=now):
            for each in overdue:
                self._end_overdue(receiver, [each], now=now)
        refreshing = [
            each.client_id
            for each in self._service.keyring.clients.values()
            if each.gateway is not None and each.gateway.refresh
        ]
        if not refreshing:
            return
        if self._monotonic() >= self._plan_at:
            plan = partial(tokens.plan_refreshes, client_ids=refreshing, limit=_PLANNED_MAX)
            if database.run(plan) == 0:
                self._plan_at = self._monotonic() + _PLAN_SECONDS
        due = partial(tokens.refreshes_due, client_ids=refreshing, now=now, limit=2 * REFRESHES_AT_ONCE_MAX)
        cause = Cause(CauseKind.GATEWAY, at=now)
        for authorization_id in database.run(due, read_only=True):
            begin = partial(requests.begin_due_refresh, authorization_id=authorization_id, cause=cause)
            self._try_each(partial(receiver.run_work, begin, waits_for_held_rows=False), "refresh not begun")

    def _end_overdue(self, receiver: Receiver, overdue: Sequence[tuple[UUID, AuthStateKey]], *, now: datetime) -> bool:
        """End what is past its deadline, and say whether that went well."""

        def end() -> None:
            work = partial(recording.end_overdue, overdue=overdue, now=now)
            for each in receiver.run_work(work, waits_for_held_rows=False):
                _count_and_log(each, now=now)

        return self._try_each(end, "calls not ended")

    def _try_each(self, do: Callable[[], object], what: str) -> bool:
        """Do one of several things, and say whether that went well: what breaks keeps nothing else from being done."""
        try:
            do()
        except DatabaseUnavailableError as error:
            if not error.is_held_row:
                raise
            return False
        except Exception as error:  # noqa: BLE001 -- as the docstring says
            _log.error(what, extra=failure(error))
            return False
        return True


def _outcome(answer: Answer) -> str:
    match answer:
        case Done():
            return "done"
        case Refused():
            return "refused"
        case Unknown():
            return "unknown"


def _count_and_log(ended: EndedCall, *, now: datetime, answer: Answer | None = None) -> None:
    call = ended.call
    fields = {
        "call": call.id,
        "kind": call.kind,
        "status": call.status,
        "attempts": call.attempts,
        "result_code": call.result_code,
        "authorization": call.authorization_id,
    }
    if answer is None or (isinstance(answer, Unknown) and answer.http_status is None):
        why = call.reason if answer is None else answer.why
        _log.warning("call not answered", extra={**fields, "reason": why})
    else:
        _log.log(logging.WARNING if call.status in _BAD else logging.INFO, "call answered", extra=fields)
    if ended.is_over:
        metrics.CALLS.inc(call.kind, call.status)
    if call.status == CallStatus.DONE and ended.code_received_at is not None:
        metrics.CODE_TO_TOKEN.observe((now - ended.code_received_at).total_seconds())


_BAD = frozenset({CallStatus.FAILED, CallStatus.UNDETERMINED})
