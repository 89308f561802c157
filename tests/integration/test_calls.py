"""Calls to Alipay: an exchange within the minute, a refresh in time, a revoke until it is gone, whatever happens."""

import logging
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from unittest.mock import patch

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import update
from sqlalchemy.orm import Session

from app import call_statements, reports
from app.alipay.call import SECONDS_MAX
from app.authorizations import Cause
from app.models import AccessToken, Authorization, Call
from app.report_errors import CallNotRepeatableError, NoActiveTokenError, NoRefreshTokenError
from app.reports import AboutAuthorization, Recorded
from app.simulator.draft import authcode_created, token_canceled, token_created
from app.unit_of_work import UnitOfWork
from tests.integration.calling import CallingStage, a_calling_stage
from tests.integration.stage import Stage


@pytest.fixture(scope="session")
def merchant_key() -> RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def calling(stage: Stage, merchant_key: RSAPrivateKey) -> Iterator[CallingStage]:
    yield from a_calling_stage(stage, merchant_key)


def test_a_code_becomes_a_token_without_the_merchant(calling: CallingStage) -> None:
    calling.activate()
    assert calling.statuses() == [("consult", "done"), ("exchange", "done")]
    assert [move[1] for move in calling.stage.moves()] == ["consult", "authcode_created", "token_created"]
    assert calling.stage.document()["history"][-1]["cause"] == "gateway"
    assert calling.stage.document()["accessTokenExpiryTime"] is not None
    (exchange,) = calling.received("exchange")
    assert exchange.is_answered


# --- exchange --------------------------------------------------------------------------------------------------------


def issue_code(calling: CallingStage) -> str:
    """Consult, let the user agree, and let Alipay tell of the code; nobody has exchanged it yet."""
    calling.consult()
    with calling.running():
        calling.wait_for(lambda: calling.statuses() == [("consult", "done")])
    return calling.notify_code()


def exchange(calling: CallingStage) -> Call:
    return [each for each in calling.calls() if each.kind == "exchange"][-1]


def is_over(calling: CallingStage) -> Callable[[], bool]:
    return lambda: exchange(calling).status != "due"


def test_an_answer_that_is_not_final_is_asked_for_again_with_the_same_words(calling: CallingStage) -> None:
    issue_code(calling)
    calling.fail("in-process", "exchange", times=3)
    with calling.running():
        calling.forward_until(is_over(calling))
    assert exchange(calling).status == "done"
    assert calling.stage.state() == "token_active"
    received = calling.received("exchange")
    assert [each.result_code for each in received] == ["AUTH_IN_PROCESS"] * 3 + ["SUCCESS"]
    assert len({each.digest for each in received}) == 1


def test_a_code_whose_answer_was_lost_is_undetermined_and_a_notification_still_brings_the_token(
    calling: CallingStage,
) -> None:
    issue_code(calling)
    calling.fail("cut-after", "exchange")
    with calling.running():
        calling.forward_until(is_over(calling))
    call = exchange(calling)
    assert (call.status, call.result_code, call.attempts) == ("undetermined", "INVALID_AUTHCODE", 2)
    assert "may still bring the token" in str(call.reason)
    assert calling.events()[-1] == "exchange_failed"
    assert calling.stage.state() == "authcode_issued"
    (token,) = calling.gateway.ledger.tokens()
    assert calling.stage.notify(token_created("s-1", token.access_token)).outcome == "applied"
    assert calling.stage.state() == "token_active"


@pytest.mark.parametrize("code", ["PROCESS_FAIL", "SYSTEM_ERROR", "INVALID_AUTHCODE", "NEVER_HEARD_OF"])
def test_a_refused_code_is_spent_and_that_is_told(calling: CallingStage, code: str) -> None:
    issue_code(calling)
    calling.fail("refused", "exchange", code=code)
    with calling.running():
        calling.wait_for(is_over(calling))
        calling.stage.clock.forward(seconds=30)
    assert (exchange(calling).status, exchange(calling).result_code) == ("failed", code)
    assert len(calling.received("exchange")) == 1
    assert calling.events()[-1] == "exchange_failed"


