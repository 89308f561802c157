"""Deliveries that are processed together: what one meets is its own affair."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.alipay.secret import Secret
from app.database.engines import POOL_SIZE
from app.receiver import Receipt, Receiver
from app.receiver.gathering import TOGETHER_MAX
from app.receiver.reports import AuthcodeReport
from app.simulator.draft import authcode_created, token_canceled, token_created
from tests.integration.stage import Stage, a_stage
from tests.unit.alipay.wire import a_signed_delivery

#: More than ever go together.
CROWD = 80


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
def held(stage: Stage, names: Sequence[str]) -> Iterator[None]:
    """Be somebody else who holds the rows of these authorizations."""
    url = stage.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as somebody_else:
        somebody_else.execute("SELECT 1 FROM authorizations WHERE auth_state = ANY (%s) FOR UPDATE", [list(names)])
        yield
        somebody_else.rollback()


# More than have connections, and more than may be patient.
@pytest.mark.parametrize("number", [1, POOL_SIZE + 8])
def test_rows_that_somebody_holds_hold_up_whom_they_concern_alone(on_postgresql: Stage, number: int) -> None:
    stage = on_postgresql
    names = [f"s-{number}" for number in range(TOGETHER_MAX)]
    for name in names:
        stage.consult(name)
    with ThreadPoolExecutor(CROWD) as pool:
        with held(stage, names[:number]):
            receipts = crowd(stage, stage.receiver, pool, names)
            concerned = [receipts.pop(name) for name in names[:number]]
            wait(receipts.values(), timeout=30)
            assert {each.result(timeout=0).outcome for each in receipts.values()} == {"applied"}
        assert {each.result().answer.status for each in concerned} <= {200, 503}
    for name in names[:number]:
        assert stage.notify(authcode_created(name, f"code-of-{name}")).answer.status == 200
    assert {stage.state(name) for name in names} == {"authcode_issued"}


def test_a_row_that_is_held_for_a_moment_is_waited_for(on_postgresql: Stage) -> None:
    stage = on_postgresql
    stage.consult()
    receiver, code = stage.receiver, authcode_created("s-1", "code-1")
    with ThreadPoolExecutor(1) as pool:
        with held(stage, ["s-1"]):
            receipt = pool.submit(receiver.receive, a_signed_delivery(stage.alipay_key, body=code.body()))
            # Longer than anybody waits who is not patient.
            wait([receipt], timeout=0.5)
            assert not receipt.done()
        assert receipt.result().outcome == "applied"


@pytest.mark.parametrize("what", ["reports", "failed entries"])
def test_who_waits_for_a_row_from_elsewhere_leaves_connections_to_deliveries(on_postgresql: Stage, what: str) -> None:
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
            work.append(partial(receiver.record, report, cause="api"))
        else:
            stage.report_authcode(found, "another")
            body = authcode_created(name, f"code-of-{name}").body()
            with stage.broken_code(found):
                assert stage.notify(body).outcome == "failed"
            work.append(partial(receiver.receive, a_signed_delivery(stage.alipay_key, body=body)))
    with ThreadPoolExecutor(CROWD) as pool, held(stage, names):
        waiting = [pool.submit(each) for each in work]
        wait(waiting, timeout=0.05)
        receipts = [each.result() for each in crowd(stage, receiver, pool, others).values()]
        assert {each.outcome for each in receipts} == {"applied"}
        wait(waiting)


def test_what_breaks_is_stored_as_failed_and_takes_nobody_with_it(stage: Stage) -> None:
    names = [f"s-{number}" for number in range(TOGETHER_MAX)]
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
    kept = stage.notify_together(bodies)
    assert [each.is_new for each in kept] == [True, False, False, False, False, False]
    assert len({each.id for each in kept}) == 1
    assert [(entry.outcome, entry.deliveries) for entry in stage.entries()] == [("applied", 6)]


def test_what_repeats_an_entry_of_before_is_counted_beside_what_is_new(stage: Stage) -> None:
    stage.consult(flow="direct")
    stage.notify(token_canceled("token-1"))
    kept = stage.notify_together([token_canceled("token-1").body(), token_created("s-1", "token-1").body()])
    assert [each.is_new for each in kept] == [False, True]
    assert [(entry.type, entry.outcome, entry.deliveries) for entry in stage.entries()] == [
        ("TOKEN_CANCELED", "applied", 2),
        ("TOKEN_CREATED", "applied", 1),
    ]
    assert stage.state() == "canceled"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_whole_life_at_once_ends_as_one_after_another(stage: Stage, order: tuple[int, ...]) -> None:
    stage.consult()
    life = [authcode_created("s-1", "code-1"), token_created("s-1", "token-1"), token_canceled("token-1")]
    stage.notify_together([life[number].body() for number in order])
    assert [move[1] for move in stage.moves()] == ["consult", "authcode_created", "token_created", "token_canceled"]
    assert {entry.outcome for entry in stage.entries()} == {"applied"}
    assert stage.rendezvous() == []
