"""Make the calls that are due: those that a user waits for first, several at once, one at a time for an authorization.

One background worker at a time does, the one that has the lease. Each attempt is on record before its request goes out.
A worker that takes the lease over repeats what was in flight only once no request of the other can be under way.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from queue import Empty, SimpleQueue
from typing import Protocol
from uuid import UUID

from app import call_statements
from app.alipay.call import SECONDS_MAX, Caller, Operation, Unknown
from app.alipay.keyring import Keyring
from app.database import Database
from app.database.clock import clock_lead
from app.events.persistence import Persistence
from app.gateway import deadlines
from app.gateway.abandoned import AbandonedAttempts
from app.gateway.attempts import BegunAttempt, EndedAttempt
from app.gateway.choosing import DueCalls
from app.gateway.deadlines import Refreshes
from app.gateway.unrecorded import UnrecordedAttempts
from app.limits import CALLS_AT_ONCE_MAX, CALLS_POLL_SECONDS, CALLS_RECORD_SECONDS, CLIENT_CALLS_AT_ONCE_MAX
from app.logs import failure
from app.receiver import Receiver
from app.vault import Vault
from app.vocabulary import CallKind

_log = logging.getLogger(__name__)

#: How often deadlines, due refreshes and abandoned attempts are looked for, and the clocks compared.
_DEADLINES_SECONDS = 1.0
#: After trouble with the database, or with a thread that could not be started.
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
        #: By how much the database's clock is ahead of this machine's.
        self._clock_lead = timedelta(0)
        self._due = DueCalls(monotonic)
        self._refreshes = Refreshes(monotonic)
        #: The attempts that this worker makes, by the ids of their calls.
        self._in_flight: dict[UUID, BegunAttempt] = {}
        self._abandoned = AbandonedAttempts(may_call=may_call, monotonic=monotonic)
        self._unrecorded = UnrecordedAttempts(
            lambda: service.receiver,
            in_flight=self._in_flight,
            abandoned=self._abandoned,
            clock=clock,
            monotonic=monotonic,
        )
        self._to_send: SimpleQueue[BegunAttempt | None] = SimpleQueue()
        self._ended: SimpleQueue[EndedAttempt] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._callers: dict[str, Caller] = {}
        self._poll_at = self._deadlines_at = 0.0
        self._beginning = Persistence("looking which calls are due")
        self._keeping_deadlines = Persistence("ending overdue calls and beginning refreshes")
        self._starting = Persistence("starting a thread for calls")

    # --- the loop ---

    def run_until(self, stop: threading.Event) -> None:
        """Make calls until told to stop; then wait for what is in flight, no longer than a request may take.

        Nothing that a gateway or the database does raises here.
        """
        while not stop.is_set():
            self._record(self._seconds_to_wait())
            self._poll()
        over_at = self._monotonic() + SECONDS_MAX + 1
        while (self._in_flight or len(self._unrecorded)) and self._monotonic() < over_at:
            self._record(CALLS_RECORD_SECONDS)
        for _ in self._threads:
            self._to_send.put(None)
        for caller in self._callers.values():
            caller.close()

    def _seconds_to_wait(self) -> float:
        until = min(self._poll_at, self._unrecorded.record_at)
        return min(CALLS_POLL_SECONDS, max(0.0, until - self._monotonic()))

    def _record(self, seconds: float) -> None:
        """Wait for attempts that end, but not for longer, and record those that have ended."""
        try:
            self._unrecorded.add(self._ended.get(timeout=seconds))
            while True:
                self._unrecorded.add(self._ended.get_nowait())
        except Empty:
            pass
        self._unrecorded.record_when_due()

    def _poll(self) -> None:
        """Begin what is due, if it is time to look for that and this worker has the lease."""
        now = self._monotonic()
        if now < self._poll_at:
            return
        self._poll_at = now + CALLS_POLL_SECONDS
        if not self._may_call():
            return
        # First, since the clocks are compared there.
        if now >= self._deadlines_at:
            self._deadlines_at = now + _DEADLINES_SECONDS
            self._keeping_deadlines.try_once(self._keep_deadlines)
        if not self._beginning.try_once(self._begin_due):
            self._poll_at = now + _PAUSE_SECONDS

    # --- what is due ---

    def _keep_deadlines(self) -> None:
        """Compare the clocks, look what others have left, end what is overdue, and begin the refreshes that are due."""
        database, receiver, now = self._service.database, self._service.receiver, self._clock()
        self._clock_lead = database.run(clock_lead, read_only=True)
        self._abandoned.find(database, made_here=self._in_flight)
        deadlines.end_overdue(database, receiver, now=now, database_time=self._database_time())
        self._refreshes.begin_due(database, receiver, self._service.keyring, now=now)

    def _begin_due(self) -> None:
        """Begin an attempt at each call that is due, as far as there is room, and hand them to the threads."""
        database = self._service.database
        self._abandoned.release(database, now=self._database_time())
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
        begun = database.run(begin)
        # Asked again: the transaction may have taken longer than the lease is held.
        if not self._may_call():
            for attempt in begun:
                self._abandoned.add(attempt.key, seconds=0)
            return
        for attempt in begun:
            if len(self._threads) <= len(self._in_flight) and not self._starting.try_once(self._start_thread):
                # Nothing was sent, so that it can be tried again as soon as there is room.
                self._abandoned.add(attempt.key, seconds=_PAUSE_SECONDS)
                continue
            self._in_flight[attempt.call_id] = attempt
            self._to_send.put(attempt)

    def _database_time(self) -> datetime:
        """Say what the database's clock shows: calls are due by that, whichever machine began them."""
        return self._clock() + self._clock_lead

    # --- requests ---

    def _start_thread(self) -> None:
        """Start one more thread for requests. Raises `RuntimeError` where the system has no room for it."""
        # Not waited for at the end of the process: a resolver may keep one for longer than its time.
        thread = threading.Thread(target=self._send, name="call", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _send(self) -> None:
        while (attempt := self._to_send.get()) is not None:
            try:
                caller = self._caller(attempt.auth_state_key[0])
                answer = caller.call(_OPERATIONS[attempt.kind], attempt.body, now=self._clock())
            except Exception as error:  # noqa: BLE001 -- a fault of ours is on record as one, and the thread goes on
                _log.error("call broke", extra={"call": attempt.call_id, **failure(error)})
                answer = Unknown(f"The service could not make it: {type(error).__name__}.", None, None, 0)
            self._ended.put(EndedAttempt(attempt, answer))

    def _caller(self, client_id: str) -> Caller:
        caller = self._callers.get(client_id)
        if caller is None:
            # Two threads may make one at the same moment; then one of the two is let go, which does no harm.
            client = self._service.keyring.client(client_id)
            caller = self._callers.setdefault(client_id, Caller(client, pool_size=CLIENT_CALLS_AT_ONCE_MAX))
        return caller
