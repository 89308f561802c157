"""The background work: numbering, sending and purging go on whatever happens, and one worker at a time does each."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session
from typing_extensions import override

from app.alipay.keyring import Keyring
from app.database import Database
from app.events import deliveries, feed
from app.events.endpoints import Endpoints
from app.models import FeedEvent, Lease, WebhookDelivery
from app.receiver import Receiver as StageReceiver
from app.simulator.draft import authcode_created, token_canceled, token_created
from app.vault import Vault
from app.worker import Worker
from tests.integration.stage import Stage
from tests.receiver import Receiver, a_receiver, refuses, takes_it_after


@dataclass
class Parts:
    """What a worker needs."""

    stage: Stage
    endpoints: Endpoints
    database: Any

    @property
    def keyring(self) -> Keyring:
        return self.stage.keyring

    @property
    def vault(self) -> Vault:
        return self.stage.vault

    @property
    def receiver(self) -> StageReceiver:
        return self.stage.receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with a_receiver() as receiver:
        yield receiver


@contextmanager
def working(stage: Stage, *receivers: Receiver, database: Any = None, retired: Sequence[str] = ()) -> Iterator[Worker]:  # noqa: ANN401
    """Work until the end of the block; endpoints are named `shop`, `shop-2` and so on."""
    names = ["shop", *(f"shop-{number}" for number in range(2, len(receivers) + 1))]
    endpoints = Endpoints(
        {name: each.endpoint(name) for name, each in zip(names, receivers, strict=False) if name not in retired}
    )
    worker = Worker(Parts(stage, endpoints, database or stage.database), clock=stage.clock)
    stop = threading.Event()
    thread = threading.Thread(target=worker.run_until, args=(stop,))
    thread.start()
    try:
        yield worker
    finally:
        stop.set()
        thread.join(timeout=30)
        assert not thread.is_alive()


def a_life(stage: Stage, auth_state: str = "s-1") -> None:
    stage.consult(auth_state)
    stage.deliver(authcode_created(auth_state, f"code-{auth_state}"))
    stage.deliver(token_created(auth_state, f"token-{auth_state}"))
    stage.deliver(token_canceled(f"token-{auth_state}"))


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def holders(stage: Stage) -> dict[str, str | None]:
    return {
        each.name: each.holder
        for each in stage.database.run(lambda session: list(session.scalars(select(Lease))), read_only=True)
    }


def statuses(stage: Stage) -> list[str]:
    order = select(WebhookDelivery.status).order_by(WebhookDelivery.id)
    return stage.database.run(lambda session: list(session.scalars(order)), read_only=True)


def test_what_happens_is_told_while_it_happens(stage: Stage, receiver: Receiver) -> None:
    with working(stage, receiver):
        a_life(stage)
        receiver.wait_for(4)
    assert receiver.told() == [("s-1", 1), ("s-1", 2), ("s-1", 3), ("s-1", 4)]
    assert statuses(stage) == ["delivered"] * 4


def test_without_endpoints_events_are_numbered(stage: Stage) -> None:
    with working(stage):
        a_life(stage)
        wait_until(lambda: stage.database.run(feed.last_position, read_only=True) == 4)


def test_of_two_workers_each_does_what_it_holds_and_nothing_is_told_twice(stage: Stage, receiver: Receiver) -> None:
    with working(stage, receiver), working(stage, receiver):
        for number in range(10):
            a_life(stage, f"s-{number}")
        wait_until(lambda: statuses(stage) == ["delivered"] * 40)
    assert len(receiver.received) == 40


def test_at_the_end_the_leases_are_given_back(stage: Stage, receiver: Receiver) -> None:
    with working(stage, receiver):
        wait_until(lambda: len(holders(stage)) == 3 and all(holders(stage).values()))
    assert holders(stage) == {"numbering": None, "calls": None, "endpoint:shop": None}


def test_another_worker_goes_on_at_once_where_one_ends(stage: Stage, receiver: Receiver) -> None:
    with working(stage, receiver):
        stage.consult("s-1")
        receiver.wait_for(1)
        second = working(stage, receiver)
        second.__enter__()
    ended_at = time.monotonic()
    stage.consult("s-2")
    receiver.wait_for(2)
    second.__exit__(None, None, None)
    # One that had to wait for a lease to end would take 8 seconds.
    assert receiver.received[1].at - ended_at < 6


def test_one_endpoint_that_hangs_keeps_the_lease_of_no_other(stage: Stage, receiver: Receiver) -> None:
    over = threading.Event()
    with a_receiver(takes_it_after(over)) as hangs:
        stop = threading.Event()
        endpoints = Endpoints({"shop": receiver.endpoint(), "hangs": hangs.endpoint("hangs")})
        worker = Worker(Parts(stage, endpoints, stage.database), clock=stage.clock)
        thread = threading.Thread(target=worker.run_until, args=(stop,))
        thread.start()
        stage.consult()
        hangs.wait_for(1)
        receiver.wait_for(1)
        stop.set()
        wait_until(lambda: holders(stage)["endpoint:shop"] is None and holders(stage)["numbering"] is None)
        assert holders(stage)["endpoint:hangs"] is not None
        over.set()
        thread.join(timeout=30)
    assert set(statuses(stage)) == {"delivered"}


def test_it_goes_on_after_a_database_that_was_away(stage: Stage, receiver: Receiver) -> None:
    is_away = threading.Event()

    class SometimesAway(Database):
        @override
        def run(self, *args: Any, **options: Any) -> Any:
            if is_away.is_set():
                raise OSError
            return super().run(*args, **options)

    database = SometimesAway(stage.database.engine.url.render_as_string(hide_password=False))
    with working(stage, receiver, database=database):
        stage.consult("s-1")
        receiver.wait_for(1)
        is_away.set()
        stage.consult("s-2")
        time.sleep(1.5)
        assert len(receiver.received) == 1
        is_away.clear()
        receiver.wait_for(2)
    database.close()


def test_it_goes_on_after_tables_that_were_not_as_they_must_be(stage: Stage, receiver: Receiver) -> None:
    def rename(old: str, new: str) -> None:
        stage.database.run(lambda session: session.execute(text(f"ALTER TABLE {old} RENAME TO {new}")))

    with working(stage, receiver):
        stage.consult("s-1")
        wait_until(lambda: statuses(stage) == ["delivered"])
        rename("feed", "elsewhere")
        stage.consult("s-2")
        time.sleep(0.5)
        rename("elsewhere", "feed")
        receiver.wait_for(2)


def test_old_events_are_purged(stage: Stage, receiver: Receiver) -> None:
    a_life(stage)
    with working(stage, receiver):
        wait_until(lambda: statuses(stage) == ["delivered"] * 4)
    stage.clock.forward(days=31)

    def is_purged() -> bool:
        return stage.database.run(lambda session: session.scalar(select(func.count(FeedEvent.position))) == 0)

    with working(stage, receiver):
        wait_until(is_purged)
    assert statuses(stage) == []


def test_what_is_due_to_an_endpoint_that_was_taken_out_is_given_up_once_it_is_too_old(
    stage: Stage, receiver: Receiver
) -> None:
    stage.consult()
    stage.database.run(partial(feed.number, subscribers=lambda _: ["shop", "retired"], now=stage.clock()))
    with working(stage, receiver):
        wait_until(lambda: statuses(stage) == ["delivered", "due"])
    stage.clock.forward(days=6)
    with working(stage, receiver):
        wait_until(lambda: statuses(stage) == ["delivered", "dead"])
    assert len(receiver.received) == 1


def test_what_failed_is_sent_again_by_the_next_worker(stage: Stage, receiver: Receiver) -> None:
    receiver.behave = refuses(500)
    with working(stage, receiver):
        stage.consult()
        wait_until(lambda: stage.database.run(_attempts, read_only=True) == [1])
    stage.clock.forward(minutes=1)
    with working(stage, receiver):
        wait_until(lambda: stage.database.run(_attempts, read_only=True) == [2])


def test_the_endpoints_that_are_owed_something_are_named(stage: Stage) -> None:
    stage.consult()
    stage.database.run(partial(feed.number, subscribers=lambda _: ["b", "a"], now=stage.clock()))
    assert stage.database.run(deliveries.endpoints_with_due, read_only=True) == ["a", "b"]


def _attempts(session: Session) -> list[int]:
    return list(session.scalars(select(WebhookDelivery.attempts)))
