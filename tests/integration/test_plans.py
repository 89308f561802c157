"""No statement that a delivery, a report or a listing waits for reads a whole table: the plans say so."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import BigInteger, LargeBinary, Uuid, inspect, make_url
from sqlalchemy.orm import Session

from app import authorizations, consistency, evidence, inbox, inbox_admin, rotation, tokens
from app.authorization_search import Cursor, Filter, listing
from app.database import contents
from app.database.engines import opened_with
from app.models import Authorization, Base, EscapedText, InboxEntry
from app.simulator.draft import authcode_created, token_canceled, token_created
from app.vault import VaultError
from app.vocabulary import REPLAYABLE_OUTCOMES
from benchmarks.loading import load
from tests.builders import CLIENT_ID
from tests.integration.stage import Stage, a_stage

#: Enough that reading a table as a whole is the dearer way.
ROWS = 20_000
#: Reading one of these whole takes the longer, the longer the service has run. Key locks are soon released.
#: The others have a row for each of a few things; what was refused has two hundred at the most.
GROWING = set(Base.metadata.tables) - {
    "feed",
    "index_key",
    "leases",
    "maintenance_runs",
    "refused_deliveries",
    "rendezvous",
}

YESTERDAY = datetime.now(UTC) - timedelta(days=1)
LATELY: Mapping[str, Any] = {"updated_after": YESTERDAY, "updated_before": datetime.now(UTC)}
SOON: Mapping[str, Any] = {"expires_before": datetime.now(UTC) + timedelta(days=10)}
AUTHORIZATION_FILTERS = [
    Filter(),
    Filter(auth_state="s-1"),
    Filter(user_ref="user-1"),
    Filter(user_id="2088-1"),
    Filter(state="consulted"),
    Filter(client_id="c"),
    Filter(customer_belongs_to="GCASH"),
    Filter(state="consulted", created_before=YESTERDAY),
    Filter(customer_belongs_to="GCASH", created_after=YESTERDAY),
    Filter(**LATELY),
    Filter(state="canceled", **LATELY),
    Filter(state="token_active", customer_belongs_to="GCASH", updated_before=datetime.now(UTC) - timedelta(days=99)),
    Filter(**SOON),
    Filter(customer_belongs_to="DANA", **SOON),
]
INBOX_FILTERS = [
    inbox_admin.Filter(),
    inbox_admin.Filter(auth_state="s-1"),
    inbox_admin.Filter(type="TOKEN_CREATED"),
    inbox_admin.Filter(outcome="parked"),
    inbox_admin.Filter(reason="unknown_token"),
]

#: No key comes after these.
LAST = {Uuid: UUID(int=2**128 - 1), EscapedText: "~", LargeBinary: b"\xff" * 32, BigInteger: 2**62}

Plan = Mapping[str, Any]


@pytest.fixture
def filled(postgresql_url: str, alipay_key: RSAPrivateKey) -> Iterator[Stage]:
    """A service that has run for years."""
    load(postgresql_url, ROWS, tell=lambda _: None)
    _load_calls(postgresql_url)
    stage = a_stage(postgresql_url, alipay_key)
    yield stage
    stage.database.close()


def _load_calls(url: str) -> None:
    """Make a call for every authorization, as where the service makes them."""
    plain_url = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO calls (id, authorization_id, client_id, kind, status, attempts, is_in_flight, is_uncertain,"
            " cause, sealed_answer, created_at)"
            " SELECT id, id, client_id, 'exchange', 'done', 1, false, false, 'gateway', '\\x00', created_at"
            " FROM authorizations"
        )
        connection.execute("VACUUM ANALYZE calls")


def live(stage: Stage) -> None:
    """Send every notification and report, in an order that parks, resumes and repeats."""
    stage.notify(token_canceled("token-1"))
    stage.notify(token_created("s-1", "token-1"))
    stage.notify(authcode_created("s-1", "code-1"))
    stage.consult("s-1")
    stage.notify(authcode_created("s-1", "code-1"), request_time="2")
    parked = stage.notify(token_canceled("nobody's")).entry_id
    assert parked is not None
    stage.process(parked)
    stage.consult("s-3")
    stage.consult("s-3", flow="direct")
    direct = stage.consult("s-2", flow="direct")
    stage.report_token(direct, "token-2")
    stage.report_token(direct, "token-3", replaces="token-2")
    stage.notify(token_canceled("token-2"))
    stage.notify(b"no notification")
    stage.report_canceled(direct)
    assert (stage.state("s-1"), stage.state("s-2")) == ("canceled", "canceled")


def list_by(stage: Stage, wanted: Filter) -> None:
    """Read a first page and the next one, in both orders, with the reasons."""
    by_time = wanted.is_by_update or wanted.expires_before is not None
    cursor = Cursor(UUID(int=2**127), YESTERDAY if by_time else None)
    for oldest_first in (False, True):
        for after in (None, cursor):
            page = partial(listing, wanted=wanted, limit=50, now=datetime.now(UTC), after=after)
            stage.database.run(partial(page, oldest_first=oldest_first))


def canceled_and_why(session: Session, stage: Stage) -> None:
    """Read what a page of the canceled says of their cancellations. The bodies are noise, and open under no key."""
    page = listing(session, Filter(state="canceled"), limit=50, now=datetime.now(UTC))
    with suppress(VaultError):
        evidence.cancellations(session, stage.vault, page.rows)
    with suppress(VaultError):
        evidence.collect(session, stage.vault, stage.keyring, page.rows[0])


def look(stage: Stage) -> None:
    """List by everything that a listing can be narrowed by, and by nothing."""
    run = stage.database.run
    for each in AUTHORIZATION_FILTERS:
        list_by(stage, each)
    for every in INBOX_FILTERS:
        run(partial(inbox_admin.listing, wanted=every, limit=50))
        run(partial(inbox_admin.listing, wanted=every, limit=50, oldest_first=True, after=10))
    now = datetime.now(UTC)
    run(lambda session: canceled_and_why(session, stage))
    run(partial(inbox_admin.parked_by_reason, now=now))
    run(inbox_admin.failed_count)
    run(partial(tokens.ending_unrefreshed, now=now))
    run(lambda session: inbox_admin.replayable_ids(session, REPLAYABLE_OUTCOMES, after=0, limit=50))
    run(lambda session: inbox_admin.of_tokens(session, [(CLIENT_ID, b"a token")], limit=50))
    run(lambda session: authorizations.of_tokens(session, [(CLIENT_ID, b"a token")]))
    run(lambda session: inbox.undecided_cancellation(session, (CLIENT_ID, b"a token")))
    for column in (InboxEntry.type, InboxEntry.reason, Authorization.client_id):
        run(partial(contents.distinct_values, column=column))
        run(partial(contents.has_value, column=column, value="x"))
    run(lambda session: inbox_admin.count_ahead(session, now=now))
    run(inbox_admin.oldest_received_at)
    long_ago = now - timedelta(days=300)
    after = (now - timedelta(days=399), 1)
    run(lambda session: inbox_admin.purge_batch(session, older_than=long_ago, now=now, limit=50))
    run(lambda session: inbox_admin.purge_batch(session, older_than=long_ago, now=now, after=after, limit=50))
    run(rotation.rows_to_look_at)
    for sealed_column in rotation.SEALED_COLUMNS:
        # Behind every row: what the rows hold is noise, and opens under no key.
        key = tuple(LAST[type(column.type)] for column in inspect(sealed_column.model).primary_key)
        run(partial(rotation.rows_of, sealed_column=sealed_column, wanted=[key, key]))
        run(partial(rotation.reseal_batch, vault=stage.vault, sealed_column=sealed_column, after=key))
    run(lambda session: consistency.verify_batch(session, stage.vault, limit=20))


def test_no_statement_reads_a_growing_table_whole_on_postgresql(filled: Stage) -> None:
    assert read_whole_by_any(filled, live) == {}


def test_no_listing_reads_a_growing_table_whole_on_postgresql(filled: Stage) -> None:
    """As PostgreSQL plans, once the tables are large."""
    assert read_whole_by_any(filled, look, is_hot=False) == {}


def test_no_statement_that_was_planned_on_small_tables_reads_one_whole(
    postgresql_url: str, alipay_key: RSAPrivateKey
) -> None:
    """A connection keeps its plans while the tables grow."""
    stage = a_stage(postgresql_url, alipay_key)
    assert read_whole_by_any(stage, live) == {}
    stage.database.close()


def test_parked_entries_are_found_by_an_index_however_few_there_were(filled: Stage) -> None:
    """Nothing waits, until a merchant's reports fail and everything does; the connection keeps its plans."""
    url = filled.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DELETE FROM inbox WHERE outcome = 'parked'")
        connection.execute("VACUUM ANALYZE inbox")
    plans = [plan for statement, plan in plans_of(filled, live).items() if "'parked' AND" in statement]
    conditions = [scan["Index Cond"] for plan in plans for scan in parts(plan) if scan.get("Relation Name") == "inbox"]
    assert len(conditions) == 2
    assert all("auth_state" in each or "token_index" in each for each in conditions)


