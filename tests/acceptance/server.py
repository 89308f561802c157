"""A real server process, started as an operator starts it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import IO

import urllib3

from tests.conftest import ROOT

FLASK = Path(sys.executable).with_name("flask")
_SECONDS_MAX = 30


@dataclass(frozen=True)
class Program:
    """A program with the service's commands, and the folder in which it is called."""

    path: Path
    folder: Path
    #: What its processes find in their environment beside the settings.
    environ: Mapping[str, str] = field(default_factory=dict)


#: The checkout's own.
CHECKOUT = Program(FLASK, ROOT)


@dataclass
class Server:
    """A server that is running, or was."""

    process: subprocess.Popen[str]
    port: int
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def get(self, path: str, *, key: str = "") -> urllib3.BaseHTTPResponse:
        return urllib3.request("GET", self.url + path, headers={"Authorization": f"Bearer {key}"}, retries=False)

    def checks(self) -> dict[str, str]:
        """What /readyz says."""
        checks: dict[str, str] = self.get("/readyz").json()["checks"]
        return checks

    def say(self, request: bytes, *, seconds: float = 10, after: float = 0) -> bytes:
        """Send bytes over a connection of their own, and return what comes back up to the end of a body."""
        with socket.create_connection((self.host, self.port), timeout=seconds) as connection:
            time.sleep(after)
            connection.sendall(request)
            answer = b""
            while b"\r\n\r\n" not in answer or not answer.endswith(b"}}"):
                received = connection.recv(65536)
                if not received:
                    break
                answer += received
        return answer

    def workers(self) -> list[int]:
        """The processes that serve, by their ids."""
        return self._children("worker")

    def background(self) -> list[int]:
        """The process that does the background work, by its id."""
        return self._children("background")

    def _children(self, name: str) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii")
        return [child for child in map(int, children.split()) if _name_of(child) == name]


def _name_of(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text(encoding="ascii").strip()
    return ""


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def a_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def flask(environ: Mapping[str, str], *arguments: str, seconds_max: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return run(CHECKOUT, environ, *arguments, seconds_max=seconds_max)


def run(
    program: Program, environ: Mapping[str, str], *arguments: str, seconds_max: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a command of any program to its end."""
    return subprocess.run(
        [program.path, *arguments],
        cwd=program.folder,
        env=process_environ({**program.environ, **environ}),
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds_max,
    )


@contextmanager
def running_server(
    environ: Mapping[str, str], log: Path, *options: str, asked_at: str = "127.0.0.1", program: Program = CHECKOUT
) -> Iterator[Server]:
    """Serve until the end of the block, ready from its beginning."""
    with (
        log.open("w") as output,
        starting_server(environ, output, *options, asked_at=asked_at, program=program) as server,
    ):
        wait_until_ready(server, log)
        # One of them is; the others may still be starting.
        wanted = int(options[options.index("--workers") + 1]) if "--workers" in options else min(os.cpu_count() or 1, 4)
        deadline = time.monotonic() + _SECONDS_MAX
        while len(server.workers()) < wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        yield server


@contextmanager
def starting_server(
    environ: Mapping[str, str],
    output: IO[str] | int,
    *options: str,
    asked_at: str = "127.0.0.1",
    through: Sequence[str] = (),
    program: Program = CHECKOUT,
) -> Iterator[Server]:
    """Serve until the end of the block; what is said goes wherever the caller wants.

    Another program may prepare the surroundings, if it leaves its process to the server in the end.
    """
    port = a_free_port()
    process = subprocess.Popen(
        [*through, program.path, "serve", "--port", str(port), *options],
        cwd=program.folder,
        env=process_environ({**program.environ, **environ}),
        stdout=output,
        stderr=output,
        text=True,
    )
    try:
        yield Server(process, port, asked_at)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=_SECONDS_MAX)


@contextmanager
def working(environ: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """Do the background work, in a process that does nothing else, until the end of the block."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [FLASK, "work"], cwd=ROOT, env=process_environ(environ), stdout=output, stderr=output, text=True
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=_SECONDS_MAX)


def wait_until_ready(server: Server, log: Path | None = None) -> None:
    """Return once a worker answers that it can work."""
    deadline = time.monotonic() + _SECONDS_MAX
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if server.get("/readyz").status == HTTPStatus.OK:
                return
        except urllib3.exceptions.HTTPError:
            pass
        time.sleep(0.05)
    raise AssertionError("" if log is None else log.read_text())


def process_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process, which has nothing of ours but what a test says."""
    # Coverage of the server's own process is measured too, where it is measured at all.
    measured = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **measured, **environ}