@pytest.mark.parametrize(
    "fault",
    [
        "unsigned",
        "half-signed",
        "bad-signature",
        "replayed-signature",
        "other-client",
        "huge",
        "html",
        "not-json",
        "redirect",
    ],
)
def test_what_cannot_be_alipays_answer_is_not_believed(calling: CallingStage, fault: str) -> None:
    issue_code(calling)
    calling.fail(fault, "exchange", times=None)
    with calling.running():
        calling.wait_for(lambda: exchange(calling).attempts == 1 and not exchange(calling).is_in_flight)
        assert exchange(calling).status == "due"
        assert calling.stage.state() == "authcode_issued"
        calling.gateway.faults.clear()
        calling.forward_until(is_over(calling))
    # The work was done, and nobody can say so any more.
    assert exchange(calling).status == "undetermined"


def test_a_code_is_lost_within_its_minute_when_alipay_never_answers(calling: CallingStage) -> None:
    issue_code(calling)
    began = calling.stage.clock()
    calling.fail("cut-before", "exchange", times=None)
    with calling.running():
        calling.forward_until(is_over(calling))
    call = exchange(calling)
    assert (call.status, calling.events()[-1]) == ("undetermined", "exchange_failed")
    assert call.finished_at is not None
    assert call.finished_at - began < timedelta(minutes=1)
    assert call.attempts >= 7


def test_a_gateway_that_cannot_be_reached_cannot_have_taken_the_code(
    calling: CallingStage, caplog: pytest.LogCaptureFixture
) -> None:
    issue_code(calling)
    calling.gateway.close()
    logger = logging.getLogger("app")
    logger.addHandler(caplog.handler)
    try:
        with calling.running():
            calling.forward_until(is_over(calling), step=timedelta(seconds=10))
    finally:
        logger.removeHandler(caplog.handler)
    assert exchange(calling).status == "failed"
    assert calling.events()[-1] == "exchange_failed"
    said = {each.message: each for each in caplog.records if vars(each).get("kind") == "exchange"}
    assert "call answered" not in said
    assert said["call not answered"].levelname == "WARNING"
    assert "It refused the connection." in vars(said["call not answered"])["reason"]


def test_a_code_that_comes_too_late_is_reported_lost(calling: CallingStage) -> None:
    issue_code(calling)
    calling.stage.clock.forward(minutes=5)
    with calling.running():
        calling.wait_for(is_over(calling))
    assert (exchange(calling).status, exchange(calling).attempts) == ("failed", 0)
    assert calling.events()[-1] == "exchange_failed"


def test_a_second_code_takes_the_place_of_one_that_was_not_exchanged_yet(calling: CallingStage) -> None:
    issue_code(calling)
    calling.notify_code()
    with calling.running():
        calling.wait_for(lambda: calling.stage.state() == "token_active")
    assert calling.statuses()[1:] == [("exchange", "unneeded"), ("exchange", "done")]
    assert len(calling.received("exchange")) == 1


def test_a_second_code_is_exchanged_while_the_first_has_no_final_answer(calling: CallingStage) -> None:
    issue_code(calling)
    calling.fail("in-process", "exchange")
    with calling.running():
        calling.wait_for(lambda: exchange(calling).attempts == 1 and not exchange(calling).is_in_flight)
        calling.notify_code()
        calling.wait_for(lambda: calling.stage.state() == "token_active")
    assert calling.statuses()[1:] == [("exchange", "undetermined"), ("exchange", "done")]
    assert "exchange_failed" not in calling.events()


def test_a_second_code_is_not_needed_once_the_first_has_brought_a_token(calling: CallingStage) -> None:
    issue_code(calling)
    calling.fail("slow", "exchange", seconds=1.0)
    with calling.running():
        calling.wait_for(lambda: exchange(calling).is_in_flight)
        calling.notify_code()
        calling.wait_for(lambda: calling.stage.state() == "token_active")
    assert calling.statuses()[1:] == [("exchange", "done"), ("exchange", "unneeded")]
    (token,) = calling.gateway.ledger.tokens()
    assert calling.current_token() == token.access_token


