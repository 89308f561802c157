"""Measure the service with more and more authorizations on record, each number in a database of its own."""

import json
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from uuid import UUID

from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import Session

from app.consistency import verify_batch
from app.database import Database
from app.index_key import find_sealed, unseal
from app.models import Authorization
from app.vault import Sealer, Vault
from benchmarks.bulk_loading import load
from benchmarks.contestants import NOTIFYAUTH
from benchmarks.databases import (
    FLASK,
    HERE,
    ROOT,
    OneDatabase,
    Secrets,
    consult,
    migrate,
    running_postgresql,
    server_version,
)
from benchmarks.history import NOTIFICATIONS_KEPT, auth_state_of
from benchmarks.mix import make_mix, sign_mix
from benchmarks.questions import ask
from benchmarks.rounds import Course, Measured, Plan, measure

#: A tenth of the notifications on record is older.
_PURGED_DAYS = NOTIFICATIONS_KEPT.days * 9 // 10
_SHELL_RUNS = 3
#: So many pieces of the work of `flask authorizations verify` are measured, spread over all of it.
_VERIFIED_BATCHES = 40
_KEY = "bench-of-growth"
_KIB = 1024
_MS = 1000

Tell = Callable[[str], None]


class LookError(Exception):
    """A command of the service, or what is on record, is not as the bench expects it."""


@dataclass(frozen=True)
class Disk:
    """What the tables and the indexes take for each authorization, in KiB."""

    tables_kib: float
    indexes_kib: float


@dataclass(frozen=True)
class Grown:
    """What was measured with so many authorizations on record."""

    authorizations: int
    receiving: Measured
    #: Milliseconds of each question over HTTP, by its name.
    questions_ms: Mapping[str, float]
    #: Milliseconds that `flask authorizations show` takes, its start included.
    show_ms: float
    #: Milliseconds that `flask inbox list --outcome parked` takes, its start included.
    parked_ms: float
    #: Milliseconds that `flask inbox purge` takes for a tenth of the notifications, its start included.
    purge_ms: float
    #: How many notifications that was.
    purged: int
    #: Milliseconds that `flask authorizations verify` takes for a thousand authorizations.
    verify_ms: float
    #: Seconds of a VACUUM of all tables after that, and of an ANALYZE.
    vacuum_s: float
    analyze_s: float
    disk: Disk

    @classmethod
    def read(cls, line: str) -> "Grown":
        """Read what was kept."""
        told = json.loads(line)
        told["receiving"]["refused"] = Counter(told["receiving"]["refused"])
        return cls(**told | {"receiving": Measured(**told["receiving"]), "disk": Disk(**told["disk"])})


@dataclass(frozen=True)
class Growth:
    """What was measured, by size."""

    grown: list[Grown]
    postgresql: str


def grow(sizes: Sequence[int], plan: Plan, *, tell: Tell, results: Path | None = None) -> Growth:
    """Measure with each of these numbers of authorizations, in a database of its own.

    What is measured is added to the file of results, a line for each size; a size that it has is not measured again.
    """
    known = _known(results)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        secrets = Secrets.make(folder)
        missing = [size for size in sizes if size not in known]
        signed = sign_mix(make_mix(plan.prepared if missing else 0, connections=plan.connections), secrets.keyring)
        server, process_id = stack.enter_context(running_postgresql())
        with server.database(template="template0") as url:
            postgresql = server_version(url)
        for size in missing:
            with server.database(template="template0") as url:
                database = OneDatabase(url.render_as_string(hide_password=False), process_id)
                course = Course.prepared(folder, plan, secrets, signed, {("postgresql", HERE): database})
                migrate(database.url, secrets)
                load(database.url, size, vault_key=secrets.vault_key, tell=tell)
                known[size] = look(size, database.url, course, tell)
            if results is not None:
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(known[size])) + "\n")
        return Growth([known[size] for size in sizes], postgresql)


