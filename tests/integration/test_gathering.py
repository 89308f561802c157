"""Deliveries that are processed together: what one meets is its own affair."""

from concurrent.futures import Future, ThreadPoolExecutor, wait

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.receiver import Receipt, Receiver
from app.receiver.gathering import TOGETHER_MAX
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


def test_a_row_that_somebody_holds_holds_up_whom_it_concerns_alone(
    postgresql_url: str, alipay_key: RSAPrivateKey
) -> None:
    stage = a_stage(postgresql_url, alipay_key)
    names = [f"s-{number}" for number in range(TOGETHER_MAX)]
    for name in names:
        stage.consult(name)
    receiver = stage.receiver
    url = stage.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with ThreadPoolExecutor(CROWD) as pool, psycopg.connect(url) as somebody_else:
        somebody_else.execute("SELECT 1 FROM authorizations WHERE auth_state = 's-7' FOR UPDATE")
        receipts = crowd(stage, receiver, pool, names)
        held_up = receipts.pop("s-7")
        done, _ = wait(receipts.values(), timeout=30)
        # Nothing has been released yet.
        assert {each.result().outcome for each in done} == {"applied"}
        assert len(done) == len(receipts)
        somebody_else.rollback()
        assert held_up.result().answer.status in {200, 503}
    assert stage.notify(authcode_created("s-7", "code-of-s-7")).answer.status == 200
    assert {stage.state(name) for name in names} == {"authcode_issued"}
    stage.database.close()


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
