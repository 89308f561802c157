"""What a life with calls asks of the database is found by indexes, however many calls and tokens there are."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app import tokens
from benchmarks.loading import load
from tests.builders import CLIENT_ID
from tests.integration.calling import CallingStage, a_calling_stage
from tests.integration.stage import Stage, a_stage
from tests.integration.test_plans import ROWS, Plan, is_whole, plans_of, read_whole, sqlite_plans_of

#: Beyond anything that a test does now.
LATER = datetime(2035, 1, 1, tzinfo=UTC)
#: Every authorization was exchanged and refreshed; of one in a hundred a call is still to come. Every token is to be
#: refreshed, and of one in a hundred it is not yet said when.
CALL = (
    (
        "INSERT INTO calls (id, authorization_id, client_id, kind, status, attempts, is_in_flight, is_uncertain, "
        "due_at, deadline_at, cause, created_at, finished_at) "
        "SELECT gen_random_uuid(), a.id, a.client_id, k.kind, s.status, 1, false, false, "
        "CASE WHEN s.status = 'due' THEN %(later)s::timestamptz END, "
        "CASE WHEN s.status = 'due' THEN %(later)s::timestamptz END, "
        "'gateway', a.created_at, CASE WHEN s.status <> 'due' THEN a.created_at END "
        "FROM (SELECT *, row_number() OVER (ORDER BY id) AS n FROM authorizations) a, "
        "(VALUES ('consult'), ('exchange'), ('refresh')) k (kind), "
        "LATERAL (SELECT CASE WHEN n %% 100 = 0 AND k.kind = 'refresh' THEN 'due' ELSE 'done' END AS status) s"
    ),
    (
        "INSERT INTO call_attempts (call_id, number, started_at, milliseconds) "
        "SELECT id, 1, created_at, 1 FROM calls WHERE created_at < %(later)s"
    ),
    (
        "UPDATE access_tokens SET sealed_refresh_token = sealed_access_token, access_token_expires_at = %(later)s, "
        "refresh_due_at = CASE WHEN get_byte(token_index, 0) %% 100 <> 0 "
        "THEN %(later)s::timestamptz - interval '10 days' END"
    ),
)


@pytest.fixture(scope="module")
def merchant_key() -> RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def filled(postgresql_url: str, alipay_key: RSAPrivateKey, merchant_key: RSAPrivateKey) -> Iterator[CallingStage]:
    """A service that has made calls for years."""
    load(postgresql_url, ROWS, tell=lambda _: None)
    stage = a_stage(postgresql_url, alipay_key)
    url = stage.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in CALL:
            connection.execute(statement, {"later": LATER})
        connection.execute("VACUUM ANALYZE")
    yield from a_calling_stage(stage, merchant_key)
    stage.database.close()


def live(calling: CallingStage, auth_state: str) -> None:
    """Consult, exchange, refresh and revoke, with a refusal, a retry and what a payment says."""
    calling.fail("unknown", "exchange")
    with calling.running():
        authorization_id = calling.consult(auth_state)
        calling.wait_for(lambda: calling.newest_is(authorization_id, "consult", "done"))
        calling.notify_code(auth_state)
        calling.forward_until(lambda: calling.newest_is(authorization_id, "exchange", "done"))
        calling.ask_refresh(auth_state)
        calling.wait_for(lambda: calling.newest_is(authorization_id, "refresh", "done"))
        calling.fail("refused", "revoke")
        calling.ask_revoke(auth_state)
        calling.wait_for(lambda: calling.newest_is(authorization_id, "revoke", "failed"))
        calling.retry(calling.newest_call(authorization_id))
        calling.wait_for(lambda: calling.newest_is(authorization_id, "revoke", "done"))
    calling.payment_result(authorization_id, "SUCCESS", access_token="token-1")


def tend(stage: Stage) -> None:
    """Find the refreshes that are due, and plan those of tokens of an older release."""
    run = stage.database.run
    run(partial(tokens.refreshes_due, client_ids=[CLIENT_ID, "nobody"], now=LATER, limit=200), read_only=True)
    run(partial(tokens.plan_refreshes, client_ids=[CLIENT_ID, "nobody"], limit=200))


def without_in_flight(plan: Plan) -> Plan:
    """A plan without what it reads from the index of calls in flight, which has as many rows as there are requests."""
    kept = [without_in_flight(part) for part in plan.get("Plans", [])]
    name = "" if plan.get("Index Name") == "ix_calls_in_flight" else plan.get("Relation Name")
    return {**plan, "Relation Name": name, "Plans": kept}


def read_whole_by_any(plans: dict[str, Plan]) -> dict[str, list[str]]:
    named = {statement: list(read_whole(without_in_flight(plan))) for statement, plan in plans.items()}
    # The outbox is emptied ten times a second.
    return {statement: names for statement, names in named.items() if set(names) - {"event_outbox"}}


def test_no_statement_of_a_life_with_calls_reads_a_growing_table_whole_on_postgresql(filled: CallingStage) -> None:
    plans = plans_of(filled.stage, lambda _: live(filled, "s-1"))
    assert len([each for each in plans if " calls" in each]) > 10
    assert read_whole_by_any(plans) == {}


def test_no_statement_that_was_planned_without_any_call_reads_all_that_are_due(
    postgresql_url: str, alipay_key: RSAPrivateKey, merchant_key: RSAPrivateKey
) -> None:
    """A connection keeps its plans, and then a gateway is away."""
    stage = a_stage(postgresql_url, alipay_key)
    with contextmanager(a_calling_stage)(stage, merchant_key) as calling:
        plans = plans_of(stage, lambda _: live(calling, "s-1"))
    stage.database.close()
    # What a worker looks for is due, whatever it is; what a notification waits for is of one authorization.
    waited_for = {
        statement: plan for statement, plan in plans.items() if "calls" in statement and "json_to" in statement
    }
    assert len(waited_for) >= 3
    assert read_whole_by_any(waited_for) == {}


def test_refreshes_are_found_and_planned_by_an_index_on_postgresql(filled: CallingStage) -> None:
    plans = plans_of(filled.stage, tend, is_hot=False)
    assert len([each for each in plans if "access_tokens" in each]) == 2
    assert read_whole_by_any(plans) == {}
    # A page is read of each index, and no more than a page.
    shown = str([plan for statement, plan in plans.items() if statement.startswith("SELECT")])
    assert "ix_access_tokens_refresh_due" in shown
    assert "ix_access_tokens_refresh_unplanned" in shown
    assert "'Sort'" not in shown


def test_no_statement_of_a_life_with_calls_reads_a_table_whole_on_sqlite(
    sqlite_url: str, alipay_key: RSAPrivateKey, merchant_key: RSAPrivateKey
) -> None:
    stage = a_stage(sqlite_url, alipay_key)
    with contextmanager(a_calling_stage)(stage, merchant_key) as calling:
        plans = sqlite_plans_of(stage, lambda _: live(calling, "s-1"), tend)
    stage.database.close()
    assert len(plans) > 20
    assert {statement: plan for statement, plan in plans.items() if any(map(is_whole, plan))} == {}
    # Nor all that is of one kind or stands in one way, which is most of them in the end.
    steps = {step for plan in plans.values() for step in plan}
    of_all = {each for each in steps if each.endswith(("(kind=?)", "(status=?)", "(client_id=?)"))}
    assert of_all == {
        # Those that are due.
        "SEARCH calls USING INDEX ix_calls_status_id (status=?)",
        # Those of which nobody has said when they are to be refreshed.
        "SEARCH access_tokens USING INDEX ix_access_tokens_refresh_unplanned (client_id=?)",
    }
