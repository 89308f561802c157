"""Calls are listed, shown and found by indexes, however many were made: the plans say so."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import text
from sqlalchemy.orm import Session

from app import call_statements, documents, tokens
from app.call_statements import AttemptKey, CallFilter
from benchmarks.loading import load
from tests.builders import CLIENT_ID
from tests.integration.stage import Stage, a_stage
from tests.integration.test_plans import ROWS, Plan, is_whole, plans_of, read_whole, sqlite_plans_of

#: Of every authorization a code was exchanged and a token refreshed; a few are still to be made, or ended badly.
CALL = (
    (
        "INSERT INTO calls (id, authorization_id, client_id, kind, status, attempts, is_in_flight, is_uncertain, "
        "due_at, deadline_at, cause, created_at, finished_at) "
        "SELECT gen_random_uuid(), a.id, a.client_id, k.kind, s.status, 1, false, false, "
        "CASE WHEN s.status = 'due' THEN a.created_at END, CASE WHEN s.status = 'due' THEN a.created_at END, "
        "'gateway', a.created_at, CASE WHEN s.status <> 'due' THEN a.created_at END "
        "FROM (SELECT *, row_number() OVER (ORDER BY id) AS n FROM authorizations) a, "
        "(VALUES ('exchange', 0), ('refresh', 7)) k (kind, shift), "
        "LATERAL (SELECT CASE WHEN (n + shift) % 400 = 0 THEN 'due' WHEN (n + shift) % 300 = 0 THEN 'failed' "
        "ELSE 'done' END AS status) s"
    ),
    "INSERT INTO call_attempts (call_id, number, started_at, milliseconds) SELECT id, 1, created_at, 1 FROM calls",
)
FILTERS = [
    CallFilter(),
    *(CallFilter(status=each) for each in ("due", "failed", "done", "undetermined")),
    *(CallFilter(kind=each) for each in ("exchange", "revoke")),
    CallFilter(client_id=CLIENT_ID),
    CallFilter(client_id="nobody"),
    CallFilter(status="failed", kind="refresh"),
    CallFilter(status="failed", client_id="nobody"),
    CallFilter(authorization_ids=[UUID(int=1), UUID(int=2)]),
    CallFilter(authorization_ids=[]),
]


@pytest.fixture
def filled(postgresql_url: str, alipay_key: RSAPrivateKey) -> Iterator[Stage]:
    """A service that has made calls for years."""
    load(postgresql_url, ROWS, tell=lambda _: None)
    stage = a_stage(postgresql_url, alipay_key)
    with stage.database.engine.begin() as calling:
        for statement in CALL:
            calling.execute(text(statement))
    url = stage.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    yield stage
    stage.database.close()


def look(stage: Stage) -> None:
    """Do all that the shell and the endpoints ask of calls."""
    run = partial(stage.database.run, read_only=True)

    def show(session: Session, wanted: CallFilter, before: UUID | None = None) -> None:
        documents.call_summaries(session, call_statements.listing(session, wanted, limit=51, before=before))

    for each in FILTERS:
        run(partial(show, wanted=each))
        run(partial(show, wanted=each, before=UUID(int=2**127)))
    run(partial(call_statements.find, call_id=UUID(int=1)))
    run(partial(call_statements.ended, call_ids=[UUID(int=1), UUID(int=2)]))
    run(partial(call_statements.attempts_of, call_id=UUID(int=1)))
    run(partial(call_statements.newest, authorization_ids=[UUID(int=1), UUID(int=2)]))
    run(partial(tokens.current_expiries, authorization_ids=[UUID(int=1), UUID(int=2)]))
    run(call_statements.oldest_due_at)


def make(stage: Stage) -> None:
    """Do all that a background worker asks of calls between two requests."""
    now = datetime.now(UTC) + timedelta(days=1)
    run = stage.database.run
    run(partial(call_statements.is_any_due, now=now), read_only=True)
    run(call_statements.attempts_in_flight, read_only=True)
    run(partial(call_statements.overdue, now=now, limit=100), read_only=True)

    def begin(session: Session) -> list[AttemptKey]:
        due = call_statements.lock_due(session, now=now, limit=10)
        call_statements.authorizations_in_flight(session, [each.authorization_id for each in due])
        call_statements.lock_due(session, now=now, limit=10, full=["nobody"])
        call_statements.begin_attempts(session, due, now=now)
        return [(each.id, each.attempts) for each in due]

    run(partial(call_statements.release, attempts=run(begin), now=now))


def test_no_statement_about_calls_reads_a_growing_table_whole_on_postgresql(filled: Stage) -> None:
    plans = {statement: list(read_whole(plan)) for statement, plan in plans_of(filled, look, is_hot=False).items()}
    assert len(plans) > 10
    assert {statement: names for statement, names in plans.items() if names} == {}


def without_in_flight(plan: Plan) -> Plan:
    """A plan without what it reads from the index of calls in flight, which has as many rows as there are requests."""
    kept = [without_in_flight(part) for part in plan.get("Plans", [])]
    name = "" if plan.get("Index Name") == "ix_calls_in_flight" else plan.get("Relation Name")
    return {**plan, "Relation Name": name, "Plans": kept}


def test_no_statement_that_makes_calls_reads_a_growing_table_whole_on_postgresql(filled: Stage) -> None:
    found = plans_of(filled, make, is_hot=False)
    plans = {statement: list(read_whole(without_in_flight(plan))) for statement, plan in found.items()}
    assert len(plans) > 6
    assert {statement: names for statement, names in plans.items() if names} == {}


def test_no_statement_about_calls_with_a_condition_reads_a_table_whole_on_sqlite(
    sqlite_url: str, alipay_key: RSAPrivateKey
) -> None:
    stage = a_stage(sqlite_url, alipay_key)
    stage.consult("new")
    plans = sqlite_plans_of(stage, look, make)
    stage.database.close()
    assert len(plans) > 10
    assert {statement: plan for statement, plan in plans.items() if any(map(is_whole, plan))} == {}
