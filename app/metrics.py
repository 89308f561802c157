"""The metrics that /metrics shows and alerts watch. Labels come from fixed sets, never from a sender.

Every series is there from the start, at 0: a series that appears with its first event has no increase that an alert
could see. Nothing here raises or waits, so that counting decides nothing.
"""

import atexit
import logging
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import accumulate, product
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from app.alipay.notification import NotificationType
from app.alipay.signature import CAUSES
from app.counters import Counts, Memory, SharedCounts
from app.logs import failure
from app.release import version
from app.vocabulary import CallKind, CallStatus

_log = logging.getLogger(__name__)

#: Names the folder in which the processes of one service count together: prometheus-client's own name for it.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_memory = Memory()
#: Holds one in a process that serves together with others, and none otherwise.
_shared: list[SharedCounts] = []


class Counter:
    """A sum for each combination of labels."""

    def __init__(self, name: str, documentation: str, labels: Mapping[str, Iterable[str]] | None = None) -> None:
        self.name = name
        self.documentation = documentation
        self.labels = {label: tuple(values) for label, values in (labels or {}).items()}

    def inc(self, *values: object, amount: float = 1) -> None:
        """Count. Never raises: a fault in counting is logged and decides nothing."""
        try:
            _memory.add((self.name, *map(str, values)), amount)
        except Exception as error:  # noqa: BLE001 -- as the docstring says
            _not_counted(self.name, error)

    def family(self, sums: Counts, more: Iterable[tuple[str, ...]] = ()) -> Metric:
        """Give every series: of the fixed labels, of `more` combinations, and all that were counted."""
        metric = CounterMetricFamily(self.name, self.documentation, labels=list(self.labels))
        expected = (*product(*self.labels.values()), *more)
        for values, amount in _series(self.name, sums, expected).items():
            metric.add_metric(values, amount)
        return metric


class Histogram:
    """How long something took, in seconds."""

    def __init__(self, name: str, documentation: str, buckets: tuple[float, ...]) -> None:
        self.name = name
        self.documentation = documentation
        self._buckets = buckets
        self._labels = [*(str(float(each)) for each in buckets), "+Inf"]

    def observe(self, seconds: float) -> None:
        """Count one. Never raises, as above."""
        try:
            _memory.add((self.name, self._labels[bisect_left(self._buckets, seconds)]))
            _memory.add((self.name, "sum"), seconds)
        except Exception as error:  # noqa: BLE001 -- as the docstring says
            _not_counted(self.name, error)

    def family(self, sums: Counts) -> Metric:
        """Give every bucket, each with what is in those before it."""
        so_far = accumulate(sums.get((self.name, label), 0) for label in self._labels)
        total = sums.get((self.name, "sum"), 0)
        metric = HistogramMetricFamily(self.name, self.documentation)
        metric.add_metric([], list(zip(self._labels, so_far, strict=True)), total)
        return metric


class Latest:
    """When something happened the last time, in seconds since 1970; 0 where it has not since the start."""

    def __init__(self, name: str, documentation: str, label: str) -> None:
        self.name = name
        self.documentation = documentation
        self._label = label

    def note(self, value: str, at: float) -> None:
        """Keep the time of one event. Never raises, as above."""
        try:
            _memory.note((self.name, value), at)
        except Exception as error:  # noqa: BLE001 -- as the docstring says
            _not_counted(self.name, error)

    def family(self, latest: Counts, expected: Iterable[str]) -> Metric:
        """Give every series, also those without an event yet."""
        metric = GaugeMetricFamily(self.name, self.documentation, labels=[self._label])
        for values, at in _series(self.name, latest, ((each,) for each in expected)).items():
            metric.add_metric(values, at)
        return metric


