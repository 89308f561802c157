"""Send what is due to one endpoint: codes first, first attempts in order, several at once.

An event that failed does not hold up later ones. One background worker at a time sends, the one that has the endpoint's
lease. What it has sent and not recorded when it dies is sent again.
"""

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from queue import Empty, SimpleQueue
from uuid import UUID

from sqlalchemy.orm import Session

from app import metrics
from app.database import Database, DatabaseUnavailableError
from app.events import deliveries, feed
from app.events.deliveries import Attempt, Status
from app.events.endpoints import Endpoint
from app.events.feed import PublishedEvent
from app.events.persistence import Persistence
from app.events.schedule import AGE_MAX, next_attempt
from app.events.sending import SECONDS_MAX, Answer, Pool, send
from app.events.staging import CODE_LIFETIME
from app.logs import failure
from app.models import WebhookDelivery

_log = logging.getLogger(__name__)

#: Requests to one endpoint at a time: enough to keep it busy, few enough not to overwhelm it.
AT_ONCE_MAX = 8
#: Of those, how many are kept free for codes: else all might be hanging when one comes.
_RESERVED_SLOTS = 2
#: How often to look what is due.
POLL_SECONDS = 0.1
#: What ends within this time is recorded in one transaction.
_RECORD_SECONDS = 0.05
#: What is looked at to choose from: some, so that what cannot be sent at the moment hides nothing that can.
_PAGE = 100
#: After so many failures without a success in between, an endpoint is failing.
FAILURES_MAX = 5
#: How often a failing endpoint is tried. A code is tried at its own times.
PROBE_SECONDS = 60.0
#: Where all that was looked at is sent and more is due, how soon to look again.
_LOOK_AGAIN_SECONDS = 0.02
#: After trouble with the database.
_PAUSE_SECONDS = 1.0
#: For what cannot be recorded: it is not sent again at once.
_HELD_BACK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of deliveries that are due, each in the order in which it is sent."""

    #: Codes, and what goes before them.
    urgent: Sequence[WebhookDelivery]
    others: Sequence[WebhookDelivery]
    expired: Sequence[int]
    dead: Sequence[int]


def choose(due: Sequence[WebhookDelivery], *, now: datetime, is_failing: bool = False) -> Choice:
    """Choose what is sent now, of what is due and of authorizations that nobody is telling of.

    Of one authorization that is one event, the one with the lowest position, so that first attempts go out in order.
    Codes come first. A code is sent after an untried earlier event of its authorization, unless the endpoint is
    failing.
    """
    first: dict[UUID, WebhookDelivery] = {}
    codes: dict[UUID, WebhookDelivery] = {}
    expired: list[int] = []
    dead: list[int] = []
    for each in due:
        if each.expires_at is not None and each.expires_at <= now:
            expired.append(each.id)
        elif each.created_at + AGE_MAX < now:
            dead.append(each.id)
        else:
            before = first.setdefault(each.authorization_id, each)
            if each.position < before.position:
                first[each.authorization_id] = each
            if each.expires_at is not None:
                codes.setdefault(each.authorization_id, each)
    return Choice(
        urgent=[code if is_failing or first[key].attempts else first[key] for key, code in codes.items()],
        others=[each for key, each in first.items() if key not in codes],
        expired=expired,
        dead=dead,
    )


@dataclass(frozen=True, slots=True)
class _Job:
    """One delivery on its way."""

    delivery: WebhookDelivery
    event: PublishedEvent
    #: Codes and what goes before them may, and the one request that probes a failing endpoint.
    may_use_reserved_slots: bool


@dataclass(frozen=True, slots=True)
class _Ended:
    job: _Job
    at: datetime
    answer: Answer


class Sender:
    """Sends to one endpoint, from a thread of its own and some for the requests."""

    def __init__(
        self,
        endpoint: Endpoint,
        database: Database,
        *,
        body: Callable[[PublishedEvent], str],
        may_send: Callable[[], bool] = lambda: True,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what writes an event as the body of a request, and what says whether this worker has the lease."""
        self.endpoint = endpoint
        self._database = database
        self._body = body
        self._may_send = may_send
        self._clock = clock
        self._monotonic = monotonic
        self._pool = Pool(endpoint)
        self._requests: SimpleQueue[_Job | None] = SimpleQueue()
        #: What has ended; `None` only wakes.
        self._ended: SimpleQueue[_Ended | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        #: What was looked at and is sent as soon as there is room.
        self._ready: list[_Job] = []
        self._look_at = 0.0
        self._in_flight: dict[int, _Job] = {}
        self._unrecorded: list[tuple[_Job, Attempt]] = []
        self._record_at = 0.0
        self._can_record = True
        #: What cannot be recorded, and until when it is left alone.
        self._held_back: list[tuple[_Job, float]] = []
        self._failures = 0
        self._probe_at = 0.0
        self._looking = Persistence("looking what is due", endpoint=endpoint.name)
        self._recording = Persistence("recording attempts", endpoint=endpoint.name)
        self._starting = Persistence("starting a thread", endpoint=endpoint.name)

    @property
    def is_failing(self) -> bool:
        """Whether the last attempts all failed."""
        return self._failures >= FAILURES_MAX

    def wake(self) -> None:
        """Look at once what is due. Any thread may call this."""
        self._ended.put(None)

    def run_until(self, stop: threading.Event) -> None:
        """Send until told to stop; then wait for what is in flight, no longer than a request may take, and record it.

        Nothing that the endpoint or the database does raises here.
        """
        while not stop.is_set():
            self._turn(self._seconds_to_wait())
            self._send_more()
        over_at = self._monotonic() + SECONDS_MAX + 1
        while (self._in_flight or self._unrecorded) and self._monotonic() < over_at:
            self._turn(_RECORD_SECONDS)
        for _ in self._threads:
            self._requests.put(None)
        self._pool.close()

    def _turn(self, seconds: float) -> None:
        """Wait for what ends, but not for longer, and record it."""
        self._take_in(seconds)
        if self._unrecorded and self._monotonic() >= self._record_at:
            self._can_record = self._recording.try_once(self._record)
            if not self._can_record:
                self._record_at = self._monotonic() + _PAUSE_SECONDS

    def _seconds_to_wait(self) -> float:
        times = [self._record_at] if self._unrecorded else []
        if len(self._in_flight) < AT_ONCE_MAX:
            times.append(self._look_at)
        return min(POLL_SECONDS, max(0.0, min(times, default=math.inf) - self._monotonic()))

    # --- what has ended ---

    def _take_in(self, seconds: float) -> None:
        """Wait until a request ends or `wake` is called, and note every request that has ended."""
        try:
            ended = self._ended.get(timeout=seconds)
            while True:
                if ended is None:
                    self._look_at = min(self._look_at, self._monotonic())
                else:
                    self._note(ended)
                ended = self._ended.get_nowait()
        except Empty:
            return

    def _note(self, ended: _Ended) -> None:
        del self._in_flight[ended.job.delivery.id]
        if not self._unrecorded:
            self._record_at = self._monotonic() + _RECORD_SECONDS
        now = self._clock()
        attempt = _attempt(ended, now=now)
        self._count(ended.job.delivery, attempt, now=now)
        self._unrecorded.append((ended.job, attempt))
        if ended.answer.is_delivered:
            if self.is_failing:
                _log.info("endpoint works again", extra={"endpoint": self.endpoint.name})
                self._look_at = self._monotonic()
            self._failures = 0
            return
        self._failures += 1
        if self._failures == FAILURES_MAX:
            _log.warning("endpoint fails", extra={"endpoint": self.endpoint.name, "error": ended.answer.error})
            self._probe_at = self._monotonic() + PROBE_SECONDS
            self._ready = [each for each in self._ready if each.may_use_reserved_slots]

    def _count(self, delivery: WebhookDelivery, attempt: Attempt, *, now: datetime) -> None:
        outcome = "failed" if attempt.status is Status.DUE else attempt.status
        metrics.WEBHOOK_ATTEMPTS.inc(self.endpoint.name, outcome)
        if attempt.status is Status.DELIVERED and delivery.expires_at is not None:
            received_at = delivery.expires_at - CODE_LIFETIME
            metrics.CODE_TOLD.observe((now - received_at).total_seconds())

    def _record(self) -> None:
        """Put on record what has ended. What the database refuses keeps nothing else from it."""
        try:
            self._database.run(partial(deliveries.record, attempts=[attempt for _, attempt in self._unrecorded]))
        except DatabaseUnavailableError:
            raise
        except Exception:  # noqa: BLE001 -- it is one of them, and shows below
            while self._unrecorded:
                job, attempt = self._unrecorded[0]
                self._record_alone(job, attempt)
                del self._unrecorded[0]
        self._unrecorded.clear()

    def _record_alone(self, job: _Job, attempt: Attempt) -> None:
        try:
            self._database.run(partial(deliveries.record, attempts=[attempt]))
        except DatabaseUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 -- whatever it is, the others are to be recorded
            facts = {"endpoint": self.endpoint.name, "delivery": attempt.delivery_id}
            _log.error("attempt not recorded", extra=facts | failure(error))
            self._held_back.append((job, self._monotonic() + _HELD_BACK_SECONDS))

    # --- what is sent ---

    def _send_more(self) -> None:
        now = self._monotonic()
        # While nothing can be recorded, what is sent would be sent again.
        if not self._may_send() or not self._can_record:
            self._ready.clear()
            self._look_at = now + POLL_SECONDS
            return
        if now >= self._look_at and len(self._in_flight) < AT_ONCE_MAX:
            self._ready.clear()
            self._look_at = now + POLL_SECONDS
            if not self._looking.try_once(self._look):
                self._look_at = now + _PAUSE_SECONDS
        # Asked again: a look is several calls of the database, and the lease may end while one of them stalls.
        if self._may_send():
            self._start_ready()
        else:
            self._ready.clear()

    def _look(self) -> None:
        """Look what is due, and choose from it what is sent next."""
        now = self._clock()
        is_probing = self.is_failing and self._monotonic() >= self._probe_at
        codes_only = self.is_failing and not is_probing
        page = self._database.run(partial(self._due, now=now, codes_only=codes_only), read_only=True)
        choice = choose(page, now=now, is_failing=self.is_failing)
        for ids, status in ((choice.expired, Status.EXPIRED), (choice.dead, Status.DEAD)):
            if ids:
                self._database.run(partial(deliveries.give_up, delivery_ids=ids, status=status, now=now))
                metrics.WEBHOOK_ATTEMPTS.inc(self.endpoint.name, status, amount=len(ids))
        others = choice.others[:1] if is_probing else choice.others
        if is_probing and others:
            self._probe_at = self._monotonic() + PROBE_SECONDS
        positions = [each.position for each in (*choice.urgent, *others)]
        at_positions = partial(feed.at_positions, positions=positions)
        events = self._database.run(at_positions, read_only=True) if positions else {}
        gone = [each.id for each in (*choice.urgent, *others) if each.position not in events]
        if gone:
            # Somebody has deleted what they tell of: the others are to be sent all the same.
            _log.error("events are gone", extra={"endpoint": self.endpoint.name, "deliveries": len(gone)})
            self._database.run(partial(deliveries.give_up, delivery_ids=gone, status=Status.DEAD, now=now))
        of_each = [(choice.urgent, True), (others, is_probing)]
        self._ready = [
            _Job(each, events[each.position], may_use_reserved_slots)
            for chosen, may_use_reserved_slots in of_each
            for each in chosen
            if each.position in events
        ]
        if len(page) >= _PAGE and not self.is_failing:
            self._look_at = min(self._look_at, self._monotonic() + _LOOK_AGAIN_SECONDS)

    def _due(self, session: Session, *, now: datetime, codes_only: bool) -> list[WebhookDelivery]:
        self._held_back = [each for each in self._held_back if each[1] > self._monotonic()]
        jobs = [*self._in_flight.values(), *(job for job, _ in (*self._unrecorded, *self._held_back))]
        busy = {each.delivery.authorization_id for each in jobs}
        page = partial(deliveries.due, busy=busy) if not codes_only else partial(deliveries.due_codes, busy=busy)
        found = list(page(session, self.endpoint.name, now=now, limit=_PAGE))
        if len(found) >= _PAGE and not codes_only:
            codes = deliveries.due_codes(session, self.endpoint.name, now=now, limit=_PAGE, busy=busy)
            # What goes before a code may be far behind in the queue, too.
            before = deliveries.due_before(session, self.endpoint.name, codes, now=now) if codes else ()
            found = list({each.id: each for each in (*found, *codes, *before)}.values())
        return found

    def _start_ready(self) -> None:
        """Send what is ready, as far as there is room."""
        others = sum(not each.may_use_reserved_slots for each in self._in_flight.values())
        waiting: list[_Job] = []
        for each in self._ready:
            is_kept_free = not each.may_use_reserved_slots and others >= AT_ONCE_MAX - _RESERVED_SLOTS
            if len(self._in_flight) >= AT_ONCE_MAX or is_kept_free:
                waiting.append(each)
                continue
            if len(self._threads) <= len(self._in_flight) and not self._starting.try_once(self._start_thread):
                waiting.append(each)
                continue
            others += not each.may_use_reserved_slots
            self._in_flight[each.delivery.id] = each
            self._requests.put(each)
        self._ready = waiting

    def _start_thread(self) -> None:
        """Start one more thread for requests. Raises `RuntimeError` where the system has no room for it."""
        # Not waited for at the end of the process: a resolver may keep one for longer than its time.
        thread = threading.Thread(target=self._request, name=f"to {self.endpoint.name}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _request(self) -> None:
        while (job := self._requests.get()) is not None:
            at = self._clock()
            try:
                answer = send(self.endpoint, self._body(job.event), str(job.event.event_id), pool=self._pool)
            except Exception as error:  # noqa: BLE001 -- a fault of ours is on record as one, and the thread goes on
                _log.error("request broke", extra={"endpoint": self.endpoint.name, **failure(error)})
                answer = Answer(None, f"The service could not send it: {type(error).__name__}.", None, None, 0)
            self._ended.put(_Ended(job, at, answer))


def _attempt(ended: _Ended, *, now: datetime) -> Attempt:
    """Say what becomes of a delivery after one request."""
    delivery, answer = ended.job.delivery, ended.answer
    number = delivery.attempts + 1
    due_at = None
    if answer.is_delivered:
        status = Status.DELIVERED
    else:
        due_at = next_attempt(
            number,
            created_at=delivery.created_at,
            expires_at=delivery.expires_at,
            now=now,
            retry_after=answer.retry_after,
            spread=random.uniform(-1, 1),  # noqa: S311 -- jitter, not a secret
        )
        in_the_end = Status.DEAD if delivery.expires_at is None else Status.EXPIRED
        status = in_the_end if due_at is None else Status.DUE
    return Attempt(
        delivery_id=delivery.id,
        number=number,
        at=ended.at,
        milliseconds=answer.milliseconds,
        http_status=answer.http_status,
        error=answer.error,
        answer=answer.answer,
        status=status,
        due_at=due_at,
        finished_at=None if due_at is not None else now,
    )
