"""Measure one contestant once: warm it up, load it, read the meters, and hold its books against what was sent."""

import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import quantiles

from typing_extensions import override

from benchmarks.audit import audit, newest_entry
from benchmarks.contestants import Contestant, DatabaseKind, Size
from benchmarks.databases import Databases, Secrets, WorkTree
from benchmarks.load import LoadClient, Script, Sent
from benchmarks.meters import Meters, PeakMemory, Reading, WalMeter, used_between
from benchmarks.mix import SignedMix
from benchmarks.wire import Traffic, tapped

_MS = 1000
_MIB = 2**20

#: By kind, and by the version whose migrations made the tables.
AllDatabases = Mapping[tuple[DatabaseKind, WorkTree], Databases]


class NothingAcknowledgedError(Exception):
    """A server acknowledged nothing, or was sent nothing; says which."""

    def __init__(self, name: str, sent: Sent) -> None:
        why = ", ".join(f"{times} × {what}" for what, times in sent.refused.items())
        if sent.ran_out:
            why = "all that was prepared was sent before it was measured; prepare more (--most)"
        super().__init__(f"{name} acknowledged nothing: {why}")


@dataclass(frozen=True)
class Plan:
    """How long and how hard each contestant is measured."""

    size: Size
    connections: int
    seconds: float
    #: For so many a second, notifications are prepared.
    most_per_second: int
    #: So many are sent a second; without it, as many as are answered.
    rate: float | None = None

    @property
    def warm_up_seconds(self) -> float:
        """How long each is loaded before it is measured: connections are made, statements prepared, pages read."""
        return self.seconds / 4

    @property
    def prepared(self) -> int:
        """How many notifications are made before anything is measured."""
        return int((self.seconds + self.warm_up_seconds) * self.most_per_second)

    @override
    def __str__(self) -> str:
        pace = "as many as are answered" if self.rate is None else f"{self.rate:g} a second"
        return (
            f"Workers: {self.size.workers}, threads of each: {self.size.threads}, connections: {self.connections}; "
            f"{pace}, {self.seconds:g} s a round after {self.warm_up_seconds:g} s of warm-up."
        )


@dataclass(frozen=True)
class Course:
    """What every contestant is measured with."""

    plan: Plan
    secrets: Secrets
    signed: SignedMix
    #: The same, as a file for the load client.
    script: Path
    databases: AllDatabases

    @classmethod
    def prepared(
        cls, folder: Path, plan: Plan, secrets: Secrets, signed: SignedMix, databases: AllDatabases
    ) -> "Course":
        """Write the script down for the load client."""
        path = folder / "script"
        Script(signed.requests, signed.mix.lanes).save(path)
        return cls(plan, secrets, signed, path, databases)

    def databases_of(self, contestant: Contestant) -> Databases:
        """Give what makes the databases of a contestant that keeps anything."""
        assert contestant.database is not None
        return self.databases[contestant.database, contestant.version]


@dataclass(frozen=True)
class Measured:
    """The figures of one contestant in one round. What does not apply, or cannot be read, is None."""

    per_second: float
    p50_ms: float
    p99_ms: float
    server_cpu_ms: float | None = None
    database_cpu_ms: float | None = None
    memory_mib: float | None = None
    #: How much more there was at the end than after the warm-up.
    memory_gained_mib: float | None = None
    wal_bytes: float | None = None
    wal_flushes: float | None = None
    refused: Counter[str] = field(default_factory=Counter)
    #: Whether everything prepared was sent before the time was over.
    ran_out: bool = False
    #: So many were due and not sent, for the server had not answered what was.
    unsent: int = 0