def _known(results: Path | None) -> dict[int, Grown]:
    if results is None or not results.exists():
        return {}
    grown = [Grown.read(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return {each.authorizations: each for each in grown}


def look(size: int, url: str, course: Course, tell: Tell) -> Grown:
    """Measure all of it with a database that is loaded."""
    disk = disk_of(url, size)
    consult(url, course.signed.mix.lives)
    receiving = measure(NOTIFYAUTH, course)
    tell(f"{size}: {receiving.per_second:.0f} per second")
    environ = course.secrets.environ(url) | {"FLASK_API_KEYS": _KEY}
    questions_ms = ask_all(environ, course, size)
    show_ms = _shell_ms(environ, "authorizations", "show", auth_state_of(size))
    parked_ms = _shell_ms(environ, "inbox", "list", "--outcome", "parked", "--oldest-first")
    verify_ms = verify_some(url, course.secrets)
    purged, purge_ms = _purge(environ)
    tell(f"{size}: purged {purged}")
    vacuum_s, analyze_s = _seconds(url, "VACUUM"), _seconds(url, "ANALYZE")
    return Grown(
        size,
        receiving,
        questions_ms,
        show_ms=show_ms,
        parked_ms=parked_ms,
        purge_ms=purge_ms,
        purged=purged,
        verify_ms=verify_ms,
        vacuum_s=vacuum_s,
        analyze_s=analyze_s,
        disk=disk,
    )


def disk_of(url: str, size: int) -> Disk:
    """Say what the rows take, and what their indexes take."""
    engine = create_engine(url)
    with engine.connect() as connection:
        tables, indexes = connection.execute(
            text(
                "SELECT sum(pg_table_size(oid)), sum(pg_indexes_size(oid)) FROM pg_class "
                "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            )
        ).one()
    engine.dispose()
    return Disk(float(tables) / size / _KIB, float(indexes) / size / _KIB)


def _seconds(url: str, statement: str) -> float:
    engine = create_engine(url)
    started = time.perf_counter()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(statement))
    took = time.perf_counter() - started
    engine.dispose()
    return took


def ask_all(environ: Mapping[str, str], course: Course, size: int) -> dict[str, float]:
    """Ask the questions of support, over HTTP."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        NOTIFYAUTH.serving(environ, course.plan.size, Path(folder) / "log") as server,
    ):
        return ask(server.port, _KEY, size)


def verify_some(url: str, secrets: Secrets) -> float:
    """Verify pieces that are spread over all authorizations; give the milliseconds for a thousand of them.

    Raises `LookError` where something on record does not follow from the rest.
    """
    database, sealer = Database(url), Sealer([secrets.vault_key_bytes])
    sealed = database.run(find_sealed, read_only=True)
    assert sealed is not None
    vault = Vault(sealer, unseal(sealer, sealed))
    took, count = 0.0, 0
    for after in database.run(_spread, read_only=True):
        started = time.perf_counter()
        verified = database.run(partial(verify_batch, vault=vault, after=after), read_only=True)
        took += (time.perf_counter() - started) * _MS
        count += verified.count
        if verified.inconsistencies:
            raise LookError(str(verified.inconsistencies[:3]))
    database.close()
    return took / count * 1000


def _spread(session: Session) -> Sequence[UUID]:
    """Give ids that are spread evenly over time, as their beginnings are times."""
    ids = select(Authorization.id)
    oldest = session.scalars(ids.order_by(Authorization.id).limit(1)).one().int
    newest = session.scalars(ids.order_by(Authorization.id.desc()).limit(1)).one().int
    step = (newest - oldest) // _VERIFIED_BATCHES
    return [UUID(int=oldest + turn * step) for turn in range(_VERIFIED_BATCHES)]


def _shell_ms(environ: Mapping[str, str], *arguments: str) -> float:
    """Run a command a few times, and give the median of how long it took."""
    took = []
    for _ in range(_SHELL_RUNS):
        started = time.perf_counter()
        _flask(environ, *arguments)
        took.append((time.perf_counter() - started) * _MS)
    return median(took)


def _flask(environ: Mapping[str, str], *arguments: str) -> str:
    done = subprocess.run([FLASK, *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LookError(done.stderr)
    return done.stdout


def _purge(environ: Mapping[str, str]) -> tuple[int, float]:
    """Purge once, for there is nothing left to purge then; give how many, and how long it took."""
    started = time.perf_counter()
    said = _flask(environ, "inbox", "purge", "--older-than", f"{_PURGED_DAYS}d", "--yes")
    took = (time.perf_counter() - started) * _MS
    found = re.search(r"Purged (\d+)", said)
    if found is None:
        raise LookError(said)
    return int(found[1]), took