def test_a_token_that_the_merchant_reports_meanwhile_ends_the_exchange(calling: CallingStage) -> None:
    issue_code(calling)
    authorization_id = calling.calls()[0].authorization_id
    calling.stage.report_token(authorization_id, "token-1")
    assert calling.statuses()[1:] == [("exchange", "unneeded")]
    with calling.running():
        calling.stage.clock.forward(seconds=30)
    assert calling.received("exchange") == []


def test_a_code_that_comes_with_its_token_is_not_exchanged(calling: CallingStage) -> None:
    authorization_id = calling.stage.consult(customer_belongs_to="GCASH")
    calling.stage.report_token(authorization_id, "token-1", auth_code="code-1")
    assert calling.calls() == []


def test_the_notification_of_the_token_may_come_before_the_answer(calling: CallingStage) -> None:
    issue_code(calling)
    calling.fail("slow", "exchange", seconds=1.0)
    with calling.running():
        calling.wait_for(lambda: bool(calling.gateway.ledger.tokens()))
        (token,) = calling.gateway.ledger.tokens()
        assert calling.stage.notify(token_created("s-1", token.access_token)).outcome == "applied"
        calling.wait_for(lambda: not exchange(calling).is_in_flight)
    assert calling.stage.moves()[-1][1:] == ("token_created", "authcode_issued", "token_active")
    # What only the answer says is on record, too.
    assert calling.stage.document()["accessTokenExpiryTime"] is not None


def test_a_cancellation_may_come_before_the_answer(calling: CallingStage) -> None:
    issue_code(calling)
    calling.fail("slow", "exchange", seconds=1.0)
    with calling.running():
        calling.wait_for(lambda: bool(calling.gateway.ledger.tokens()))
        (token,) = calling.gateway.ledger.tokens()
        assert calling.stage.notify(token_canceled(token.access_token)).reason == "unknown_token"
        calling.wait_for(lambda: exchange(calling).status == "done")
    assert calling.stage.state() == "canceled"
    assert [each[1] for each in calling.stage.moves()][-2:] == ["token_created", "token_canceled"]


def test_without_a_wallet_nothing_is_asked_and_that_is_told(calling: CallingStage) -> None:
    calling.stage.consult()
    calling.stage.notify(authcode_created("s-1", "code-1"))
    with calling.running():
        calling.wait_for(is_over(calling))
    assert calling.statuses() == [("exchange", "failed")]
    assert "customerBelongsTo" in str(exchange(calling).reason)
    assert calling.events()[-1] == "exchange_failed"
    with pytest.raises(CallNotRepeatableError):
        calling.retry(exchange(calling))


def test_a_consult_that_names_the_wallet_lets_the_code_be_exchanged(calling: CallingStage) -> None:
    calling.stage.consult()
    calling.stage.notify(authcode_created("s-1", "code-1"))
    with calling.running():
        calling.wait_for(is_over(calling))
        calling.stage.consult(customer_belongs_to="GCASH")
        calling.wait_for(is_over(calling))
    assert calling.statuses() == [("exchange", "failed"), ("exchange", "failed")]
    assert exchange(calling).result_code == "INVALID_AUTHCODE"


def test_a_merchant_that_exchanges_itself_is_left_alone(calling: CallingStage) -> None:
    issue_code(calling)
    calling.use_gateway(exchange=False)
    with calling.running():
        calling.wait_for(is_over(calling))
    assert exchange(calling).status == "unneeded"
    calling.notify_code()
    assert len(calling.calls()) == 2
    assert calling.received("exchange") == []


# --- dying and lagging -----------------------------------------------------------------------------------------------


def die_after_having_begun(calling: CallingStage) -> None:
    """Put an attempt on record and make none, as a worker that dies."""

    def begin(session: Session) -> None:
        now = calling.stage.clock()
        call_statements.begin_attempts(session, call_statements.lock_due(session, now=now, limit=10), now=now)

    calling.database.run(begin)


def test_what_a_dead_worker_has_begun_is_repeated_once_its_request_cannot_be_under_way(calling: CallingStage) -> None:
    issue_code(calling)
    die_after_having_begun(calling)
    ahead = [0.0]
    with calling.running(monotonic=lambda: time.monotonic() + ahead[0]):
        time.sleep(0.5)
        assert calling.received("exchange") == []
        ahead[0] = SECONDS_MAX + 1
        time.sleep(0.5)
        assert calling.received("exchange") == []
        ahead[0] = SECONDS_MAX + 3
        calling.wait_for(is_over(calling))
    assert (exchange(calling).status, exchange(calling).attempts) == ("done", 2)
    assert [each.milliseconds is None for each in calling.attempts()] == [False, True, False]


