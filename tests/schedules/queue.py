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
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any
from uuid import UUID, uuid4

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
from app.secret import Secret
from app.simulator.draft import authcode_created, token_canceled, token_created
from tests.builders import CLIENT_ID
from tests.integration.stage import NOON, Stage

Words = tuple[str, ...]

#: `books` is told of some events only.
TYPES = {"shop": ("*",), "books": ("authorization.token_active", "authorization.canceled")}
#: How long a turn takes: each loop looks again every tenth of a second.
_TURN_SECONDS = 0.15
_RETENTION = timedelta(days=30)
_TABLES = (WebhookAttempt, WebhookDelivery, FeedEvent, OutboxEvent, Lease)


class BrokenPromiseError(AssertionError):
    """The queue did what it must not do; says what, and after which steps."""

    def __init__(self, played: Sequence[Words], what: str) -> None:
        super().__init__("\n".join([what, "", *(" ".join(step) for step in played)]))


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
    #: Every request that reached an endpoint, in order, by endpoint: the event, and whether it was told so.
    received: dict[str, list[tuple[UUID, bool]]] = field(default_factory=lambda: defaultdict(list))
    #: What a reader of the feed has read, in order.
    read: list[feed.Told] = field(default_factory=list)
    cursor: int = 0
    #: Of each position, the endpoints that were to be told of it.
    subscribed: dict[int, list[str]] = field(default_factory=dict)
    #: What was still to be delivered after the last step, by position and endpoint.
    due: set[tuple[int, str]] = field(default_factory=set)
    #: A clock that was set, and an endpoint that fails: then first attempts need not be in order.
    is_order_promised: bool = True
    open_transaction: Connection | None = None
    _names: "count[int]" = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
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
        self.look()

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
        self.look()
        self._require_all_told()

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
                self.is_order_promised = False
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
                self.is_order_promised = False
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
            self.subscribed[position] = endpoints.subscribers(told.type)

    def _answer(self, name: str, endpoint: str, pick: int) -> None:
        in_flight = self.workers[name].in_flight[endpoint]
        if not in_flight:
            return
        job = in_flight.pop(pick % len(in_flight))
        manner = self.manners[endpoint]
        if manner in {"take", "deny"}:
            self.received[endpoint].append((job.told.event_id, manner == "take"))
            if job.told.event_id not in {each.event_id for each in self.read}:
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

    # --- promises ---

    def look(self) -> None:
        """See that every promise holds now."""
        self._read_on()
        self._require_one_holder()
        self._require_gapless()
        self._require_consistent_deliveries()
        if self.is_order_promised:
            self._require_order()

    def _read_on(self) -> None:
        """Read what the feed has more than at the last step, as a reader does who keeps a cursor."""
        try:
            page = self.stage.database.run(
                partial(feed.page, after=self.cursor, types=None, limit=1000), read_only=True
            )
        except feed.PastCursorError:
            self._broken("what was not read yet is purged")
        if page.has_more:
            self._broken("there are more events than were ever made")
        self.read += page.events
        self.cursor = page.next

    def _require_one_holder(self) -> None:
        for lease in ("numbering", *(f"endpoint:{each}" for each in TYPES)):
            holders = [name for name, worker in self.workers.items() if worker.leases.holds(lease)]
            if len(holders) > 1:
                self._broken(f"{' and '.join(holders)} both hold {lease}")

    def _require_gapless(self) -> None:
        if [each.position for each in self.read] != list(range(1, len(self.read) + 1)):
            self._broken("the feed has a gap, or something was added behind a reader")
        by_authorization: dict[UUID, list[int]] = defaultdict(list)
        for each in self.read:
            by_authorization[each.authorization_id].append(each.sequence)
        for sequences in by_authorization.values():
            if sequences != list(range(1, len(sequences) + 1)):
                self._broken(f"the moves of one authorization are in the feed as {sequences}")

    def _require_consistent_deliveries(self) -> None:
        rows, attempts = self.stage.database.run(_deliveries_and_attempts)
        event_ids = {each.position: each.event_id for each in self.read}
        purged_through = self.stage.database.run(lambda session: session.scalars(select(Feed.purged_through)).one())
        if purged := [key for key in self.due if key[0] <= purged_through]:
            self._broken(f"{purged} are purged, and were still to be delivered")
        self.due = {(row.position, row.endpoint) for row in rows if row.status == Status.DUE}
        first = {(row.position, row.endpoint): row for row in rows if row.resend_of is None}
        wanted = {
            (position, endpoint)
            for position, endpoints in self.subscribed.items()
            for endpoint in endpoints
            if position > purged_through
        }
        if set(first) != wanted or len(first) != len([row for row in rows if row.resend_of is None]):
            self._broken(f"deliveries are there for {sorted(first)}, not for {sorted(wanted)}")
        for row in rows:
            if (row.status == Status.DUE) != (row.due_at is not None) or (row.due_at is None) != (
                row.finished_at is not None
            ):
                self._broken(f"delivery {row.id} is {row.status}, due {row.due_at}, finished {row.finished_at}")
            if attempts.get(row.id, []) != list(range(1, row.attempts + 1)):
                self._broken(f"delivery {row.id} has the attempts {attempts.get(row.id)} on record, not {row.attempts}")
            was_taken = (event_ids[row.position], True) in self.received[row.endpoint]
            if row.status == Status.DELIVERED and not was_taken:
                self._broken(f"delivery {row.id} is delivered, and {row.endpoint} has never said so")
            if row.status == Status.EXPIRED and row.expires_at is None:
                self._broken(f"delivery {row.id} is expired, and tells of no code")

    def _require_order(self) -> None:
        """See that each endpoint got the events of an authorization in order, each for the first time."""
        events = {each.event_id: each for each in self.read}
        for endpoint, received in self.received.items():
            last: dict[UUID, int] = {}
            for event_id in dict.fromkeys(event_id for event_id, _ in received):
                told = events[event_id]
                if told.position < last.get(told.authorization_id, 0) and not self._was_late(endpoint, told):
                    self._broken(f"{endpoint} was told of {told.type} after what comes later")
                last[told.authorization_id] = told.position

    def _was_late(self, endpoint: str, told: feed.Told) -> bool:
        """Say whether an event had failed before: it holds up no other."""
        failed = select(WebhookAttempt.delivery_id).join(
            WebhookDelivery, WebhookDelivery.id == WebhookAttempt.delivery_id
        )
        mine = failed.where(
            WebhookDelivery.position == told.position,
            WebhookDelivery.endpoint == endpoint,
            WebhookAttempt.error.is_not(None),
        )
        return self.stage.database.run(lambda session: session.scalar(mine.limit(1))) is not None

    def _is_all_done(self) -> bool:
        staged = self.stage.database.run(feed.is_anything_staged)
        due = self.stage.database.run(deliveries.endpoints_with_due)
        return not staged and not due

    def _require_all_told(self) -> None:
        """See that the feed has had every move, and that whoever was to be told knows, or it is on record why not."""
        moves = self.stage.database.run(partial(_moves, prefix=self.prefix))
        if sorted((each.authorization_id, each.sequence) for each in self.read) != sorted(moves):
            self._broken("the feed has not had every move once")

    def _events(self, *, after: int) -> dict[int, feed.Told]:
        found = select(FeedEvent.position).where(FeedEvent.position > after)
        positions = self.stage.database.run(lambda session: session.scalars(found).all())
        return self.stage.database.run(partial(feed.at_positions, positions=positions)) if positions else {}

    def _broken(self, what: str) -> None:
        raise BrokenPromiseError(self.played, what)


def _forget_all(session: Session) -> None:
    for table in _TABLES:
        session.execute(delete(table))
    session.execute(update(Feed).values(last_position=0, purged_through=0))


def _deliveries_and_attempts(session: Session) -> tuple[list[WebhookDelivery], dict[int, list[int]]]:
    attempts: dict[int, list[int]] = defaultdict(list)
    for each in session.scalars(select(WebhookAttempt).order_by(WebhookAttempt.delivery_id, WebhookAttempt.number)):
        attempts[each.delivery_id].append(each.number)
    return list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id))), attempts


def _moves(session: Session, *, prefix: str) -> list[tuple[UUID, int]]:
    mine = select(Transition.authorization_id, Transition.sequence).join(
        Authorization, Authorization.id == Transition.authorization_id
    )
    return [tuple(row) for row in session.execute(mine.where(Authorization.auth_state.startswith(prefix)))]  # type: ignore[misc]
