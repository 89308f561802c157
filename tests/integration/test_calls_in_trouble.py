"""What is wrong with one call, one row or one keyring keeps no other call from being made, recorded and ended."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import update

from app import call_statements, calls
from app.alipay.call import Done
from app.alipay.keyring import Keyring
from app.gateway import recording
from app.gateway.abandoned import AbandonedAttempts
from app.gateway.attempts import BegunAttempt, EndedAttempt
from app.models import Call
from app.report_errors import ConsultOverError
from app.secret import Secret
from app.simulator.draft import authcode_created, token_created
from app.vocabulary import CallKind
from tests.builders import CLIENT_ID
from tests.integration.calling import WALLET, CallingStage, a_calling_stage
from tests.integration.stage import Stage


@pytest.fixture(scope="session")
def merchant_key() -> RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def calling(stage: Stage, merchant_key: RSAPrivateKey) -> Iterator[CallingStage]:
    yield from a_calling_stage(stage, merchant_key)


@pytest.fixture
def on_postgresql(postgresql_stage: Stage, merchant_key: RSAPrivateKey) -> Iterator[CallingStage]:
    yield from a_calling_stage(postgresql_stage, merchant_key)


def newest(calling: CallingStage, kind: str) -> Call:
    return [each for each in calling.calls() if each.kind == kind][-1]


def issue_strange_code(calling: CallingStage, auth_state: str = "s-1") -> None:
    """Tell of a code that the gateway has not given: it refuses the exchange."""
    calling.stage.consult(auth_state, customer_belongs_to=WALLET)
    calling.stage.notify(authcode_created(auth_state, f"code-{auth_state}"))


def issue_code(calling: CallingStage) -> None:
    calling.consult()
    with calling.running():
        calling.wait_for(lambda: calling.statuses() == [("consult", "done")])
    calling.notify_code()


def is_over(calling: CallingStage, kind: str) -> Callable[[], bool]:
    return lambda: newest(calling, kind).status != "due"


def attempted_once(calling: CallingStage, kind: str) -> Callable[[], bool]:
    def is_so() -> bool:
        found = [each for each in calling.calls() if each.kind == kind]
        return bool(found) and found[-1].attempts == 1 and not found[-1].is_in_flight

    return is_so


def without_gateway(keyring: Keyring) -> Keyring:
    return Keyring({name: replace(client, gateway=None) for name, client in keyring.clients.items()})


@contextmanager
def held(calling: CallingStage, auth_state: str) -> Iterator[None]:
    """Hold the row of an authorization, as somebody does who looks at it by hand."""
    url = calling.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1 FROM authorizations WHERE auth_state = %s FOR UPDATE", (auth_state,))
        yield
        connection.rollback()


def test_a_request_that_does_not_open_stops_no_other_call(calling: CallingStage) -> None:
    issue_strange_code(calling, "s-1")
    calling.database.run(lambda session: session.execute(update(Call).values(sealed_request=b"x" * 60)))
    issue_strange_code(calling, "s-2")
    with calling.running():
        calling.wait_for(is_over(calling, "exchange"))
        assert calling.calls()[0].status == "due"
        calling.stage.clock.forward(minutes=2)
        calling.wait_for(lambda: calling.calls()[0].status == "failed")
    assert calling.events()[-1] == "exchange_failed"


def test_a_row_that_somebody_holds_stops_no_other_call(on_postgresql: CallingStage) -> None:
    calling = on_postgresql
    for each in range(12):
        issue_strange_code(calling, f"s-{each}")
    with held(calling, "s-0"), calling.running():
        calling.wait_for(lambda: sum(each.status == "due" for each in calling.calls()) == 1)
        issue_strange_code(calling, "s-new")
        calling.wait_for(is_over(calling, "exchange"))
    with calling.running():
        calling.forward_until(lambda: all(each.status != "due" for each in calling.calls()))


def test_a_row_that_somebody_holds_keeps_no_loss_from_being_told(on_postgresql: CallingStage) -> None:
    calling = on_postgresql
    for each in range(3):
        issue_strange_code(calling, f"s-{each}")
    calling.stage.clock.forward(minutes=2)
    with held(calling, "s-0"), calling.running():
        calling.wait_for(lambda: [each.status for each in calling.calls()].count("failed") == 2)


def test_what_is_overdue_is_not_in_front_of_a_fresh_code(calling: CallingStage) -> None:
    for each in range(150):
        issue_strange_code(calling, f"s-{each}")
    calling.stage.clock.forward(minutes=5)
    issue_strange_code(calling, "fresh")
    is_any_due = partial(call_statements.is_any_due, now=calling.stage.clock())
    assert calling.database.run(is_any_due, read_only=True)
    page = calling.database.run(
        partial(call_statements.lock_due, now=calling.stage.clock(), limit=100), read_only=False
    )
    assert [each.authorization_id for each in page] == [newest(calling, "exchange").authorization_id]


def test_nothing_is_locked_again_and_again_for_what_is_overdue(calling: CallingStage) -> None:
    issue_strange_code(calling)
    calling.stage.clock.forward(minutes=5)
    is_any_due = partial(call_statements.is_any_due, now=calling.stage.clock())
    assert not calling.database.run(is_any_due, read_only=True)


def test_a_refresh_that_was_switched_off_is_made_once_it_is_switched_on(calling: CallingStage) -> None:
    calling.activate()
    calling.fail("in-process", "refresh")
    calling.stage.clock.forward(days=356)
    with calling.running():
        calling.wait_for(attempted_once(calling, "refresh"))
    calling.use_gateway(refresh=False)
    calling.stage.clock.forward(minutes=1)
    with calling.running():
        calling.wait_for(is_over(calling, "refresh"))
    calling.use_gateway(refresh=True)
    with calling.running():
        calling.wait_for(lambda: newest(calling, "refresh").status == "done")


def test_a_worker_whose_keyring_has_no_gateway_leaves_calls_to_others_until_they_are_lost(
    calling: CallingStage,
) -> None:
    issue_strange_code(calling)
    calling.stage.keyring = without_gateway(calling.keyring)
    with calling.running():
        time.sleep(0.5)
        assert newest(calling, "exchange").status == "due"
        calling.forward_until(is_over(calling, "exchange"), step=timedelta(seconds=20))
    assert newest(calling, "exchange").status == "failed"
    assert "no gateway" in str(newest(calling, "exchange").reason)
    assert calling.events()[-1] == "exchange_failed"


def test_an_exchange_of_unknown_outcome_that_is_switched_off_is_undetermined_and_told(calling: CallingStage) -> None:
    issue_code(calling)
    calling.fail("cut-after", "exchange")
    with calling.running():
        calling.wait_for(attempted_once(calling, "exchange"))
    calling.use_gateway(exchange=False)
    calling.stage.clock.forward(seconds=5)
    with calling.running():
        calling.wait_for(is_over(calling, "exchange"))
    assert newest(calling, "exchange").status == "undetermined"
    assert calling.events()[-1] == "exchange_failed"


def test_that_an_older_token_is_revoked_says_nothing_of_a_newer_one(calling: CallingStage) -> None:
    """A worker that froze may record its success once another has gone on with the newer token."""
    authorization_id = calling.activate()
    calling.ask_revoke()
    first = newest(calling, "revoke")
    calling.stage.report_token(authorization_id, "token-2", replaces=calling.current_token())
    begun = {"attempts": 2, "is_in_flight": True, "due_at": None}
    calling.database.run(lambda session: session.execute(update(Call).where(Call.id == first.id).values(begun)))
    for number in (2, 1):
        done = Done({"result": {"resultStatus": "S"}}, 200, 5)
        key = (CLIENT_ID, "s-1")
        attempt = BegunAttempt(first.id, number, CallKind.REVOKE, key, first.subject_index, b"")
        ended = [EndedAttempt(attempt, done)]
        record = partial(recording.record_attempts, ended=ended, now=calling.stage.clock(), spread=lambda: 0.0)
        calling.receiver.run_work(record)
    assert calling.stage.state() == "token_active"
    assert newest(calling, "revoke").status == "due"


def test_a_worker_that_lost_the_lease_frees_no_attempt_of_the_next_one(calling: CallingStage) -> None:
    """It may have stalled before it freed what it took for abandoned, and the next one has made that again."""
    issue_strange_code(calling)
    begun = {"attempts": 2, "is_in_flight": True, "due_at": None}
    calling.database.run(lambda session: session.execute(update(Call).values(begun)))
    call, now = newest(calling, "exchange"), calling.stage.clock()
    calling.database.run(partial(call_statements.release, attempts=[(call.id, 1)], now=now))
    assert newest(calling, "exchange").is_in_flight
    assert newest(calling, "exchange").due_at is None
    calling.database.run(partial(call_statements.release, attempts=[(call.id, 2)], now=now))
    assert newest(calling, "exchange").due_at == now
    assert newest(calling, "exchange").is_uncertain


def test_a_worker_without_the_lease_counts_no_attempt_of_the_next_one_as_abandoned(calling: CallingStage) -> None:
    issue_strange_code(calling)
    begun = {"attempts": 1, "is_in_flight": True, "due_at": None}
    calling.database.run(lambda session: session.execute(update(Call).values(begun)))
    for has_lease in (False, True):
        abandoned = AbandonedAttempts(may_call=partial(bool, has_lease), monotonic=time.monotonic)
        abandoned.find(calling.database, made_here=())
        assert len(abandoned) == int(has_lease)


def test_the_order_of_fields_makes_no_other_consult(calling: CallingStage) -> None:
    calling.consult(env={"terminalType": "WEB", "osType": "IOS"})
    calling.consult(env={"osType": "IOS", "terminalType": "WEB"})
    assert len(calling.calls()) == 1


def test_nobody_is_asked_to_agree_again_by_a_used_auth_state(calling: CallingStage) -> None:
    authorization_id = calling.stage.consult(customer_belongs_to=WALLET)
    calling.stage.report_token(authorization_id, "token-1", auth_code="code-1")
    with pytest.raises(ConsultOverError):
        calling.consult()
    assert calling.calls() == []


def test_a_wallet_that_is_named_in_time_leaves_one_exchange_of_the_code(calling: CallingStage) -> None:
    calling.stage.consult()
    calling.stage.notify(authcode_created("s-1", "code-1"))
    calling.stage.consult(customer_belongs_to=WALLET)
    with calling.running():
        calling.wait_for(lambda: all(each.status != "due" for each in calling.calls()))
    assert [status for _, status in calling.statuses()] == ["unneeded", "failed"]
    assert calling.events().count("exchange_failed") == 1


def asked_of(calling: CallingStage, call: Call) -> dict[str, str]:
    """What a call sends, but for the code or token."""
    sent = json.loads(calls.request_body(calling.vault, call))
    return {name: sent.get(name) for name in ("customerBelongsTo", "merchantRegion")}


def test_a_region_that_is_named_with_a_late_wallet_goes_out_with_the_exchange(calling: CallingStage) -> None:
    calling.stage.consult()
    calling.stage.notify(authcode_created("s-1", "code-1"))
    calling.stage.consult(customer_belongs_to=WALLET, merchant_region="PH")
    assert asked_of(calling, newest(calling, "exchange")) == {"customerBelongsTo": WALLET, "merchantRegion": "PH"}


def test_a_region_that_is_named_with_a_late_wallet_goes_out_with_the_refresh_that_is_retried(
    calling: CallingStage,
) -> None:
    authorization_id = calling.stage.consult()
    calling.stage.report_token(authorization_id, auth_code="code-1", refresh_token=Secret("refresh-1"))
    calling.ask_refresh()
    with calling.running():
        calling.wait_for(is_over(calling, "refresh"))
    assert newest(calling, "refresh").reason == calls.NO_WALLET
    calling.stage.consult(customer_belongs_to=WALLET, merchant_region="PH")
    calling.retry(newest(calling, "refresh"))
    assert asked_of(calling, newest(calling, "refresh")) == {"customerBelongsTo": WALLET, "merchantRegion": "PH"}


def test_a_token_that_a_process_without_the_gateway_took_in_needs_no_exchange(calling: CallingStage) -> None:
    issue_code(calling)
    with_gateway = calling.keyring
    calling.stage.keyring = without_gateway(with_gateway)
    assert calling.stage.notify(token_created("s-1", "token-x")).outcome == "applied"
    calling.stage.keyring = with_gateway
    with calling.running():
        calling.wait_for(is_over(calling, "exchange"))
    assert newest(calling, "exchange").status == "unneeded"
    assert calling.received("exchange") == []
    assert "exchange_failed" not in calling.events()


def test_a_refresh_of_unknown_outcome_is_settled_before_its_revoke_is_believed(calling: CallingStage) -> None:
    calling.activate()
    calling.fail("unknown-done", "refresh")
    calling.ask_refresh()
    with calling.running():
        calling.wait_for(attempted_once(calling, "refresh"))
        calling.ask_revoke()
        calling.wait_for(lambda: bool(calling.received("revoke")))
        calling.wait_for(lambda: not newest(calling, "revoke").is_in_flight)
        assert calling.stage.state() == "token_active"
        calling.forward_until(is_over(calling, "revoke"))
    assert newest(calling, "refresh").status == "undetermined"
    assert calling.stage.state() == "canceled"