def test_a_code_that_a_dead_worker_may_have_used_is_undetermined(calling: CallingStage) -> None:
    issue_code(calling)
    die_after_having_begun(calling)
    calling.fail("refused", "exchange", code="INVALID_AUTHCODE")
    ahead = [0.0]
    with calling.running(monotonic=lambda: time.monotonic() + ahead[0]):
        time.sleep(0.3)
        ahead[0] = SECONDS_MAX + 3
        calling.wait_for(is_over(calling))
    assert (exchange(calling).status, exchange(calling).result_code) == ("undetermined", "INVALID_AUTHCODE")


def test_of_two_workers_only_one_makes_a_call(calling: CallingStage) -> None:
    issue_code(calling)
    with calling.running(), calling.running():
        calling.wait_for(is_over(calling))
    assert len(calling.received("exchange")) == 1


def test_a_worker_without_the_lease_calls_nobody(calling: CallingStage) -> None:
    issue_code(calling)
    with calling.running(may_call=lambda: False):
        time.sleep(0.5)
    assert exchange(calling).attempts == 0


def test_an_answer_is_recorded_once_the_database_is_back(calling: CallingStage) -> None:
    issue_code(calling)
    calling.fail("slow", "exchange", seconds=0.5)
    with calling.running():
        calling.wait_for(lambda: exchange(calling).is_in_flight)
        with calling.database_away():
            time.sleep(1.5)
        calling.wait_for(is_over(calling))
    assert exchange(calling).status == "done"
    assert calling.stage.state() == "token_active"


def test_a_token_that_cannot_be_recorded_is_kept_and_recorded_by_a_retry(calling: CallingStage) -> None:
    issue_code(calling)
    with patch.object(reports, "apply", side_effect=RuntimeError("our fault")), calling.running():
        calling.wait_for(is_over(calling))
    call = exchange(calling)
    assert call.status == "failed"
    assert "RuntimeError" in str(call.reason)
    assert calling.events()[-1] == "exchange_failed"
    (token,) = calling.gateway.ledger.tokens()
    calling.retry(call)
    assert exchange(calling).status == "done"
    assert calling.current_token() == token.access_token
    assert len(calling.received("exchange")) == 1


def test_a_cancellation_that_waits_for_a_token_is_resumed_by_the_retry_that_records_it(calling: CallingStage) -> None:
    issue_code(calling)
    with patch.object(reports, "apply", side_effect=RuntimeError("our fault")), calling.running():
        calling.wait_for(is_over(calling))
    (token,) = calling.gateway.ledger.tokens()
    assert calling.stage.notify(token_canceled(token.access_token)).reason == "unknown_token"
    calling.retry(exchange(calling))
    assert calling.stage.state() == "canceled"


def test_one_answer_that_cannot_be_recorded_keeps_no_other_from_it(calling: CallingStage) -> None:
    for name in ("s-1", "s-2", "s-3"):
        calling.consult(name)
    with calling.running():
        calling.wait_for(lambda: [each.status for each in calling.calls()] == ["done"] * 3)
    for name in ("s-1", "s-2", "s-3"):
        calling.notify_code(name)
    apply, broken = reports.apply, calling.calls()[4].authorization_id

    def break_one(
        work: UnitOfWork, authorization: Authorization, report: AboutAuthorization, *, cause: Cause
    ) -> Recorded:
        if authorization.id == broken:
            raise RuntimeError
        return apply(work, authorization, report, cause=cause)

    with patch.object(reports, "apply", break_one), calling.running():
        calling.wait_for(lambda: all(each.status != "due" for each in calling.calls()))
    assert [each.status for each in calling.calls()[3:]] == ["done", "failed", "done"]


