"""What is due to an endpoint is sent to it: in order, codes first, again until it is taken, and never lost."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select, text

from app.database import DatabaseUnavailableError
from app.documents import event_body
from app.events import deliveries, feed
from app.events.endpoints import Endpoint
from app.events.schedule import PAUSES
from app.events.sender import AT_ONCE_MAX, FAILURES_MAX, Sender
from app.models import WebhookAttempt, WebhookDelivery
from app.simulator.draft import authcode_created, token_canceled, token_created
from tests.integration.stage import Stage
from tests.receiver import Handler, Receiver, a_receiver, refuses, takes_it, takes_it_after


@dataclass
class World:
    """A service, and who is told by it."""

    stage: Stage
    receiver: Receiver

    def number(self, *endpoints: str) -> int:
        names = endpoints or ("shop",)
        return self.stage.database.run(partial(feed.number, subscribers=lambda _: names, now=self.stage.clock()))

    def consults(self, number: int, *, prefix: str = "s") -> None:
        for each in range(number):
            self.stage.consult(f"{prefix}-{each}")

    @contextmanager
    def sending(
        self, endpoint: Endpoint | None = None, *, may_send: Callable[[], bool] = lambda: True
    ) -> Iterator[Sender]:
        stop = threading.Event()
        sender = Sender(
            endpoint or self.receiver.endpoint(),
            self.stage.database,
            body=event_body,
            may_send=may_send,
            clock=self.stage.clock,
        )
        thread = threading.Thread(target=sender.run_until, args=(stop,))
        thread.start()
        try:
            yield sender
        finally:
            stop.set()
            thread.join(timeout=30)
            assert not thread.is_alive()

    def rows(self) -> list[WebhookDelivery]:
        order = select(WebhookDelivery).order_by(WebhookDelivery.id)
        return self.stage.database.run(lambda session: list(session.scalars(order)), read_only=True)

    def attempts(self) -> list[WebhookAttempt]:
        order = select(WebhookAttempt).order_by(WebhookAttempt.delivery_id, WebhookAttempt.number)
        return self.stage.database.run(lambda session: list(session.scalars(order)), read_only=True)

    def statuses(self) -> list[str]:
        return [each.status for each in self.rows()]

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not is_so():
            assert time.monotonic() < deadline, [(each.status, each.attempts) for each in self.rows()]
            time.sleep(0.02)


@pytest.fixture
def world(stage: Stage) -> Iterator[World]:
    with a_receiver() as receiver:
        yield World(stage, receiver)


def a_life(stage: Stage, auth_state: str = "s-1") -> None:
    stage.consult(auth_state)
    stage.notify(authcode_created(auth_state, f"code-{auth_state}"))
    stage.notify(token_created(auth_state, f"token-{auth_state}"))
    stage.notify(token_canceled(f"token-{auth_state}"))


def is_code(handler: Handler) -> bool:
    return b"authcode_issued" in handler.received.body


def test_a_life_is_told_in_order_and_put_on_record(world: World) -> None:
    a_life(world.stage)
    world.number()
    with world.sending():
        world.wait_until(lambda: set(world.statuses()) == {"delivered"})
    assert world.receiver.told() == [("s-1", 1), ("s-1", 2), ("s-1", 3), ("s-1", 4)]
    attempts = world.attempts()
    assert [(each.number, each.http_status, each.error, each.answer) for each in attempts] == [(1, 204, None, None)] * 4
    assert all(row.attempts == 1 and row.due_at is None and row.finished_at is not None for row in world.rows())


def test_what_is_told_is_what_the_feed_has(world: World) -> None:
    a_life(world.stage)
    world.number()
    with world.sending():
        world.receiver.wait_for(4)
    page = world.stage.database.run(partial(feed.page, after=None, types=None, limit=10), read_only=True)
    assert [each.body.decode() for each in world.receiver.received] == [event_body(each) for each in page.events]
    assert [each.headers["webhook-id"] for each in world.receiver.received] == [str(e.event_id) for e in page.events]


def test_of_one_authorization_nothing_is_told_while_something_is(world: World) -> None:
    for number in range(5):
        a_life(world.stage, f"s-{number}")
    world.number()
    inside: set[str] = set()
    met: list[str] = []

    def note(handler: Handler) -> None:
        auth_state = handler.received.verified()["data"]["authState"]
        met.extend([auth_state] if auth_state in inside else [])
        inside.add(auth_state)
        time.sleep(0.02)
        inside.remove(auth_state)
        handler.answer(204)

    world.receiver.behave = note
    with world.sending():
        world.wait_until(lambda: set(world.statuses()) == {"delivered"})
    assert met == []
    for number in range(5):
        told = [sequence for auth_state, sequence in world.receiver.told() if auth_state == f"s-{number}"]
        assert told == [1, 2, 3, 4]


def test_an_endpoint_gets_eight_requests_at_once_and_no_more(world: World) -> None:
    world.consults(30)
    for number in range(5):
        world.stage.notify(authcode_created(f"s-{number}", f"code-{number}"))
    world.number()

    def slow(handler: Handler) -> None:
        time.sleep(0.05)
        handler.answer(204)

    world.receiver.behave = slow
    with world.sending():
        world.wait_until(lambda: set(world.statuses()) == {"delivered"})
    assert world.receiver.at_once <= AT_ONCE_MAX


def test_a_code_waits_for_nothing_that_hangs(world: World) -> None:
    """What is not of a code leaves room for codes, however long it takes."""
    over = threading.Event()
    world.consults(20)
    world.stage.consult("with-code")
    world.number()

    def hang(handler: Handler) -> None:
        if not is_code(handler) and "with-code" not in str(handler.received.body):
            over.wait(10)
        handler.answer(204)

    world.receiver.behave = hang
    with world.sending():
        world.receiver.wait_for(AT_ONCE_MAX - 2)
        world.stage.notify(authcode_created("with-code", "code-1"))
        world.number()
        world.wait_until(lambda: any(each.expires_at and each.status == "delivered" for each in world.rows()))
        over.set()
    assert world.receiver.at_once <= AT_ONCE_MAX


def test_a_code_is_told_before_thousands_of_others_and_after_what_precedes_it(world: World) -> None:
    world.consults(600)
    world.number()
    world.stage.consult("with-code")
    world.stage.notify(authcode_created("with-code", "code-1"))
    world.number()
    with world.sending():
        world.wait_until(lambda: len(world.receiver.received) >= 450)
    first = [each["type"] for each in world.receiver.events()[:450]]
    assert "authorization.authcode_issued" in first
    told = world.receiver.told()
    assert told.index(("with-code", 1)) < told.index(("with-code", 2))


def test_what_is_refused_is_sent_again_when_it_is_due(world: World) -> None:
    world.stage.consult()
    world.number()
    world.receiver.behave = refuses(500, b"out of order")
    with world.sending():
        world.wait_until(lambda: len(world.attempts()) == 1)
        (row,) = world.rows()
        assert (row.status, row.attempts) == ("due", 1)
        assert row.due_at is not None
        assert timedelta(seconds=4) <= row.due_at - world.stage.clock() <= timedelta(seconds=6)
        world.receiver.behave = takes_it
        time.sleep(0.3)
        assert len(world.receiver.received) == 1
        world.stage.clock.forward(seconds=6)
        world.wait_until(lambda: world.statuses() == ["delivered"])
    attempts = [(each.number, each.http_status, each.error, each.answer) for each in world.attempts()]
    assert attempts == [(1, 500, "It answered 500.", "out of order"), (2, 204, None, None)]
    ids = [each.headers["webhook-id"] for each in world.receiver.received]
    assert ids[0] == ids[1]


def test_one_that_is_refused_holds_up_no_other(world: World) -> None:
    a_life(world.stage)
    world.number()

    def refuse_one(handler: Handler) -> None:
        handler.answer(500 if handler.received.verified()["type"] == "authorization.token_active" else 204)

    world.receiver.behave = refuse_one
    with world.sending():
        world.wait_until(lambda: world.statuses() == ["delivered", "delivered", "due", "delivered"])


def test_retry_after_is_honoured(world: World) -> None:
    world.stage.consult()
    world.number()
    world.receiver.behave = refuses(429, Retry_After="600")
    with world.sending():
        world.wait_until(lambda: len(world.attempts()) == 1)
    assert world.rows()[0].due_at == world.stage.clock() + timedelta(seconds=600)


def test_a_code_that_cannot_be_told_in_its_minute_expires_without_a_request(world: World) -> None:
    world.stage.consult()
    world.stage.notify(authcode_created("s-1", "code-1"))
    world.number()
    world.stage.clock.forward(seconds=60)
    with world.sending():
        world.wait_until(lambda: world.statuses() == ["delivered", "expired"])
    assert world.receiver.told() == [("s-1", 1)]


def test_after_the_last_attempt_a_delivery_is_dead(world: World) -> None:
    world.stage.consult()
    world.number()
    world.receiver.behave = refuses(410)
    with world.sending() as sender:
        for number in range(1, len(PAUSES)):
            world.wait_until(partial(lambda number: len(world.attempts()) == number, number))
            (row,) = world.rows()
            assert row.due_at is not None
            sender._failures = 0  # noqa: SLF001 -- else it would be tried once a minute
            world.stage.clock.now = row.due_at
        world.wait_until(lambda: world.statuses() == ["dead"])
    assert len(world.receiver.received) == len(PAUSES) == 11


def test_a_failing_endpoint_is_left_alone_but_for_codes(world: World) -> None:
    world.consults(20)
    world.number()
    world.receiver.behave = refuses(500)
    with world.sending() as sender:
        world.wait_until(lambda: sender.is_failing)
        time.sleep(0.3)
        tried = len(world.receiver.received)
        assert FAILURES_MAX <= tried <= FAILURES_MAX + AT_ONCE_MAX
        world.stage.notify(authcode_created("s-19", "code-1"))
        world.number()
        world.wait_until(lambda: any(each.expires_at and each.attempts for each in world.rows()))
        assert len(world.receiver.received) == tried + 1
        # What is told to it now, it takes; the rest follows the first success.
        world.receiver.behave = takes_it
        sender._probe_at = 0  # noqa: SLF001 -- a minute is over
        world.stage.clock.forward(seconds=10)
        world.wait_until(lambda: set(world.statuses()) == {"delivered"})


def test_a_dead_endpoint_does_not_delay_another(world: World) -> None:
    over = threading.Event()
    with a_receiver(takes_it_after(over)) as dead:
        world.consults(20)
        world.number("dead", "shop")
        with world.sending(dead.endpoint("dead")), world.sending():
            world.receiver.wait_for(20)
            assert len(dead.received) <= AT_ONCE_MAX
            over.set()


def test_whoever_has_not_the_lease_sends_nothing(world: World) -> None:
    has_lease = threading.Event()
    world.stage.consult()
    world.number()
    with world.sending(may_send=has_lease.is_set):
        time.sleep(0.4)
        assert world.receiver.received == []
        has_lease.set()
        world.receiver.wait_for(1)


def test_a_lease_that_ends_during_a_look_starts_no_request(world: World) -> None:
    """As where the database stalls after the lease was asked for."""
    has_lease, has_looked = threading.Event(), threading.Event()
    has_lease.set()
    world.stage.consult()
    world.number()
    database = world.stage.database

    class Stalling:
        def run(self, work: Any, **options: Any) -> Any:  # noqa: ANN401
            found = database.run(work, **options)
            if isinstance(work, partial) and work.func is feed.at_positions and not has_looked.is_set():
                has_lease.clear()
                has_looked.set()
            return found

    world.stage.database = Stalling()  # type: ignore[assignment] # as far as it is used
    try:
        with world.sending(may_send=has_lease.is_set):
            assert has_looked.wait(30)
            time.sleep(0.4)
            assert world.receiver.received == []
            has_lease.set()
            world.receiver.wait_for(1)
    finally:
        world.stage.database = database


def test_what_was_sent_and_not_recorded_is_sent_again(world: World) -> None:
    """As where the sender is killed in between."""
    world.stage.consult()
    world.number()
    broken = world.stage.database

    class Forgetful:
        def run(self, work: Any, **options: Any) -> Any:  # noqa: ANN401
            if isinstance(work, partial) and work.func is deliveries.record:
                raise DatabaseUnavailableError("Killed")
            return broken.run(work, **options)

    stop = threading.Event()
    sender = Sender(world.receiver.endpoint(), Forgetful(), body=event_body, clock=world.stage.clock)  # type: ignore[arg-type] # as far as it is used
    thread = threading.Thread(target=sender.run_until, args=(stop,), daemon=True)
    thread.start()
    world.receiver.wait_for(1)
    assert world.statuses() == ["due"]
    with world.sending():
        world.wait_until(lambda: world.statuses() == ["delivered"])
    stop.set()
    thread.join(timeout=30)
    first, second = world.receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


def test_while_nothing_can_be_recorded_nothing_is_sent(world: World) -> None:
    world.consults(30)
    world.number()
    database, is_away = world.stage.database, threading.Event()
    is_away.set()

    class SometimesAway:
        def run(self, work: Any, **options: Any) -> Any:  # noqa: ANN401
            if isinstance(work, partial) and work.func is deliveries.record and is_away.is_set():
                raise DatabaseUnavailableError("Away")
            return database.run(work, **options)

    def slow(handler: Handler) -> None:
        time.sleep(0.05)
        handler.answer(204)

    world.receiver.behave = slow
    world.stage.database = SometimesAway()  # type: ignore[assignment] # as far as it is used
    try:
        with world.sending():
            time.sleep(1)
            assert len(world.receiver.received) <= 3 * AT_ONCE_MAX
            is_away.clear()
            world.receiver.wait_for(30)
    finally:
        world.stage.database = database
    world.wait_until(lambda: set(world.statuses()) == {"delivered"})
    assert len(world.receiver.received) == 30


def test_an_attempt_that_the_database_refuses_keeps_no_other_from_the_record(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.consults(6)
    world.number()
    record, refused = deliveries.record, world.rows()[0].id

    def refuse_one(session: Any, attempts: Any) -> None:  # noqa: ANN401
        if any(each.delivery_id == refused for each in attempts):
            session.execute(text("INSERT INTO nowhere VALUES (1)"))
        record(session, attempts)

    monkeypatch.setattr(deliveries, "record", refuse_one)
    with world.sending():
        world.wait_until(lambda: world.statuses() == ["due", *["delivered"] * 5])
        time.sleep(0.5)
    assert len(world.receiver.received) == 6


def test_at_the_end_what_is_in_flight_is_waited_for(world: World) -> None:
    world.stage.consult()
    world.number()

    def slow(handler: Handler) -> None:
        time.sleep(0.5)
        handler.answer(204)

    world.receiver.behave = slow
    with world.sending():
        world.receiver.wait_for(1)
    assert world.statuses() == ["delivered"]


def test_what_nobody_takes_is_not_told_of_twice_at_once(world: World) -> None:
    """Two workers that both believe to hold the lease, as after a freeze: an attempt counts once."""
    world.consults(10)
    world.number()
    with world.sending(), world.sending():
        world.wait_until(lambda: set(world.statuses()) == {"delivered"})
    assert [each.attempts for each in world.rows()] == [1] * 10
    assert len(world.attempts()) == 10