DELIVERIES = Counter(
    "notifyauth_deliveries",
    "Deliveries at the notification endpoint, by HTTP status.",
    {"status": ("200", "400", "401", "405", "408", "413", "431", "500", "503")},
)
NOTIFICATIONS = Counter(
    "notifyauth_notifications",
    "How notifications ended, each time one is processed: by type (other: one that is not known) and outcome.",
    # Not `dismissed`: that is an operator's word.
    {
        "type": (*NotificationType, "other"),
        "outcome": ("applied", "redundant", "parked", "rejected", "failed", "malformed"),
    },
)
SIGNATURE_FAILURES = Counter(
    "notifyauth_signature_failures",
    "Deliveries that were not authentic, by client (unknown: not in the keyring) and cause.",
    {"client_id": (), "cause": CAUSES},
)
REFUSED_REQUESTS = Counter(
    "notifyauth_refused_requests",
    "Requests that were refused, by HTTP status and what was asked (elsewhere: a path that is none of ours).",
    {
        "status": ("400", "401", "403", "404", "405", "408", "409", "410", "413", "422", "431", "500", "503"),
        "where": ("notify", "api", "metrics", "health", "elsewhere"),
    },
)
MISDIRECTED = Counter(
    "notifyauth_misdirected_deliveries",
    "Requests with the headers of a notification to an address where none is received, by HTTP status.",
    {"status": ("404", "405")},
)
LOG_LINES_DROPPED = Counter(
    "notifyauth_log_lines_dropped", "Log lines that were not written: nobody reads the log, or its disk is full."
)
LATENCY = Histogram(
    "notifyauth_delivery_seconds",
    "From having read a delivery to its answer, in seconds.",
    # Alipay documents no limit. Most answers take single milliseconds; a database in trouble takes two to four seconds.
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
LAST_VERIFIED = Latest(
    "notifyauth_last_verified_timestamp_seconds",
    "When a delivery of this client was last found authentic, in seconds since 1970; 0: not since the start.",
    "client_id",
)

WEBHOOK_ATTEMPTS = Counter(
    "notifyauth_webhook_attempts",
    "Attempts to tell an endpoint of an event, by endpoint and how they ended: delivered, failed (it is tried again), "
    "expired or dead (it is not, with or without a last attempt).",
    {"endpoint": (), "outcome": ("delivered", "failed", "expired", "dead")},
)
EVENTS_REFUSED = Counter(
    "notifyauth_events_refused",
    "Times that the database refused to number an event: it stays in the outbox and is tried again every minute.",
)
CODE_TOLD = Histogram(
    "notifyauth_code_told_seconds",
    "From having received an auth code to the 2xx of an endpoint that was told of it, in seconds.",
    # The first attempt is made within a quarter of a second, the last after forty seconds; a code lives a minute.
    buckets=(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60),
)
CALLS = Counter(
    "notifyauth_calls",
    "How calls to Alipay ended, by kind: done, failed (refused, or not made in time) or undetermined.",
    {
        "kind": tuple(CallKind),
        "outcome": (CallStatus.DONE, CallStatus.FAILED, CallStatus.UNDETERMINED),
    },
)
CALL_ATTEMPTS = Counter(
    "notifyauth_call_attempts",
    "Requests to Alipay, by kind of call and answer: done, refused, or unknown (it is repeated while there is time).",
    {"kind": tuple(CallKind), "outcome": ("done", "refused", "unknown")},
)
CODE_TO_TOKEN = Histogram(
    "notifyauth_code_to_token_seconds",
    "From having received an auth code to having exchanged it for a token, in seconds.",
    # The request goes out within a tenth of a second; a code lives a minute.
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60),
)
_ENDPOINT_WORKING = Latest("working", "When an endpoint was last seen not to be failing.", "endpoint")
_ENDPOINT_FAILING = Latest("failing", "When an endpoint was last seen failing.", "endpoint")
#: The sender of an endpoint reports its state every two seconds; an older report than this is ignored.
_ENDPOINT_SEEN_SECONDS = 30

