"""What is to be told and is not yet, how endpoints take it, and whether a worker runs: in /metrics and /readyz."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from app import create_app
from app.counters import Memory
from app.events import backlog, feed
from app.events.deliveries import Status
from app.models import Lease, WebhookDelivery
from app.simulator.draft import authcode_created
from app.worker import Worker
from tests.builders import an_environ
from tests.integration.http_client import API_KEY, HttpClient
from tests.integration.test_health import figure, figures
from tests.soak.receiver import Receiver, write_endpoints

SECONDS_MAX = 30
OUTCOMES = ("delivered", "failed", "expired", "dead")


@pytest.fixture
def shop() -> Iterator[Receiver]:
    with Receiver("shop").listening() as receiver:
        yield receiver


@pytest.fixture
def http(
    database_url: str, keyring_path: Path, tmp_path: Path, shop: Receiver, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HttpClient]:
    """A client of a service that tells one endpoint, and has counted nothing yet."""
    monkeypatch.setattr("app.metrics._memory", Memory())
    endpoints = write_endpoints(tmp_path / "endpoints.toml", shop)
    environ = an_environ(database_url, keyring_path, FLASK_API_KEYS=f"shop={API_KEY}", FLASK_ENDPOINTS=str(endpoints))
    http = HttpClient(create_app(environ), keyring_path)
    yield http
    http.service.database.close()


@contextmanager
def working(http: HttpClient) -> Iterator[None]:
    """A worker in the background, until the end of the block."""
    stop = threading.Event()
    thread = threading.Thread(target=Worker(http.service).run_until, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(SECONDS_MAX)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def attempts(http: HttpClient) -> dict[str, float]:
    return {
        outcome: figure(http, "notifyauth_webhook_attempts_total", endpoint="shop", outcome=outcome)
        for outcome in OUTCOMES
    }


def test_every_series_of_an_endpoint_is_there_before_its_first_event(http: HttpClient) -> None:
    there = figures(http)
    of_shop = frozenset({("endpoint", "shop")})
    expected = [
        *(("notifyauth_webhook_attempts_total", of_shop | {("outcome", outcome)}) for outcome in OUTCOMES),
        ("notifyauth_endpoint_failing", of_shop),
        ("notifyauth_webhooks_due", of_shop),
        ("notifyauth_webhooks_due_oldest_seconds", of_shop),
        ("notifyauth_webhooks_dead", of_shop),
        ("notifyauth_events_not_numbered_oldest_seconds", frozenset()),
        ("notifyauth_worker_last_seen_timestamp_seconds", frozenset()),
        ("notifyauth_code_told_seconds_count", frozenset()),
        ("notifyauth_events_refused_total", frozenset()),
    ]
    assert {series: there.get(series) for series in expected} == dict.fromkeys(expected, 0)


def test_what_is_delivered_is_counted_and_timed_from_the_code(http: HttpClient, shop: Receiver) -> None:
    http.consult()
    http.notify(authcode_created("s-1", "code-1"))
    with working(http):
        until(lambda: len(shop.taken) == 2 and attempts(http)["delivered"] == 2)
        until(lambda: figure(http, "notifyauth_webhooks_due", endpoint="shop") == 0)
    assert attempts(http) == {"delivered": 2, "failed": 0, "expired": 0, "dead": 0}
    assert figure(http, "notifyauth_code_told_seconds_count") == 1
    assert 0 < figure(http, "notifyauth_code_told_seconds_sum") < SECONDS_MAX
    assert figure(http, "notifyauth_endpoint_failing", endpoint="shop") == 0
    assert shop.wrong == []


def test_what_fails_is_counted_and_stays_due(http: HttpClient, shop: Receiver) -> None:
    shop.manner = "refuse"
    http.consult()
    with working(http):
        until(lambda: attempts(http)["failed"] == 1)
    assert figure(http, "notifyauth_webhooks_due", endpoint="shop") == 1
    assert figure(http, "notifyauth_code_told_seconds_count") == 0


def test_an_endpoint_is_failing_after_five_failures_until_one_success(http: HttpClient, shop: Receiver) -> None:
    shop.manner = "refuse"
    for number in range(5):
        http.consult(f"s-{number}")
    failing = partial(figure, http, "notifyauth_endpoint_failing", endpoint="shop")
    with working(http):
        until(lambda: failing() == 1)
        shop.manner = "take"
        # A code is tried at its own times, whatever became of all else.
        http.notify(authcode_created("s-0", "code-1"))
        until(lambda: failing() == 0)


def test_an_expired_code_is_counted_without_an_attempt(http: HttpClient, shop: Receiver) -> None:
    http.consult()
    http.notify(authcode_created("s-1", "code-1"))
    now = datetime.now(UTC)
    http.service.database.run(partial(feed.number, subscribers=http.service.endpoints.subscribers, now=now))
    expired = update(WebhookDelivery).where(WebhookDelivery.expires_at.is_not(None)).values(expires_at=now)
    http.service.database.run(lambda session: session.execute(expired))
    with working(http):
        until(lambda: attempts(http)["expired"] == 1)
    assert len(shop.taken) <= 1


def test_a_backlog_is_shown_with_its_age(http: HttpClient) -> None:
    now = datetime.now(UTC)
    http.consult()
    staged = "notifyauth_events_not_numbered_oldest_seconds"
    until(lambda: figure(http, staged) > 0)
    http.service.database.run(
        partial(feed.number, subscribers=http.service.endpoints.subscribers, now=now - timedelta(minutes=1))
    )
    assert figure(http, staged) == 0
    assert figure(http, "notifyauth_webhooks_due", endpoint="shop") == 1
    assert 60 <= figure(http, "notifyauth_webhooks_due_oldest_seconds", endpoint="shop") < 60 + SECONDS_MAX
    dead = update(WebhookDelivery).values(status=Status.DEAD, due_at=None)
    http.service.database.run(lambda session: session.execute(dead))
    assert figure(http, "notifyauth_webhooks_due", endpoint="shop") == 0
    assert figure(http, "notifyauth_webhooks_due_oldest_seconds", endpoint="shop") == 0
    assert figure(http, "notifyauth_webhooks_dead", endpoint="shop") == 1


def test_an_endpoint_that_is_not_in_endpoints_toml_is_no_label(http: HttpClient) -> None:
    http.consult()
    http.service.database.run(partial(feed.number, subscribers=lambda _: ["gone"], now=datetime.now(UTC)))
    assert "gone" not in http.get("/metrics").text


def test_no_count_goes_further_than_its_bound(http: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "COUNTED_MAX", 3)
    for number in range(5):
        http.consult(f"s-{number}")
    now = datetime.now(UTC)
    http.service.database.run(partial(feed.number, subscribers=http.service.endpoints.subscribers, now=now))
    assert figure(http, "notifyauth_webhooks_due", endpoint="shop") == 3


# --- whether a worker runs -------------------------------------------------------------------------------------------


def worker_check(http: HttpClient) -> str:
    ready = http.get("/readyz", key=None)
    assert (ready.status_code, ready.get_json()["status"]) == (200, "ready")
    return str(ready.get_json()["checks"]["worker"])


def beat(http: HttpClient, at: datetime) -> None:
    row = insert(Lease).values(name="numbering", holder="one", beat=1, at=at)
    http.service.database.run(lambda session: session.execute(row))


def test_a_service_says_that_no_worker_has_run_and_stays_ready(http: HttpClient) -> None:
    assert worker_check(http).startswith("no worker runs (none has run yet)")


def test_a_service_says_since_when_no_worker_runs(http: HttpClient) -> None:
    beat(http, datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC))
    assert worker_check(http).startswith("no worker runs (none has since 2026-11-22T12:00:00Z)")
    assert figure(http, "notifyauth_worker_last_seen_timestamp_seconds") == 1795348800


def test_a_worker_that_runs_is_seen(http: HttpClient) -> None:
    with working(http):
        until(lambda: worker_check(http) == "ok")


def test_that_no_worker_runs_is_logged_once_and_once_that_one_does(
    http: HttpClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.wiring")
    for _ in range(3):
        worker_check(http)
    beat(http, datetime.now(UTC))
    for _ in range(3):
        worker_check(http)
    logged = [record.levelname for record in caplog.records if record.message == "readiness changed"]
    assert logged == ["WARNING", "INFO"]