def test_what_has_ended_is_purged_and_an_answer_that_was_not_recorded_is_kept(calling: CallingStage) -> None:
    issue_code(calling)
    with patch.object(reports, "apply", side_effect=RuntimeError("our fault")), calling.running():
        calling.wait_for(is_over(calling))
    calling.consult("s-2")
    long_after = partial(call_statements.purge, before=calling.stage.clock() + timedelta(days=31), limit=10)
    soon_after = partial(call_statements.purge, before=calling.stage.clock() - timedelta(days=1), limit=10)
    assert calling.database.run(soon_after) == 0
    assert calling.database.run(long_after) == 1
    assert calling.statuses() == [("exchange", "failed"), ("consult", "due")]


# --- refresh ---------------------------------------------------------------------------------------------------------


def refreshes(calling: CallingStage) -> list[Call]:
    return [each for each in calling.calls() if each.kind == "refresh"]


def test_a_token_is_refreshed_ten_days_before_it_ends(calling: CallingStage) -> None:
    calling.activate()
    (old,) = calling.gateway.ledger.tokens()
    assert old.expires_at is not None
    calling.stage.clock.forward(days=352)
    with calling.running():
        calling.forward_until(lambda: len(calling.gateway.ledger.tokens()) == 2, step=timedelta(hours=12), pause=1.1)
        calling.wait_for(lambda: [each.status for each in refreshes(calling)] == ["done"])
    (_, new) = calling.gateway.ledger.tokens()
    assert timedelta(days=7) < old.expires_at - new.given_at <= timedelta(days=11)
    assert calling.stage.moves()[-1][1] == "token_refreshed"
    assert calling.stage.document()["history"][-1]["cause"] == "gateway"
    assert calling.current_token() == new.access_token


def refresh(calling: CallingStage) -> None:
    """Ask for a refresh, and let a worker make it until it ends."""
    calling.ask_refresh()
    with calling.running():
        calling.forward_until(lambda: refreshes(calling)[-1].status != "due")


def test_a_refresh_that_brings_no_refresh_token_keeps_the_old_one(calling: CallingStage) -> None:
    calling.activate()
    before = calling.refresh_token()
    calling.fail("no-refresh-token", "refresh")
    refresh(calling)
    assert calling.current_token() == calling.gateway.ledger.tokens()[1].access_token
    assert calling.refresh_token() == before
    refresh(calling)
    assert [each.status for each in refreshes(calling)] == ["done", "done"]


def test_the_cancellation_of_the_old_token_does_not_touch_the_new_one(calling: CallingStage) -> None:
    """Before the refresh is answered, between, and after: the old token is dead, and its cancellation is late."""
    calling.activate()
    old = calling.current_token()
    calling.ask_refresh()
    calling.fail("slow", "refresh", seconds=1.0)
    with calling.running():
        calling.wait_for(lambda: refreshes(calling)[-1].is_in_flight)
        calling.wait_for(lambda: refreshes(calling)[-1].status == "done")
    assert calling.stage.notify(token_canceled(old)).reason == "superseded_token"
    assert calling.stage.state() == "token_active"


def test_a_cancellation_before_a_refresh_is_answered_closes_and_what_it_brings_is_revoked(
    calling: CallingStage,
) -> None:
    """By then it cannot be told from the user's own: a canceled authorization never becomes active again."""
    calling.activate()
    old = calling.current_token()
    calling.ask_refresh()
    calling.fail("slow", "refresh", seconds=1.0)
    with calling.running():
        calling.wait_for(lambda: refreshes(calling)[-1].is_in_flight)
        assert calling.stage.notify(token_canceled(old)).outcome == "applied"
        calling.wait_for(lambda: calling.statuses()[-1] == ("revoke", "done"))
    assert calling.stage.state() == "canceled"
    assert not any(each.is_alive(calling.stage.clock()) for each in calling.gateway.ledger.tokens())


def test_a_refused_refresh_is_told_while_there_is_time(calling: CallingStage) -> None:
    calling.activate()
    calling.fail("refused", "refresh", code="INVALID_REFRESH_TOKEN")
    refresh(calling)
    call = refreshes(calling)[-1]
    assert (call.status, call.result_code) == ("failed", "INVALID_REFRESH_TOKEN")
    assert "authorize again" in str(call.reason)
    assert calling.events()[-1] == "refresh_failed"
    assert calling.stage.state() == "token_active"