_TYPES = frozenset(NotificationType)
_COUNTERS = (DELIVERIES, NOTIFICATIONS, REFUSED_REQUESTS, MISDIRECTED, LOG_LINES_DROPPED, EVENTS_REFUSED)


def count_notification(notification_type: str | None, outcome: str) -> None:
    """Count one processing of a notification."""
    NOTIFICATIONS.inc(notification_type if notification_type in _TYPES else "other", outcome)


def count_dropped_lines(count: int) -> None:
    """Count log lines that were dropped."""
    LOG_LINES_DROPPED.inc(amount=count)


def note_endpoint(name: str, *, is_failing: bool) -> None:
    """Note how an endpoint is, as the background worker that sends to it sees it now."""
    (_ENDPOINT_FAILING if is_failing else _ENDPOINT_WORKING).note(name, time.time())


def share() -> None:
    """Count together with the other processes of this service, where the environment names a folder for that."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder and not _shared:
        _shared.append(SharedCounts(_memory, Path(folder)))
        _write_in_background()
        # What was counted within the last second, where a process ends in order.
        atexit.register(_shared[0].write)
        os.register_at_fork(after_in_child=_start_anew)


def collect(clients: Collection[str], endpoints: Collection[str] = (), *, revision: str) -> Iterator[Metric]:
    """Give every metric that is counted, of all processes together: for these clients, and for these endpoints.

    `revision` is that of the tables which this release is made for.
    """
    sums, latest = _shared[0].total() if _shared else _memory.snapshot()
    for counter in _COUNTERS:
        yield counter.family(sums)
    causes = product(clients, (cause for cause in CAUSES if cause != "unknown_client"))
    yield SIGNATURE_FAILURES.family(sums, [*causes, ("unknown", "unknown_client")])
    yield LATENCY.family(sums)
    yield WEBHOOK_ATTEMPTS.family(sums, product(endpoints, WEBHOOK_ATTEMPTS.labels["outcome"]))
    yield CODE_TOLD.family(sums)
    yield CALLS.family(sums)
    yield CALL_ATTEMPTS.family(sums)
    yield CODE_TO_TOKEN.family(sums)
    yield _failing(latest, endpoints)
    yield LAST_VERIFIED.family(latest, clients)
    build = GaugeMetricFamily(
        "notifyauth_build_info",
        "Which version answers, and for which revision of the tables it is made: always 1.",
        labels=["version", "revision"],
    )
    build.add_metric([version(), revision], 1)
    yield build


def is_shared() -> bool:
    """Whether other processes count together with this one."""
    return bool(_shared)


def _series(name: str, counts: Counts, expected: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
    series = dict.fromkeys(expected, 0.0)
    for (counted, *values), count in counts.items():
        if counted == name:
            series[tuple(values)] = count
    return series


def _failing(latest: Counts, endpoints: Iterable[str]) -> Metric:
    """Say of each endpoint whether it is failing, by the last report of its sender.

    Another machine may send to it by now: a report that was not repeated for a while is ignored.
    """
    metric = GaugeMetricFamily(
        "notifyauth_endpoint_failing",
        "Whether the last five attempts at an endpoint have all failed: 1, else 0.",
        labels=["endpoint"],
    )
    for name in endpoints:
        working, failing = (latest.get((each.name, name), 0.0) for each in (_ENDPOINT_WORKING, _ENDPOINT_FAILING))
        metric.add_metric([name], float(failing > max(working, time.time() - _ENDPOINT_SEEN_SECONDS)))
    return metric


def _write_in_background() -> None:
    # Where no thread can be started, this process writes its counts only when it answers a scrape itself.
    with suppress(RuntimeError):
        threading.Thread(target=_shared[0].write_for_ever, name="counts", daemon=True).start()


def _start_anew() -> None:
    """Count from 0 in a forked process, in a file of its own."""
    _memory.reset()
    _shared[0].forget_slot()
    _write_in_background()


def _not_counted(name: str, error: Exception) -> None:
    _log.error("not counted", extra={"metric": name, **failure(error)})
