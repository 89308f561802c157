"""Deliveries that share a transaction: one that breaks, or needs a held row, costs the others nothing."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.limits import BATCH_SIZE_MAX, POOL_SIZE, THREADS_MAX
from app.receiver import Receipt, Receiver
from app.reports import AuthcodeReport
from app.secret import Secret
from app.simulator.draft import authcode_created, token_canceled, token_created
from app.vocabulary import CauseKind
from tests.builders import a_signed_delivery
from tests.integration.stage import Stage, a_stage

#: More than fit into a batch.
CROWD = 80

ROWS = "SELECT 1 FROM authorizations WHERE auth_state = ANY (%s) FOR UPDATE"
TABLE = "LOCK TABLE inbox IN SHARE MODE"


def crowd(stage: Stage, receiver: Receiver, pool: ThreadPoolExecutor, names: list[str]) -> dict[str, "Future[Receipt]"]:
    """Deliver a code for each of these at once, to one worker."""
    deliveries = {
        name: a_signed_delivery(stage.alipay_key, body=authcode_created(name, f"code-of-{name}").body())
        for name in names
    }
    return {name: pool.submit(receiver.receive, delivery) for name, delivery in deliveries.items()}


def test_a_crowd_is_acknowledged_and_each_has_its_effect(stage: Stage) -> None:
    names = [f"s-{number}" for number in range(CROWD)]
    for name in names:
        stage.consult(name)
    receiver = stage.receiver
    with ThreadPoolExecutor(CROWD) as pool:
        receipts = [each.result() for each in crowd(stage, receiver, pool, names).values()]
    assert {(each.answer.status, each.outcome) for each in receipts} == {(200, "applied")}
    assert len({each.entry_id for each in receipts}) == CROWD
    assert {stage.state(name) for name in names} == {"authcode_issued"}


@pytest.fixture
def on_postgresql(postgresql_url: str, alipay_key: RSAPrivateKey) -> Iterator[Stage]:
    stage = a_stage(postgresql_url, alipay_key)
    yield stage
    stage.database.close()


@contextmanager
def held(stage: Stage, what: str, *parameters: object) -> Iterator[None]:
    """Hold, in another transaction, the rows that this statement locks."""
    url = stage.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as other:
        other.execute(what.encode(), parameters)
        yield
        other.rollback()


# One, and more than there are connections.
@pytest.mark.parametrize("number", [1, POOL_SIZE + 8])
def test_held_rows_delay_only_the_deliveries_that_need_them(on_postgresql: Stage, number: int) -> None:
    stage = on_postgresql
    names = [f"s-{number}" for number in range(BATCH_SIZE_MAX)]
    for name in names:
        stage.consult(name)
    with ThreadPoolExecutor(CROWD) as pool, held(stage, ROWS, names[:number]):
        receipts = crowd(stage, stage.receiver, pool, names)
        concerned = [receipts.pop(name) for name in names[:number]]
        wait(receipts.values(), timeout=30)
        assert {each.result(timeout=0).outcome for each in receipts.values()} == {"applied"}
        assert not any(each.done() for each in concerned)
        # For longer than a call may take.
        assert {each.result(timeout=30).answer.status for each in concerned} == {503}
    for name in names[:number]:
        receipt = stage.notify(authcode_created(name, f"code-of-{name}"))
        assert (receipt.answer.status, receipt.outcome, receipt.is_new) == (200, "applied", True)
    assert {stage.state(name) for name in names} == {"authcode_issued"}


@pytest.mark.parametrize("what", [ROWS, TABLE], ids=["rows", "table"])
def test_a_row_that_is_held_for_a_moment_is_waited_for(on_postgresql: Stage, what: str) -> None:
    """For longer than anybody waits with a connection, and by more than there are connections."""
    stage = on_postgresql
    names = [f"s-{number}" for number in range(2 * POOL_SIZE)]
    for name in names:
        stage.consult(name)
    with ThreadPoolExecutor(CROWD) as pool:
        with held(stage, what, *([names] if what == ROWS else [])):
            receipts = crowd(stage, stage.receiver, pool, names)
            done, _ = wait(receipts.values(), timeout=0.5)
            assert not done
        assert {each.result().outcome for each in receipts.values()} == {"applied"}


def test_readers_wait_for_a_table_that_is_held_for_a_moment(on_postgresql: Stage) -> None:
    on_postgresql.consult()
    with ThreadPoolExecutor(CROWD) as pool:
        with held(on_postgresql, "LOCK TABLE authorizations IN ACCESS EXCLUSIVE MODE"):
            states = [pool.submit(on_postgresql.state) for _ in range(2 * POOL_SIZE)]
            done, _ = wait(states, timeout=0.3)
            assert not done
        assert {each.result() for each in states} == {"consulted"}


def test_a_transaction_that_waits_for_a_row_holds_no_other_row(on_postgresql: Stage) -> None:
    """As when many rows are sealed again, and another transaction holds the last of them."""
    stage = on_postgresql
    stage.consult("s-1")
    stage.consult("s-2")
    has_one = threading.Event()

    def want_both(session: Session) -> None:
        for name in ("s-1", "s-2"):
            session.execute(text("SELECT 1 FROM authorizations WHERE auth_state = :name FOR UPDATE"), {"name": name})
            has_one.set()

    with ThreadPoolExecutor(1) as pool:
        with held(stage, ROWS, ["s-2"]):
            waiting = pool.submit(stage.database.run, want_both)
            has_one.wait()
            assert stage.notify(authcode_created("s-1", "code-1")).outcome == "applied"
            assert not waiting.done()
        waiting.result()


@pytest.mark.parametrize("what", ["reports", "failed entries"])
def test_other_work_that_waits_for_a_row_leaves_connections_to_deliveries(on_postgresql: Stage, what: str) -> None:
    stage = on_postgresql
    others = [f"s-{number}" for number in range(10)]
    for name in others:
        stage.consult(name)
    names = [f"held-{number}" for number in range(POOL_SIZE)]
    ids = {name: stage.consult(name) for name in names}
    receiver, work = stage.receiver, list[Callable[[], object]]()
    for name, found in ids.items():
        if what == "reports":
            report = AuthcodeReport(found, Secret(f"code-of-{name}"))
            work.append(partial(receiver.record, report, cause=CauseKind.API))
        else:
            stage.report_authcode(found, "another")
            body = authcode_created(name, f"code-of-{name}").body()
            with stage.broken_code(found):
                assert stage.notify(body).outcome == "failed"
            work.append(partial(receiver.receive, a_signed_delivery(stage.alipay_key, body=body)))
    with ThreadPoolExecutor(CROWD) as pool, held(stage, ROWS, names):
        waiting = [pool.submit(each) for each in work]
        wait(waiting, timeout=0.05)
        with held(stage, ROWS, others[:3]):
            receipts = crowd(stage, receiver, pool, others)
            wait(receipts.values(), timeout=0.5)
        assert {each.result().outcome for each in receipts.values()} == {"applied"}
        wait(waiting)


def test_the_replay_of_a_failed_entry_delays_no_other_delivery(on_postgresql: Stage) -> None:
    """Its own sender gets the answer later, and holds no thread until then."""
    stage = on_postgresql
    found = stage.consult()
    stage.report_authcode(found, "code-1")
    body = authcode_created("s-1", "code-1").body()
    with stage.broken_code(found):
        assert stage.notify(body).outcome == "failed"
    receiver = stage.receiver
    with held(stage, ROWS, ["s-1"]):
        replayed = receiver.receive_later(a_signed_delivery(stage.alipay_key, body=body))
        stage.consult("s-2")
        other = a_signed_delivery(stage.alipay_key, body=authcode_created("s-2", "code-2").body())
        assert receiver.receive_later(other).result(timeout=10).outcome == "applied"
        assert not replayed.done()
    assert replayed.result(timeout=10).outcome == "redundant"


def test_a_delivery_that_breaks_is_stored_as_failed_and_the_rest_of_its_batch_is_applied(stage: Stage) -> None:
    names = [f"s-{number}" for number in range(BATCH_SIZE_MAX)]
    ids = {name: stage.consult(name) for name in names}
    stage.report_authcode(ids["s-7"], "code-of-s-7")
    receiver = stage.receiver
    with ThreadPoolExecutor(CROWD) as pool, stage.broken_code(ids["s-7"]):
        receipts = {name: each.result() for name, each in crowd(stage, receiver, pool, names).items()}
    assert {each.answer.status for each in receipts.values()} == {200}
    assert receipts.pop("s-7").outcome == "failed"
    assert {each.outcome for each in receipts.values()} == {"applied"}


def test_of_one_notification_many_times_one_is_new(stage: Stage) -> None:
    stage.consult()
    bodies = [authcode_created("s-1", "code-1").body() + b" " * number for number in range(6)]
    receipts = stage.notify_batch(bodies)
    assert [each.is_new for each in receipts] == [True, False, False, False, False, False]
    assert len({each.entry_id for each in receipts}) == 1
    assert [(entry.outcome, entry.deliveries) for entry in stage.entries()] == [("applied", 6)]


def test_a_notification_twice_in_a_batch_has_the_time_of_its_last_delivery(stage: Stage) -> None:
    stage.consult()
    first = stage.clock.now
    stage.notify_batch([authcode_created("s-1", "code-1").body()] * 2, apart=timedelta(seconds=1))
    (entry,) = stage.entries()
    assert (entry.received_at, entry.last_received_at) == (first, first + timedelta(seconds=1))


def test_a_batch_counts_redeliveries_and_stores_new_notifications(stage: Stage) -> None:
    stage.consult(flow="direct")
    stage.notify(token_canceled("token-1"))
    receipts = stage.notify_batch([token_canceled("token-1").body(), token_created("s-1", "token-1").body()])
    assert [each.is_new for each in receipts] == [False, True]
    assert [(entry.type, entry.outcome, entry.deliveries) for entry in stage.entries()] == [
        ("TOKEN_CANCELED", "applied", 2),
        ("TOKEN_CREATED", "applied", 1),
    ]
    assert stage.state() == "canceled"


def test_of_those_that_contradict_each_other_in_one_batch_the_first_in_the_inbox_wins(stage: Stage) -> None:
    """As where they are resumed: they are judged in the order in which they are stored."""
    names = [f"s-{number}" for number in range(10)]
    for name in names:
        stage.consult(name, flow="direct")
    stage.notify_batch([token_created(name, "token-1").body() for name in names])
    assert [entry.outcome for entry in stage.entries()] == ["applied"] + ["rejected"] * 9


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_whole_life_in_one_batch_ends_as_one_after_another(stage: Stage, order: tuple[int, ...]) -> None:
    stage.consult()
    life = [authcode_created("s-1", "code-1"), token_created("s-1", "token-1"), token_canceled("token-1")]
    stage.notify_batch([life[number].body() for number in order])
    assert [move[1] for move in stage.moves()] == ["consult", "authcode_created", "token_created", "token_canceled"]
    assert {entry.outcome for entry in stage.entries()} == {"applied"}
    assert stage.key_locks() == []


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_history_of_a_life_in_one_batch_does_not_run_backwards(stage: Stage, order: tuple[int, ...]) -> None:
    for name in (f"s-{number}" for number in range(8)):
        stage.consult(name)
        life = [
            authcode_created(name, name),
            token_created(name, f"token-of-{name}"),
            token_canceled(f"token-of-{name}"),
        ]
        stage.notify_batch([life[number].body() for number in order], apart=timedelta(seconds=1))
        times = [move["at"] for move in stage.document(name)["history"]]
        assert (len(times), times) == (4, sorted(times))


def test_as_many_as_a_server_has_threads_may_work_at_once(stage: Stage) -> None:
    """There are fewer connections than that, and each is free again soon."""
    start = threading.Barrier(THREADS_MAX)

    def look(session: Session) -> None:
        session.execute(text("SELECT 1"))
        time.sleep(0.02)

    def work(_: int) -> None:
        start.wait()
        stage.database.run(look, read_only=True)

    with ThreadPoolExecutor(THREADS_MAX) as pool:
        assert len(list(pool.map(work, range(THREADS_MAX)))) == THREADS_MAX
