"""What PostgreSQL asks to be tried again is tried again, a bounded number of times, and then given up."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.limits import ATTEMPTS_MAX
from app.simulator.draft import authcode_created
from tests.integration.stage import a_stage

#: Once beside the transaction that waits for the same rows, then without it.
TRIES_MAX = 1 + ATTEMPTS_MAX

DEADLOCK, SERIALIZATION_FAILURE = "40P01", "40001"


def test_of_two_transactions_that_wait_for_each_other_both_succeed_in_the_end(
    postgresql_url: str, alipay_key: RSAPrivateKey
) -> None:
    """The transaction that gives up first releases its locks, so that the other commits; then its retry succeeds."""
    stage = a_stage(postgresql_url, alipay_key)
    stage.consult("s-1")
    stage.consult("s-2")
    both_hold_one = threading.Barrier(2)
    tries: list[str] = []

    def touch(first: str, second: str) -> None:
        def work(session: Session) -> None:
            tries.append(first)
            lock(session, first)
            # Only the first time: a retry runs by itself.
            if tries.count(first) == 1:
                both_hold_one.wait(timeout=10)
            lock(session, second)

        stage.database.run(work)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(touch, "s-1", "s-2"), pool.submit(touch, "s-2", "s-1")]:
            done.result(timeout=30)
    # They did wait for each other, or one try of each would have been enough.
    assert len(tries) > 2
    stage.database.close()


def lock(session: Session, auth_state: str) -> None:
    session.execute(text("SELECT 1 FROM authorizations WHERE auth_state = :name FOR UPDATE"), {"name": auth_state})


@pytest.mark.parametrize("code", [DEADLOCK, SERIALIZATION_FAILURE])
@pytest.mark.parametrize("failures", [TRIES_MAX - 1, TRIES_MAX])
def test_a_conflict_is_tried_again_a_bounded_number_of_times(
    postgresql_url: str, alipay_key: RSAPrivateKey, code: str, failures: int
) -> None:
    stage = a_stage(postgresql_url, alipay_key)
    stage.consult()
    stage.database.run(lambda session: conflict(session, code, times=failures))
    receipt = stage.notify(authcode_created("s-1", "code-1"))
    if failures < TRIES_MAX:
        assert (receipt.answer.status, receipt.outcome) == (200, "applied")
        assert len(stage.entries()) == 1
    else:
        assert (receipt.answer.status, receipt.answer.result_status) == (503, "U")
        assert stage.entries() == []
        # Alipay sends again, and by then it is over.
        assert stage.notify(authcode_created("s-1", "code-1")).outcome == "applied"
    assert len(stage.moves()) == 2
    stage.database.close()


def conflict(session: Session, code: str, *, times: int) -> None:
    """Make the next transitions fail as in a conflict. A sequence counts them: it is not rolled back."""
    session.execute(text("CREATE SEQUENCE conflicts"))
    session.execute(
        text(
            f"""CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF nextval('conflicts') <= {times} THEN RAISE EXCEPTION USING ERRCODE = '{code}'; END IF;
                RETURN NEW;
            END $$"""
        )
    )
    session.execute(
        text("CREATE TRIGGER conflict BEFORE INSERT ON transitions FOR EACH ROW EXECUTE FUNCTION conflict()")
    )
