"""Measure the service with ten thousand, a hundred thousand and a million authorizations on record."""

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from statistics import median

from sqlalchemy import create_engine, text

from benchmarks.contestants import NOTIFYAUTH, Size
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
from benchmarks.loading import DAYS, load
from benchmarks.mix import SignedMix, make_mix, sign_mix
from benchmarks.rounds import Course, Measured, Plan, measure

#: A tenth of what is loaded is older.
_PURGED_DAYS = DAYS * 9 // 10
_SHELL_RUNS = 3
_LISTINGS = 30
_KEY = "bench-of-growth"
_KIB = 1024
_MS = 1000

Tell = Callable[[str], None]


class LookError(Exception):
    """The service answered a question of the bench with something else than what was asked for."""


@dataclass(frozen=True)
class Grown:
    """What was measured with so many authorizations on record."""

    authorizations: int
    receiving: Measured
    #: Milliseconds that `flask authorizations show` takes, its start included.
    show_ms: float
    #: Milliseconds of a page of the listing over HTTP.
    by_user_ms: float
    by_state_ms: float
    #: Milliseconds that `flask inbox list --outcome parked` takes, its start included.
    parked_ms: float
    #: Milliseconds that `flask inbox purge` takes for a tenth of what was loaded, its start included.
    purge_ms: float
    #: What one authorization takes on disk with all that belongs to it.
    kib_each: float


@dataclass(frozen=True)
class Growth:
    """What was measured, by size."""

    grown: list[Grown]
    postgresql: str


def grow(sizes: Sequence[int], plan: Plan, *, tell: Tell) -> Growth:
    """Measure with each of these numbers of authorizations, in a database of its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        secrets = Secrets.make(folder)
        signed = sign_mix(make_mix(plan.prepared, connections=plan.connections), secrets.keyring)
        server, process_id = stack.enter_context(running_postgresql())
        grown = []
        postgresql = ""
        for size in sizes:
            with server.database(template="template0") as url:
                postgresql = server_version(url)
                database = OneDatabase(url.render_as_string(hide_password=False), process_id)
                course = Course.prepared(folder, plan, secrets, signed, {("postgresql", HERE): database})
                grown.append(_measure(size, database.url, course, tell))
        return Growth(grown, postgresql)


def _measure(size: int, url: str, course: Course, tell: Tell) -> Grown:
    migrate(url, course.secrets)
    empty = _database_bytes(url)
    load(url, size, tell=tell)
    kib_each = (_database_bytes(url) - empty) / size / _KIB
    consult(url, course.signed.mix.lives)
    receiving = measure(NOTIFYAUTH, course)
    tell(f"{size}: {receiving.per_second:.0f} per second")
    environ = course.secrets.environ(url) | {"FLASK_API_KEYS": _KEY}
    by_user_ms, by_state_ms = _listings(environ, course.plan.size, size)
    show_ms = _shell_ms(environ, "authorizations", "show", _known(course.signed))
    parked_ms = _shell_ms(environ, "inbox", "list", "--outcome", "parked")
    purged, purge_ms = _purge(environ)
    tell(f"{size}: purged {purged}")
    return Grown(size, receiving, show_ms, by_user_ms, by_state_ms, parked_ms, purge_ms, kib_each)


def _database_bytes(url: str) -> int:
    engine = create_engine(url)
    with engine.connect() as connection:
        size = connection.scalar(text("SELECT pg_database_size(current_database())"))
    engine.dispose()
    return int(size or 0)


def _known(signed: SignedMix) -> str:
    """Give an authorization that the first connection spoke of first."""
    return signed.mix.lives[signed.mix.life_of[signed.mix.lanes[0][0]]].auth_state


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


def _listings(environ: Mapping[str, str], size: Size, authorizations: int) -> tuple[float, float]:
    """Ask for pages over HTTP, each time for another user, and for the newest in a state."""
    users = [f"user-{1 + number * (authorizations // 2) // _LISTINGS}" for number in range(_LISTINGS)]
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        NOTIFYAUTH.serving(environ, size, Path(folder) / "log") as server,
    ):
        by_user = [_page_ms(server.port, f"userRef={user}") for user in users]
        by_state = [_page_ms(server.port, "state=token_active&limit=50") for _ in users]
    return median(by_user), median(by_state)


def _page_ms(port: int, query: str) -> float:
    """Give how long a page takes, over a connection of its own as a merchant's service might make one."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    started = time.perf_counter()
    connection.request("GET", f"/v1/authorizations?{query}", headers={"Authorization": f"Bearer {_KEY}"})
    answer = connection.getresponse().read()
    took = time.perf_counter() - started
    connection.close()
    if not json.loads(answer).get("authorizations"):
        raise LookError(answer.decode())
    return took * _MS