def test_a_refresh_without_a_final_answer_is_given_up_while_there_is_time(calling: CallingStage) -> None:
    calling.activate()
    (token,) = calling.gateway.ledger.tokens()
    calling.fail("unknown", "refresh", times=None)
    calling.stage.clock.forward(days=355)
    with calling.running():
        calling.wait_for(lambda: bool(refreshes(calling)))
        calling.forward_until(lambda: refreshes(calling)[-1].status != "due", step=timedelta(hours=6))
    call = refreshes(calling)[-1]
    assert call.status == "undetermined"
    assert token.expires_at is not None
    assert call.finished_at is not None
    assert token.expires_at - call.finished_at > timedelta(days=3)
    assert calling.events()[-1] == "refresh_failed"


def test_a_refresh_that_the_merchant_reports_meanwhile_wins(calling: CallingStage) -> None:
    authorization_id = calling.activate()
    calling.ask_refresh()
    calling.stage.report_token(authorization_id, "token-2", replaces=calling.current_token())
    assert refreshes(calling)[-1].status == "unneeded"
    with calling.running():
        calling.stage.clock.forward(minutes=1)
        time.sleep(0.3)
    assert calling.received("refresh") == []


def test_a_refresh_that_is_asked_for_twice_is_made_once(calling: CallingStage) -> None:
    calling.activate()
    calling.ask_refresh()
    calling.ask_refresh()
    with calling.running():
        calling.wait_for(lambda: refreshes(calling)[-1].status == "done")
    assert len(calling.received("refresh")) == 1


def test_a_wallet_that_does_not_refresh_is_not_asked_to(calling: CallingStage) -> None:
    calling.fail("no-refresh-token", "exchange")
    calling.activate()
    with pytest.raises(NoRefreshTokenError):
        calling.ask_refresh()
    with calling.running():
        calling.stage.clock.forward(days=700)
        time.sleep(1.5)
    assert refreshes(calling) == []


def test_tokens_that_an_older_release_wrote_are_refreshed_too(calling: CallingStage) -> None:
    calling.activate()
    calling.database.run(lambda session: session.execute(update(AccessToken).values(refresh_due_at=None)))
    with calling.running(monotonic=time.monotonic):
        calling.forward_until(lambda: bool(refreshes(calling)), step=timedelta(days=5))


def test_a_merchant_that_refreshes_itself_is_left_alone(calling: CallingStage) -> None:
    calling.activate()
    calling.use_gateway(refresh=False)
    calling.stage.clock.forward(days=360)
    with calling.running():
        time.sleep(1.5)
    assert refreshes(calling) == []


# --- revoke ----------------------------------------------------------------------------------------------------------


def revokes(calling: CallingStage) -> list[Call]:
    return [each for each in calling.calls() if each.kind == "revoke"]


def revoke(calling: CallingStage) -> None:
    """Ask for a revoke, and let a worker make it until it ends."""
    calling.ask_revoke()
    with calling.running():
        calling.forward_until(lambda: revokes(calling)[-1].status != "due")


def test_a_revoke_cancels(calling: CallingStage) -> None:
    calling.activate()
    revoke(calling)
    assert revokes(calling)[-1].status == "done"
    assert calling.stage.moves()[-1][1:] == ("token_canceled", "token_active", "canceled")
    assert calling.stage.document()["history"][-1]["cause"] == "gateway"
    # The notification of it comes later, and says what is so already.
    (token,) = calling.gateway.ledger.tokens()
    assert calling.stage.notify(token_canceled(token.access_token)).outcome == "redundant"


@pytest.mark.parametrize("fault", ["cut-after", "unknown-done", "silent-done", "unsigned"])
def test_a_revoke_whose_answer_is_lost_is_made_again_until_the_token_is_gone(calling: CallingStage, fault: str) -> None:
    calling.activate()
    calling.fail(fault, "revoke", seconds=0.1)
    revoke(calling)
    call = revokes(calling)[-1]
    assert (call.status, call.result_code, call.attempts) == ("done", "INVALID_ACCESS_TOKEN", 2)
    assert calling.stage.state() == "canceled"


