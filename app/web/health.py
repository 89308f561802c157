"""The operator's doors: is it alive, can it work, and what has it done."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime

from flask import Blueprint, Response, current_app
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from typing_extensions import override

from app.database import Database, DatabaseUnavailableError
from app.inbox.upkeep import parked_by_reason
from app.service import Service, is_ready
from app.web.bearer import require_key

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """Say that the process answers; a supervisor restarts one that does not."""
    return Response(json.dumps({"status": "ok"}), content_type="application/json")


@blueprint.get("/readyz")
def readyz() -> Response:
    """Say whether the service can do its work; a load balancer passes by one that cannot."""
    checks = _service().ready()
    ready = is_ready(checks)
    document = {"status": "ready" if ready else "not ready", "checks": checks}
    return Response(json.dumps(document), 200 if ready else 503, content_type="application/json")


@blueprint.get("/metrics")
def metrics() -> Response:
    """Give the figures of all workers together, for Prometheus."""
    service = _service()
    if not service.settings.metrics_open:
        require_key()
    pages = [generate_latest(_counters()), generate_latest(_parked(service.database))]
    return Response(b"".join(pages), content_type=CONTENT_TYPE_LATEST)


def _counters() -> CollectorRegistry:
    """Take the counters of every worker where there are several, each of which keeps its own in a file."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call] # prometheus-client leaves it unannotated
    return registry


def _parked(database: Database) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_ParkedCollector(database))
    return registry


class _ParkedCollector(Collector):
    """Looks up what is parked at the moment of asking: any worker can tell it for all."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    def collect(self) -> Iterator[GaugeMetricFamily]:
        count = GaugeMetricFamily("notifyauth_parked_entries", "Entries that are parked, by reason.", labels=["reason"])
        oldest = GaugeMetricFamily(
            "notifyauth_parked_oldest_seconds", "How long the oldest parked entry has waited.", labels=["reason"]
        )
        try:
            waiting = self._database.run(parked_by_reason, read_only=True)
        except (DatabaseUnavailableError, SQLAlchemyError):
            # The counters are worth having all the more while the database is in trouble.
            return
        now = datetime.now(UTC)
        for each in waiting:
            count.add_metric([each.reason], each.count)
            oldest.add_metric([each.reason], (now - each.oldest_received_at).total_seconds())
        yield count
        yield oldest


def _service() -> Service:
    service: Service = current_app.extensions["notifyauth"]
    return service
