"""The feed and the deliveries are read by indexes, however long the service has run: the plans say so."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import text
from sqlalchemy.orm import Session

from app import authorizations, documents
from app.events import backlog, deliveries, feed
from app.events.deliveries import Attempt, DeliveryFilter, Status
from app.events.staging import EventType
from app.models import WebhookDelivery
from benchmarks.loading import load
from tests.integration.stage import Stage, a_stage
from tests.integration.test_plans import ROWS, is_whole, plans_of, read_whole, sqlite_plans_of

#: Every transition on record has been told to one endpoint; the last few are still to be told.
TELL = (
    (
        "INSERT INTO events (position, event_id, type, authorization_id, sequence, at, numbered_at) "
        "SELECT row_number() OVER (ORDER BY at), gen_random_uuid(), 'authorization.' || to_state, authorization_id, "
        "sequence, at, at FROM transitions"
    ),
    "UPDATE feed SET last_position = (SELECT max(position) FROM events)",
    (
        "INSERT INTO webhook_deliveries (position, authorization_id, endpoint, status, attempts, due_at, created_at) "
        "SELECT position, authorization_id, 'shop', CASE WHEN position % 100 = 0 THEN 'due' ELSE 'delivered' END, 1, "
        "CASE WHEN position % 100 = 0 THEN at END, at FROM events"
    ),
    (
        "INSERT INTO webhook_attempts (delivery_id, number, at, milliseconds) SELECT id, 1, created_at, 1 "
        "FROM webhook_deliveries"
    ),
)


@pytest.fixture
def filled(postgresql_url: str, alipay_key: RSAPrivateKey) -> Iterator[Stage]:
    """A service that has told of all that happened in years."""
    load(postgresql_url, ROWS, tell=lambda _: None)
    stage = a_stage(postgresql_url, alipay_key)
    with stage.database.engine.begin() as telling:
        for statement in TELL:
            telling.execute(text(statement))
    url = stage.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    yield stage
    stage.database.close()


def read(stage: Stage) -> None:
    """Do all that the endpoints and the sender ask of these tables."""
    run = partial(stage.database.run, read_only=True)
    run(feed.last_position)
    for types in (None, [EventType.CANCELED], list(EventType)):
        run(partial(feed.page, after=None, types=types, limit=100))
    wanted = [
        DeliveryFilter(),
        DeliveryFilter(status="due"),
        DeliveryFilter(endpoint="shop"),
        DeliveryFilter(event=UUID(int=1)),
    ]

    def show(session: Session, each: DeliveryFilter) -> None:
        listed = deliveries.listing(session, each, limit=100, before=5000)
        documents.delivery_summaries(session, listed)

    for each in wanted:
        run(partial(show, each=each))
    now = datetime.now(UTC) + timedelta(days=1)
    run(lambda session: deliveries.due(session, "shop", now=now, limit=8))
    run(lambda session: deliveries.due_codes(session, "shop", now=now, limit=8))
    run(lambda session: deliveries.oldest_due_at(session, "shop"))
    run(lambda session: deliveries.find(session, 1))
    run(lambda session: deliveries.attempts_of(session, 1))
    run(lambda session: feed.find(session, UUID(int=1)))
    run(lambda session: feed.at_positions(session, [1, 2, 3]))
    run(lambda session: authorizations.awaiting_code(session, [UUID(int=1), UUID(int=2)]))
    run(lambda session: backlog.look(session, ["shop"], now=now))


def work(stage: Stage) -> None:
    """Do all that a background worker does to these tables."""
    now = datetime.now(UTC) + timedelta(days=1)
    run = stage.database.run
    run(lambda session: feed.number(session, lambda _type: ["shop"], now=now))
    due = run(lambda session: list(deliveries.due(session, "shop", now=now, limit=8)))
    run(lambda session: deliveries.due_before(session, "shop", due, now=now))
    run(lambda session: deliveries.record(session, [delivered(each, at=now) for each in due[:4]]))
    run(lambda session: deliveries.give_up(session, [each.id for each in due[4:]], Status.DEAD, now=now))
    run(lambda session: deliveries.recover(session, lambda _type: ["shop", "new"], since=now, now=now))
    run(lambda session: feed.purge(session, before=now))


def delivered(delivery: WebhookDelivery, *, at: datetime) -> Attempt:
    number = delivery.attempts + 1
    return Attempt(delivery.id, number, at, 1, 204, None, None, Status.DELIVERED, None, at)


def test_no_statement_reads_a_growing_table_whole_on_postgresql(filled: Stage) -> None:
    plans = {statement: list(read_whole(plan)) for statement, plan in plans_of(filled, read).items()}
    assert len(plans) > 10
    assert {statement: names for statement, names in plans.items() if names} == {}


def test_no_statement_of_a_worker_reads_a_growing_table_whole_on_postgresql(filled: Stage) -> None:
    filled.consult("new")
    plans = {statement: list(read_whole(plan)) for statement, plan in plans_of(filled, work, is_hot=False).items()}
    assert len(plans) > 15
    # The outbox is emptied ten times a second.
    assert {statement: names for statement, names in plans.items() if set(names) - {"event_outbox"}} == {}


def test_no_statement_with_a_condition_reads_a_table_whole_on_sqlite(
    sqlite_url: str, alipay_key: RSAPrivateKey
) -> None:
    stage = a_stage(sqlite_url, alipay_key)
    stage.consult("new")
    plans = sqlite_plans_of(stage, read, work)
    stage.database.close()
    assert len(plans) > 10
    assert {statement: plan for statement, plan in plans.items() if any(map(is_whole, plan))} == {}