def read_whole_by_any(stage: Stage, work: Callable[[Stage], None], *, is_hot: bool = True) -> dict[str, list[str]]:
    """Do all that a service does, and name the growing tables that a statement read whole, by the statement."""
    plans = plans_of(stage, work, is_hot=is_hot)
    assert len(plans) > 10
    return {statement: names for statement, plan in plans.items() if (names := list(read_whole(plan)))}


def plans_of(stage: Stage, work: Callable[[Stage], None], *, is_hot: bool = True) -> dict[str, Plan]:
    """Work, and have PostgreSQL explain each statement as it plans it afterwards."""
    with stage.overheard() as overheard:
        work(stage)
    with opened_with(stage.database.engine, read_only=False, is_hot=is_hot).connect() as connection:
        return {
            statement: connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()[0][
                "Plan"
            ]
            for statement, parameters in dict(overheard.statements).items()
            if statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")) and " FROM pg_" not in statement
        }


def sqlite_plans_of(stage: Stage, *works: Callable[[Stage], None]) -> dict[str, list[str]]:
    """Work, and have SQLite explain each statement that has a condition."""
    with stage.overheard() as overheard:
        for work in works:
            work(stage)
    with stage.database.engine.connect() as connection:
        return {
            statement: [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            for statement, parameters in dict(overheard.statements).items()
            if "WHERE" in statement.split()
        }


def read_whole(plan: Plan, *, is_limited: bool = False) -> Iterator[str]:
    """Name the tables that a plan reads from one end to the other."""
    if plan.get("Relation Name") in GROWING and is_whole_scan(plan, is_limited=is_limited):
        yield plan["Relation Name"]
    for part in plan.get("Plans", []):
        yield from read_whole(part, is_limited=is_limited or plan["Node Type"] == "Limit")


def is_whole_scan(plan: Plan, *, is_limited: bool) -> bool:
    if plan["Node Type"] in {"Index Scan", "Index Only Scan"}:
        # Of an index in whose order it reads, a listing reads a page.
        return "Index Cond" not in plan and not is_limited
    return bool(plan["Node Type"] == "Seq Scan")


def parts(plan: Plan) -> Iterator[Plan]:
    yield plan
    for part in plan.get("Plans", []):
        yield from parts(part)


def test_no_statement_with_a_condition_reads_a_table_whole_on_sqlite(
    sqlite_url: str, alipay_key: RSAPrivateKey
) -> None:
    """SQLite plans by the indexes alone, however many rows there are."""
    stage = a_stage(sqlite_url, alipay_key)
    plans = sqlite_plans_of(stage, live, look)
    stage.database.close()
    assert len(plans) > 20
    assert {statement: plan for statement, plan in plans.items() if any(map(is_whole, plan))} == {}
    # Nor all that belongs to one client, which is all there is, but for a page of a listing.
    of_a_client = {step for plan in plans.values() for step in plan if step.endswith("(client_id=?)")}
    assert of_a_client <= {
        "SEARCH authorizations USING INDEX ix_authorizations_client_id_id (client_id=?)",
        # The first one tells that there are some.
        "SEARCH authorizations USING COVERING INDEX ix_authorizations_client_id_id (client_id=?)",
    }


def is_whole(step: str) -> bool:
    return step.startswith("SCAN ") and "USING" not in step and step.split()[1] in GROWING


def test_a_plan_that_reads_a_table_whole_would_be_seen(filled: Stage) -> None:
    with filled.database.engine.connect() as connection:
        plan: Sequence[Any] = connection.exec_driver_sql(
            "EXPLAIN (FORMAT JSON) SELECT id FROM inbox WHERE request_time = '1'"
        ).scalar_one()
    assert list(read_whole(plan[0]["Plan"])) == ["inbox"]
