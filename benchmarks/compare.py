"""Measure the contestants in turns, A B C A B C, so that whatever else the machine does slows all alike."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import floor
from benchmarks.contestants import FLOOR, Contestant, DatabaseKind
from benchmarks.databases import Databases, Secrets, WorkTree, postgresql_databases, sqlite_databases
from benchmarks.mix import make_mix, sign_mix
from benchmarks.rounds import Course, Measured, Plan, count_traffic, measure
from benchmarks.wire import Traffic

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Comparison:
    """What was measured: by contestant, round after round."""

    results: dict[str, list[Measured]]
    traffic: dict[str, Traffic]
    postgresql: str


def compare(contestants: Sequence[Contestant], plan: Plan, *, rounds: int, tell: Tell) -> Comparison:
    """Measure each contestant once a round, and count once what each asks of PostgreSQL."""
    with _prepared(contestants, plan, tell) as (course, postgresql):
        traffic = {}
        for each in contestants:
            if each.database == "postgresql":
                tell(f"counting {each.name}")
                traffic[each.name] = floor.traffic(course.signed) if each is FLOOR else count_traffic(each, course)
        results: dict[str, list[Measured]] = {each.name: [] for each in contestants}
        for number in range(1, rounds + 1):
            for each in contestants:
                measured = floor.measure(course) if each is FLOOR else measure(each, course)
                results[each.name].append(measured)
                tell(f"round {number} of {rounds}, {each.name}: {measured.per_second:.0f} per second")
        return Comparison(results, traffic, postgresql)


@contextmanager
def _prepared(contestants: Sequence[Contestant], plan: Plan, tell: Tell) -> Iterator[tuple[Course, str]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        secrets = Secrets.make(folder)
        mix = make_mix(plan.prepared, connections=plan.connections)
        tell(f"signing {len(mix.notifications)} notifications of {len(mix.lives)} authorizations")
        signed = sign_mix(mix, secrets.keyring)
        databases: dict[tuple[DatabaseKind, WorkTree], Databases] = {}
        postgresql = "none"
        if versions := _versions(contestants, "postgresql"):
            for version, made in stack.enter_context(postgresql_databases(versions, secrets, mix.lives)).items():
                databases["postgresql", version] = made
                postgresql = made.version
        for version, files in sqlite_databases(folder, _versions(contestants, "sqlite"), secrets, mix.lives).items():
            databases["sqlite", version] = files
        yield Course.prepared(folder, plan, secrets, signed, databases), postgresql


def _versions(contestants: Sequence[Contestant], kind: DatabaseKind) -> Sequence[WorkTree]:
    return list(dict.fromkeys(each.version for each in contestants if each.database == kind))
