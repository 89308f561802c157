"""The queue of what is told, played step by step: workers that die and stall, endpoints that fail and lie, clocks.

The real feed, leases and senders on a real database, while network, threads and time are in the schedule's hands; and a
reader of the feed, who notes what each step has added. A step is a few words:

    code s-1, token s-1, cancel s-1     Alipay notifies
    turn a                              a worker does what its loops do in one round: leases, numbering, sending
    number a                            … or numbers alone, if it may
    answer a shop 2                     a request that a worker has sent reaches its endpoint, and is answered
    kill a                              a worker dies with all that it has not recorded, and another takes its place
    stop a                              it stops in order: it records, and gives back its leases
    reload a shop                       it begins anew with these endpoints alone
    manner shop refuse                  an endpoint takes, refuses, denies that it has taken, or asks to wait
    pass 3                              seconds go by (a worker that has no turn meanwhile is stalled)
    clock -30                           the clock is set
    resend shop                         somebody has the newest ended delivery sent again
    begin, commit, rollback             somebody's transaction makes a move, and ends later (PostgreSQL)
    purge                               a month goes by, and what was told before is purged
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any, NoReturn
from uuid import uuid4

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.orm import Session

from app.documents import event_body
from app.events import deliveries, feed
from app.events.deliveries import Status
from app.events.endpoints import Endpoint, Endpoints
from app.events.sender import Sender, _Ended
from app.events.sending import Answer
from app.events.staging import EventType
from app.leases import Leases
from app.models import (
    Authorization,
    Feed,
    FeedEvent,
    Lease,
    OutboxEvent,
    Transition,
    WebhookAttempt,
    WebhookDelivery,
)
from app.report_errors import AlreadyCanceledError
from app.secret import Secret
from app.simulator.draft import authcode_created, token_canceled, token_created
from tests.builders import CLIENT_ID
from tests.integration.stage import NOON, Stage
from tests.schedules.queue_promises import BrokenPromiseError, Promises

Words = tuple[str, ...]

#: `books` is told of some events only.
TYPES = {"shop": ("*",), "books": ("authorization.token_active", "authorization.canceled")}
#: How long a turn takes: each loop looks again every tenth of a second.
_TURN_SECONDS = 0.15
_RETENTION = timedelta(days=30)
_TABLES = (WebhookAttempt, WebhookDelivery, FeedEvent, OutboxEvent, Lease)


@dataclass
class Worker:
    """One worker: its leases, and a sender for each endpoint it knows, whose requests wait for the schedule."""

    leases: Leases
    senders: dict[str, Sender]
    #: What has been sent and is not answered, by endpoint.
    in_flight: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class Queue:
    """All of it, on a database that has nothing to tell when it begins."""

    stage: Stage
    prefix: str = field(default_factory=lambda: uuid4().hex)
    monotonic: float = 1000.0
    played: list[Words] = field(default_factory=list)
    workers: dict[str, Worker] = field(default_factory=dict)
    manners: dict[str, str] = field(default_factory=lambda: dict.fromkeys(TYPES, "take"))
    open_transaction: Connection | None = None
    _names: "count[int]" = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.promises = Promises(self.stage.database)
        self.stage.clock.now = NOON
        self.stage.database.run(_forget_all)
        for name in ("a", "b"):
            self._begin(name, list(TYPES))

    # --- steps ---

    def step(self, *step: str) -> None:
        """Do one step, and see that every promise still holds.

        Raises `BrokenPromiseError`.
        """
        self.played.append(step)
        if not self._play_worker(step) and not self._play_world(step):
            raise ValueError(step)
        self._look()

    def calm(self) -> None:
        """End it well: every endpoint takes what comes, one worker has all the time it needs, and all is told.

        Raises `BrokenPromiseError`.
        """
        if self.open_transaction is not None:
            self.step("commit")
        for endpoint in TYPES:
            self.step("manner", endpoint, "take")
        # Whoever held a lease is gone.
        self.step("kill", "b")
        self.step("reload", "a", *TYPES)
        for _ in range(400):
            self.step("turn", "a")
            for endpoint, in_flight in self.workers["a"].in_flight.items():
                while in_flight:
                    self._answer("a", endpoint, 0)
            if self._is_all_done():
                break
            # A failing endpoint is tried once a minute, and what has failed often waits for a day.
            self._pass(self._seconds_until_due())
        else:
            self._broken("something is still to be numbered or sent")
        self._look()
        self._keep(partial(self.promises.require_all_told, self.prefix))

    def _play_worker(self, step: Words) -> bool:
        """Let a worker do something, or end; say whether the step is one of those."""
        match step:
            case "turn", name:
                self._turn(name)
            case "number", name:
                self._number(self.workers[name])
            case "answer", name, endpoint, pick:
                self._answer(name, endpoint, int(pick))
            case "kill", name:
                self._begin(name, list(self.workers[name].senders))
            case "stop", name:
                self._stop(name)
                self._begin(name, list(self.workers[name].senders))
            case "reload", name, *endpoints:
                self._stop(name)
                self._begin(name, endpoints)
            case _:
                return False
        return True

    def _play_world(self, step: Words) -> bool:
        """Let something happen around the workers; say whether the step is one of those."""
        match step:
            case (("code" | "token" | "cancel"), _):
                self._notify(*step)
            case "manner", endpoint, manner:
                self.manners[endpoint] = manner
            case "pass", seconds:
                self._pass(float(seconds))
            case "clock", seconds:
                self.stage.clock.forward(seconds=float(seconds))
                self.promises.is_order_promised = False
            case "resend", endpoint:
                self.stage.database.run(partial(self._resend, endpoint=endpoint))
            case (("begin" | "commit" | "rollback") as what,):
                self._play_transaction(what)
            case ("purge",):
                self._pass(_RETENTION.total_seconds() + 1)
                self.stage.database.run(partial(feed.purge, before=self.stage.clock() - _RETENTION))
            case _:
                return False
        return True

    # --- what happens ---

    def _notify(self, kind: str, name: str) -> None:
        auth_state, token = f"{self.prefix}-{name}", f"token-{self.prefix}-{name}"
        if kind == "cancel":
            self.stage.notify(token_canceled(token))
            return
        # One that is canceled cannot be consulted again, and is notified of all the same.
        with suppress(AlreadyCanceledError):
            self.stage.consult(auth_state, flow="auto_debit")
        code = f"code-{self.prefix}-{next(self._names)}"
        self.stage.notify(authcode_created(auth_state, code) if kind == "code" else token_created(auth_state, token))

    def _begin(self, name: str, endpoints: Sequence[str]) -> None:
        leases = Leases(f"{name}-{next(self._names)}", monotonic=self._now)
        senders = {each: self._sender(each, leases) for each in endpoints}
        self.workers[name] = Worker(leases, senders)

    def _sender(self, endpoint: str, leases: Leases) -> Sender:
        sender = Sender(
            Endpoint(endpoint, "http://127.0.0.1:1/", (Secret("whsec_" + "A" * 32),), TYPES[endpoint]),
            self.stage.database,
            body=event_body,
            may_send=partial(leases.holds, f"endpoint:{endpoint}"),
            clock=self.stage.clock,
            monotonic=self._now,
        )
        # As if the threads were there already: the schedule takes what they would take.
        sender._threads = [None] * 8  # type: ignore[list-item] # noqa: SLF001 -- so that no real ones are started
        return sender

    def _turn(self, name: str) -> None:
        """Do what the loops of a worker and of its senders do in one round."""
        worker = self.workers[name]
        names = {"numbering", *(f"endpoint:{each}" for each in worker.senders)}
        self.stage.database.run(partial(worker.leases.renew, names=names, now=self.stage.clock()))()
        self._number(worker)
        for endpoint, sender in worker.senders.items():
            self._pass(_TURN_SECONDS)
            sender._turn(0)  # noqa: SLF001 -- one round of its loop
            sender._send_more()  # noqa: SLF001 -- one round of its loop
            if sender.is_failing:
                self.promises.is_order_promised = False
            while not sender._requests.empty():  # noqa: SLF001 -- in place of its threads
                worker.in_flight[endpoint].append(sender._requests.get())  # noqa: SLF001 -- as above
            told = [job.delivery.authorization_id for job in worker.in_flight[endpoint]]
            if len(set(told)) < len(told):
                self._broken(f"two events of one authorization are on their way to {endpoint}")

    def _number(self, worker: Worker) -> None:
        if not worker.leases.holds("numbering"):
            return
        before = self.stage.database.run(feed.last_position)
        endpoints = Endpoints({name: sender.endpoint for name, sender in worker.senders.items()})
        self.stage.database.run(partial(feed.number, subscribers=endpoints.subscribers, now=self.stage.clock()))
        for position, told in self._events(after=before).items():
            self.promises.subscribed[position] = endpoints.subscribers(told.type)

    def _answer(self, name: str, endpoint: str, pick: int) -> None:
        in_flight = self.workers[name].in_flight[endpoint]
        if not in_flight:
            return
        job = in_flight.pop(pick % len(in_flight))
        manner = self.manners[endpoint]
        if manner in {"take", "deny"}:
            self.promises.received[endpoint].append((job.event.event_id, manner == "take"))
            if job.event.event_id not in {each.event_id for each in self.promises.read}:
                self._broken(f"{endpoint} was sent what is not in the feed")
        answers = {
            "take": Answer(204, None, "", None, 1),
            "refuse": Answer(None, "nobody answers", None, None, 1),
            "deny": Answer(500, "500", "", None, 1),
            "wait": Answer(429, "429", "", timedelta(minutes=3), 1),
        }
        ended = _Ended(job, self.stage.clock(), answers[manner])
        self.workers[name].senders[endpoint]._ended.put(ended)  # noqa: SLF001 -- in place of its threads

    def _stop(self, name: str) -> None:
        """Wait for what is in flight, record it, and give back the leases."""
        worker = self.workers[name]
        for endpoint, sender in worker.senders.items():
            while worker.in_flight[endpoint]:
                self._answer(name, endpoint, 0)
            self._pass(_TURN_SECONDS)
            for _ in range(2):
                sender._turn(0)  # noqa: SLF001 -- one round of its loop
                self._pass(_TURN_SECONDS)
        self.stage.database.run(worker.leases.release)

    def _resend(self, session: Session, *, endpoint: str) -> None:
        ended = select(WebhookDelivery).where(
            WebhookDelivery.endpoint == endpoint, WebhookDelivery.status != Status.DUE
        )
        newest = session.scalar(ended.order_by(WebhookDelivery.id.desc()).limit(1))
        if newest is not None:
            deliveries.resend(session, newest, now=self.stage.clock())

    def _play_transaction(self, what: str) -> None:
        """Make a move that is committed later, or never, as of a process that stands still before its commit."""
        if what == "begin":
            if self.open_transaction is None and self.stage.database.engine.dialect.name == "postgresql":
                self.open_transaction = self.stage.database.engine.connect()
                self.open_transaction.begin()
                self._consult_within(self.open_transaction)
        elif self.open_transaction is not None:
            end = self.open_transaction.commit if what == "commit" else self.open_transaction.rollback
            end()
            self.open_transaction.close()
            self.open_transaction = None

    def _consult_within(self, connection: Connection) -> None:
        now, key = self.stage.clock(), uuid4()
        connection.execute(
            insert(Authorization).values(
                id=key,
                client_id=CLIENT_ID,
                auth_state=f"{self.prefix}-slow-{next(self._names)}",
                flow="auto_debit",
                state="consulted",
                version=1,
                created_at=now,
                updated_at=now,
            )
        )
        move = {"authorization_id": key, "sequence": 1, "at": now}
        connection.execute(insert(Transition).values(**move, event="consult", to_state="consulted", cause="api"))
        connection.execute(insert(OutboxEvent).values(**move, event_id=uuid4(), type=EventType.CONSULTED))

    # --- time ---

    def _now(self) -> float:
        return self.monotonic

    def _pass(self, seconds: float) -> None:
        self.monotonic += seconds
        self.stage.clock.forward(seconds=seconds)

    def _seconds_until_due(self) -> float:
        due = select(WebhookDelivery.due_at).where(WebhookDelivery.due_at.is_not(None))
        at = self.stage.database.run(lambda session: session.scalar(due.order_by(WebhookDelivery.due_at).limit(1)))
        wait = 0.0 if at is None else (at - self.stage.clock()).total_seconds()
        # No longer than a holder may go without a turn, unless there is nothing to do before.
        return max(wait, 4.0)

    def _require_one_holder(self) -> None:
        for lease in ("numbering", *(f"endpoint:{each}" for each in TYPES)):
            holders = [name for name, worker in self.workers.items() if worker.leases.holds(lease)]
            if len(holders) > 1:
                self._broken(f"{' and '.join(holders)} both hold {lease}")

    def _is_all_done(self) -> bool:
        staged = self.stage.database.run(feed.first_staged)
        due = self.stage.database.run(deliveries.endpoints_with_due)
        return not staged and not due

    def _events(self, *, after: int) -> dict[int, feed.PublishedEvent]:
        found = select(FeedEvent.position).where(FeedEvent.position > after)
        positions = self.stage.database.run(lambda session: session.scalars(found).all())
        return self.stage.database.run(partial(feed.at_positions, positions=positions)) if positions else {}

    def _look(self) -> None:
        self._require_one_holder()
        self._keep(self.promises.look)

    def _keep(self, look: Callable[[], None]) -> None:
        try:
            look()
        except BrokenPromiseError as broken:
            self._broken(str(broken))

    def _broken(self, what: str) -> NoReturn:
        """Raise `BrokenPromiseError` with all that was played."""
        raise BrokenPromiseError("\n".join([what, "", *(" ".join(step) for step in self.played)]))


def _forget_all(session: Session) -> None:
    for table in _TABLES:
        session.execute(delete(table))
    session.execute(update(Feed).values(last_position=0, purged_through=0))
