"""Who is measured: every server that can be sent notifications, started as its own documentation says."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Literal

from benchmarks.databases import HERE, WorkTree

_START_SECONDS_MAX = 60
_STOP_SECONDS_MAX = 60
_BIN = Path(sys.executable).parent

DatabaseKind = Literal["postgresql", "sqlite"]


class ContestantNotStartedError(Exception):
    """A server did not answer in time; the message ends with what it said."""

    def __init__(self, name: str, log: str) -> None:
        super().__init__(f"{name} did not start:\n{log}")


@dataclass(frozen=True)
class Size:
    """How much each contestant may do at once."""

    workers: int
    threads: int


@dataclass(frozen=True)
class Contestant:
    """A server. `{flask}`, `{port}`, `{workers}` and `{threads}` in its command are filled in."""

    name: str
    command: Sequence[str | Path]
    #: None for a server that keeps nothing: it may be sent the same notifications again and again.
    database: DatabaseKind | None = "postgresql"
    version: WorkTree = HERE

    @contextmanager
    def serving(self, environ: Mapping[str, str], size: Size, log: Path) -> Iterator["Serving"]:
        """Serve until the end of the block, ready from its beginning, and finish what is in flight at its end.

        Raises `ContestantNotStartedError`.
        """
        port = _a_free_port()
        environ = {**self.version.environ(environ), "BENCH_THREADS": str(size.threads)}
        filled_in = {"flask": self.version.flask, "port": port, "workers": size.workers, "threads": size.threads}
        command = [str(part).format(**filled_in) for part in self.command]
        with log.open("w") as output:
            process = subprocess.Popen(command, cwd=self.version.folder, env=environ, stdout=output, stderr=output)
        try:
            _wait_until_ready(self.name, process, port, log)
            yield Serving(port, process.pid)
        finally:
            process.terminate()
            process.wait(timeout=_STOP_SECONDS_MAX)


@dataclass(frozen=True)
class Serving:
    """A server that is ready."""

    port: int
    process_id: int


def _a_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return once anything is answered: a server that listens has imported its application."""
    deadline = time.monotonic() + _START_SECONDS_MAX
    while time.monotonic() < deadline and process.poll() is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=_START_SECONDS_MAX)
        try:
            connection.request("GET", "/readyz")
            connection.getresponse()
        except OSError:
            time.sleep(0.05)
        else:
            return
        finally:
            connection.close()
    raise ContestantNotStartedError(name, log.read_text())


_SERVE = ("{flask}", "serve", "--port", "{port}", "--workers", "{workers}", "--threads", "{threads}")
#: The same server, set up as `flask serve` sets it up.
_GRANIAN = (
    *(_BIN / "granian", "--interface", "rsgi", "--http", "1", "--no-ws", "--backpressure", "256"),
    *("--port", "{port}", "--workers", "{workers}", "--log-level", "warning"),
)
_GUNICORN = (
    *(_BIN / "gunicorn", "--worker-class", "gthread", "--bind", "127.0.0.1:{port}"),
    *("--workers", "{workers}", "--threads", "{threads}", "--log-level", "warning"),
)

#: No server: `benchmarks.floor` writes the rows itself.
FLOOR = Contestant("floor", ())
EMPTY = Contestant("empty", (*_GRANIAN, "benchmarks.endpoints:empty_endpoint"), database=None)
VERIFYING = Contestant("verifying", (*_GRANIAN, "benchmarks.endpoints:verifying_endpoint"), database=None)
NAIVE = Contestant("naive", (*_GUNICORN, "benchmarks.naive:app"))
NOTIFYAUTH = Contestant("notifyauth", _SERVE)
NOTIFYAUTH_SQLITE = Contestant("notifyauth-sqlite", _SERVE, database="sqlite")

CONTESTANTS = {each.name: each for each in (FLOOR, EMPTY, VERIFYING, NAIVE, NOTIFYAUTH, NOTIFYAUTH_SQLITE)}


def at_another_version(contestant: Contestant, folder: Path) -> Contestant:
    """Give a contestant as another work tree has it, to compare a change with what was before."""
    return replace(contestant, name=f"{contestant.name} at {folder.name}", version=WorkTree.at(folder))
