"""The operator's endpoints: /healthz, /readyz, /version and /metrics."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from flask import Blueprint, Response, current_app
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from typing_extensions import override

from app import call_statements, metrics, tokens
from app.alipay.keyring import KeyringError
from app.alipay.keyring_digest import keyring_digest
from app.database import DatabaseUnavailableError
from app.database.clock import database_now
from app.events import backlog
from app.events.backlog import Backlog
from app.events.endpoints import EndpointsError
from app.inbox_admin import Waiting, failed_count, parked_by_reason
from app.maintenance import last_runs
from app.models import REVISION
from app.preflight import synchronous_standbys
from app.release import version
from app.web.bearer import require_metrics_key
from app.wiring import Service, conditions, is_ready

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """Say that the process answers; a supervisor restarts one that does not."""
    return Response(json.dumps({"status": "ok"}), content_type="application/json")


@blueprint.get("/readyz")
def readyz() -> Response:
    """Say whether the service can do its work, so that a load balancer sends no requests to one that cannot."""
    checks = _service().ready()
    ready = is_ready(checks)
    document = {"status": "ready" if ready else "not ready", "checks": checks}
    return Response(json.dumps(document), 200 if ready else 503, content_type="application/json")


@blueprint.get("/version")
def version_page() -> Response:
    """Say which release answers, so that an upgrade of several machines can be followed."""
    document = {"name": "notifyauth", "version": version(), "revision": REVISION}
    return Response(json.dumps(document), content_type="application/json")


@blueprint.get("/metrics")
def metrics_page() -> Response:
    """Give the metrics of all workers together, for Prometheus."""
    service = _service()
    if not service.settings.metrics_open:
        require_metrics_key()
    registry = CollectorRegistry()
    registry.register(_Counted(service))
    registry.register(_Keys(service))
    registry.register(_LookedUp(service))
    pages = [generate_latest(registry)]
    if not metrics.is_shared():
        # With several workers, the next scrape would be answered by another process.
        pages.append(generate_latest(REGISTRY))
    return Response(b"".join(pages), content_type=CONTENT_TYPE_LATEST)


@dataclass(eq=False)
class _Counted(Collector):
    """The metrics that the workers count."""

    service: Service

    @override
    def collect(self) -> Iterator[Metric]:
        # A keyring that cannot be read now costs the series of its clients at 0, and no count.
        clients: Collection[str] = ()
        with suppress(KeyringError):
            clients = self.service.keyring.clients
        return metrics.collect(clients, _endpoint_names(self.service), revision=REVISION)


@dataclass(eq=False)
class _Keys(Collector):
    """Which keyring and which vault key the worker that answers has: machines that differ are found by them."""

    service: Service

    @override
    def collect(self) -> Iterator[Metric]:
        keyring = GaugeMetricFamily(
            "notifyauth_keyring_info",
            "Which keyring the service has, by a digest of its clients, keys and gateways: always 1.",
            labels=["digest"],
        )
        with suppress(KeyringError):
            keyring.add_metric([keyring_digest(self.service.keyring)], 1)
        vault = GaugeMetricFamily(
            "notifyauth_vault_info", "Under which vault key the service seals, by its id: always 1.", labels=["key_id"]
        )
        if (key_id := self.service.sealing_key_id) is not None:
            vault.add_metric([key_id], 1)
        yield from (keyring, vault)


@dataclass(eq=False)
class _LookedUp(Collector):
    """The metrics that are looked up in the database at each scrape, by any worker for all."""

    service: Service

    @override
    def collect(self) -> Iterator[Metric]:
        checks = self.service.check()
        yield from _condition_families(checks)
        if conditions(checks)["unavailable"]:
            # Looking further would wait as long once more.
            return
        try:
            look = partial(
                _look,
                endpoints=_endpoint_names(self.service),
                is_replicated=self.service.settings.is_replicated,
            )
            found = self.service.database.run(look, read_only=True)
        except (DatabaseUnavailableError, SQLAlchemyError):
            # The counters are worth having all the more while the database is in trouble.
            return
        count = GaugeMetricFamily("notifyauth_parked_entries", "Entries that are parked, by reason.", labels=["reason"])
        oldest = GaugeMetricFamily(
            "notifyauth_parked_oldest_seconds", "How long the oldest parked entry has waited.", labels=["reason"]
        )
        by_age = GaugeMetricFamily(
            "notifyauth_parked_entries_by_age",
            "Entries that have been parked for longer than this, by reason.",
            labels=["reason", "older_than"],
        )
        for each in found.parked:
            count.add_metric([each.reason], each.count)
            oldest.add_metric([each.reason], each.oldest_seconds)
            for age, older in each.older_than.items():
                by_age.add_metric([each.reason, age], older)
        failed = GaugeMetricFamily("notifyauth_failed_entries", "Entries whose processing failed and was not repeated.")
        failed.add_metric([], found.failed)
        runs = GaugeMetricFamily(
            "notifyauth_last_run_timestamp_seconds",
            "When maintenance last succeeded, in seconds since 1970; 0: never.",
            labels=["maintenance"],
        )
        for name, at in found.runs.items():
            runs.add_metric([name], 0 if at is None else at.timestamp())
        yield from (count, oldest, by_age, failed, runs)
        yield from _backlog_families(found.backlog)
        call_due = GaugeMetricFamily(
            "notifyauth_calls_due_oldest_seconds", "How long the call to Alipay has waited that is due the longest."
        )
        call_due.add_metric([], found.call_due_seconds)
        yield call_due
        ending = GaugeMetricFamily(
            "notifyauth_tokens_ending",
            "Tokens of active authorizations that end within this time and were not refreshed, although it was time.",
            labels=["within"],
        )
        for within, tokens_ending in found.tokens_ending.items():
            ending.add_metric([within], tokens_ending)
        yield ending
        if found.synchronous_standbys is not None:
            standbys = GaugeMetricFamily(
                "notifyauth_synchronous_standbys",
                "Standbys of the database that confirm commits, where FLASK_DURABILITY is replicated.",
            )
            standbys.add_metric([], found.synchronous_standbys)
            yield standbys


@dataclass(frozen=True, slots=True)
class _Found:
    parked: list[Waiting]
    failed: int
    runs: Mapping[str, datetime | None]
    backlog: Backlog
    #: For how long the call has been due that is due the longest.
    call_due_seconds: float
    #: How many tokens end within each of some times, and were not refreshed.
    tokens_ending: Mapping[str, int]
    #: `None` where commits need not outlive the machine of the database.
    synchronous_standbys: int | None


def _look(session: Session, *, endpoints: Collection[str], is_replicated: bool) -> _Found:
    now = datetime.now(UTC)
    return _Found(
        parked_by_reason(session, now=now),
        failed_count(session),
        last_runs(session),
        backlog.look(session, endpoints, now=now),
        _call_due_seconds(session),
        tokens.ending_unrefreshed(session, now=now),
        synchronous_standbys(session) if is_replicated else None,
    )


def _call_due_seconds(session: Session) -> float:
    due_at = call_statements.oldest_due_at(session)
    return 0.0 if due_at is None else max(0.0, (database_now(session) - due_at).total_seconds())


def _condition_families(checks: Mapping[str, str]) -> Iterator[Metric]:
    """Give what /readyz says, as figures that are there whatever the database does."""
    ready = GaugeMetricFamily(
        "notifyauth_ready", "Whether the service can receive and answer, as /readyz says: 1, else 0."
    )
    ready.add_metric([], float(is_ready(checks)))
    condition = GaugeMetricFamily(
        "notifyauth_database_condition",
        "Whether the database is in this condition: 1, else 0.",
        labels=["condition"],
    )
    for name, is_so in conditions(checks).items():
        condition.add_metric([name], float(is_so))
    yield from (ready, condition)


def _backlog_families(found: Backlog) -> Iterator[Metric]:
    """Give what is still to be told to the merchant's systems, and when a worker last showed that it lives."""
    not_numbered = GaugeMetricFamily(
        "notifyauth_events_not_numbered_oldest_seconds",
        "How long the oldest event has waited for its place in the feed.",
    )
    not_numbered.add_metric([], found.oldest_not_numbered_seconds)
    oldest = GaugeMetricFamily(
        "notifyauth_webhooks_due_oldest_seconds",
        "How long the delivery to an endpoint has waited that is due the longest.",
        labels=["endpoint"],
    )
    due = GaugeMetricFamily(
        "notifyauth_webhooks_due", "Deliveries still to be made to an endpoint.", labels=["endpoint"]
    )
    dead = GaugeMetricFamily(
        "notifyauth_webhooks_dead", "Deliveries to an endpoint that were given up.", labels=["endpoint"]
    )
    for name, each in found.by_endpoint.items():
        oldest.add_metric([name], each.oldest_due_seconds)
        due.add_metric([name], each.due)
        dead.add_metric([name], each.dead)
    seen = GaugeMetricFamily(
        "notifyauth_worker_last_seen_timestamp_seconds",
        "When a background worker last showed that it lives, in seconds since 1970; 0: never.",
    )
    seen.add_metric([], 0 if found.worker_seen_at is None else found.worker_seen_at.timestamp())
    yield from (not_numbered, oldest, due, dead, seen)


def _endpoint_names(service: Service) -> Collection[str]:
    # As for the keyring: what cannot be read now costs the series of the endpoints, and no count.
    with suppress(EndpointsError):
        return list(service.endpoints)
    return ()


def _service() -> Service:
    service: Service = current_app.extensions["notifyauth"]
    return service