def measure(contestant: Contestant, course: Course) -> Measured:
    """Measure one contestant, on a database of its own.

    Raises `audit.NotOnRecordError` where something that it acknowledged is not in the database, and
    `NothingAcknowledgedError` where there is nothing to measure.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        log = Path(folder) / "log"
        if contestant.database is None:
            return _load(contestant, course, course.secrets.environ(""), log, Meters()).measured
        databases = course.databases_of(contestant)
        with databases.fresh() as url, _wal_meter(contestant, url) as wal:
            flushes = wal.flushes() if wal else 0
            newest = newest_entry(url)
            meters = Meters(database_process_id=databases.process_id(), wal=wal)
            loaded = _load(contestant, course, course.secrets.environ(url), log, meters)
            audit(url, course.signed, loaded.acknowledged, after=newest)
            if wal is None:
                return loaded.measured
            # By now the server is gone, and its connections have told what they did since the warm-up began.
            per_notification = (wal.flushes() - flushes) / len(loaded.acknowledged)
            return replace(loaded.measured, wal_flushes=per_notification)


def count_traffic(contestant: Contestant, course: Course) -> Traffic:
    """Count what a notification asks of PostgreSQL, under the same load but from in between, which slows it down."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        course.databases_of(contestant).fresh() as url,
        tapped(url) as (tapped_url, tap),
        contestant.serving(course.secrets.environ(tapped_url), course.plan.size, Path(folder) / "log") as server,
        LoadClient(course.script, server.port, rate=course.plan.rate) as client,
    ):
        client.send(course.plan.warm_up_seconds)
        before = tap.snapshot()
        sent = client.send(course.plan.warm_up_seconds)
        return tap.per(before, max(len(sent.acknowledged), 1))


def _wal_meter(contestant: Contestant, url: str) -> AbstractContextManager[WalMeter | None]:
    return closing(WalMeter(url)) if contestant.database == "postgresql" else nullcontext()


@dataclass(frozen=True)
class _Loaded:
    measured: Measured
    #: The warm-up's too.
    acknowledged: list[int]


def _load(contestant: Contestant, course: Course, environ: dict[str, str], log: Path, meters: Meters) -> _Loaded:
    """Serve, warm up, send, and stop serving."""
    with (
        contestant.serving(environ, course.plan.size, log) as server,
        LoadClient(course.script, server.port, rate=course.plan.rate, endless=contestant.database is None) as client,
        PeakMemory(server.process_id) as memory,
    ):
        if meters.wal:
            meters.wal.checkpoint()
        meters = replace(meters, server_process_id=server.process_id)
        warm_up = client.send(course.plan.warm_up_seconds)
        before, memory_before = meters.read(), memory.look()
        sent = client.send(course.plan.seconds)
        after, memory_after = meters.read(), memory.look()
    if not sent.acknowledged:
        raise NothingAcknowledgedError(contestant.name, sent)
    measured = replace(
        _measured(sent, before, after),
        memory_mib=memory.bytes / _MIB,
        memory_gained_mib=(memory_after - memory_before) / _MIB,
    )
    return _Loaded(measured, [*warm_up.acknowledged, *sent.acknowledged])


def _measured(sent: Sent, before: Reading, after: Reading) -> Measured:
    count = len(sent.acknowledged)
    middle, slow = percentiles([latency / _MS for latency in sent.latencies])
    return Measured(
        per_second=len(sent.acknowledged) / sent.seconds,
        p50_ms=middle,
        p99_ms=slow,
        server_cpu_ms=used_between(before.server_cpu, after.server_cpu, scale=_MS / count),
        database_cpu_ms=used_between(before.database_cpu, after.database_cpu, scale=_MS / count),
        wal_bytes=used_between(before.wal_bytes, after.wal_bytes, scale=1 / count),
        refused=sent.refused,
        ran_out=sent.ran_out,
        unsent=sent.unsent,
    )


def percentiles(latencies: list[float]) -> tuple[float, float]:
    """Give what half of them, and what all but one in a hundred, stay below."""
    if len(latencies) < 2:  # noqa: PLR2004 -- of fewer, there is nothing to divide
        return (latencies * 2 or [0.0])[0], (latencies * 2 or [0.0])[0]
    cuts = quantiles(latencies, n=100, method="inclusive")
    return cuts[49], cuts[98]