def test_a_revoke_goes_on_for_as_long_as_alipay_does_not_know(calling: CallingStage) -> None:
    calling.activate()
    calling.fail("unknown", "revoke", times=20)
    calling.ask_revoke()
    with calling.running():
        calling.forward_until(lambda: revokes(calling)[-1].status == "done", step=timedelta(minutes=30))
    assert len(calling.received("revoke")) == 21


def test_a_refused_revoke_is_told_and_the_token_stays_closed(calling: CallingStage) -> None:
    calling.activate()
    calling.fail("refused", "revoke", code="PROCESS_FAIL")
    revoke(calling)
    assert revokes(calling)[-1].status == "failed"
    assert calling.events()[-1] == "revoke_failed"
    assert calling.stage.state() == "token_active"
    revoke(calling)
    assert calling.stage.state() == "canceled"


def test_a_revoke_and_the_users_own_cancellation_at_the_same_instant_are_one(calling: CallingStage) -> None:
    calling.activate()
    (token,) = calling.gateway.ledger.tokens()
    calling.ask_revoke()
    calling.fail("slow", "revoke", seconds=1.0)
    with calling.running():
        calling.wait_for(lambda: revokes(calling)[-1].is_in_flight)
        assert calling.stage.notify(token_canceled(token.access_token)).outcome == "applied"
        calling.wait_for(lambda: not revokes(calling)[-1].is_in_flight)
    assert revokes(calling)[-1].status == "done"
    assert [each[1] for each in calling.stage.moves()].count("token_canceled") == 1


def test_a_token_that_was_refreshed_in_between_is_revoked_too(calling: CallingStage) -> None:
    authorization_id = calling.activate()
    calling.ask_revoke()
    calling.fail("slow", "revoke", seconds=1.0)
    with calling.running():
        calling.wait_for(lambda: revokes(calling)[-1].is_in_flight)
        calling.stage.report_token(authorization_id, "token-2", replaces=calling.current_token())
        calling.wait_for(lambda: len(calling.received("revoke")) == 2)
        calling.forward_until(lambda: revokes(calling)[-1].status != "due")
    assert calling.received("revoke")[-1].subject == "token-2"
    assert calling.stage.state() == "canceled"


def test_what_is_to_be_revoked_is_not_refreshed(calling: CallingStage) -> None:
    calling.activate()
    calling.ask_refresh()
    calling.ask_revoke()
    assert [each.status for each in refreshes(calling)] == ["unneeded"]
    with pytest.raises(NoActiveTokenError):
        calling.ask_refresh()


# --- a payment's result ----------------------------------------------------------------------------------------------


def test_a_payment_that_was_refused_for_its_token_cancels(calling: CallingStage) -> None:
    authorization_id = calling.activate()
    calling.payment_result(authorization_id, "INVALID_ACCESS_TOKEN", access_token=calling.current_token())
    assert calling.stage.state() == "canceled"
    assert "payment" in calling.stage.document()["history"][-1]["reason"]


@pytest.mark.parametrize("code", ["USER_NOT_EXIST", "USER_STATUS_ABNORMAL", "USER_KYC_NOT_QUALIFIED", "SUCCESS"])
def test_any_other_result_says_nothing_of_the_token(calling: CallingStage, code: str) -> None:
    authorization_id = calling.activate()
    calling.payment_result(authorization_id, code, access_token=calling.current_token())
    assert calling.stage.state() == "token_active"


def test_an_old_result_never_kills_a_newer_token(calling: CallingStage) -> None:
    authorization_id = calling.activate()
    old, requested_at = calling.current_token(), calling.stage.clock()
    calling.stage.clock.forward(seconds=1)
    refresh(calling)
    calling.payment_result(authorization_id, "INVALID_ACCESS_TOKEN", access_token=old)
    calling.payment_result(authorization_id, "INVALID_ACCESS_TOKEN", requested_at=requested_at)
    calling.payment_result(authorization_id, "INVALID_ACCESS_TOKEN", access_token="a stranger's")
    assert calling.stage.state() == "token_active"
    calling.payment_result(authorization_id, "INVALID_ACCESS_TOKEN", requested_at=calling.stage.clock())
    assert calling.stage.state() == "canceled"
