"""`flask serve` with two workers, killed in every way a machine knows, and started again by its supervisor."""

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path

import urllib3
from typing_extensions import override

from tests.acceptance.server import CHECKOUT, Program, Server, a_free_port

#: Two processes are the fewest that can contradict each other.
WORKERS = 2
#: The service pauses for up to a minute before it starts a worker again that keeps dying. Then the worker imports the
#: application, in a second or two, and in many more on a machine that is busy.
_SECONDS_MAX = 120
_SUPERVISOR_PAUSE_SECONDS = 0.1


class SupervisedServer(Server):
    """A server that comes back whenever it ends, as systemd or a container's supervisor brings it back."""

    def __init__(self, environ: Mapping[str, str], log: Path, program: Program) -> None:
        self._environ = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **environ}
        self._log = log
        self._program = program
        self._is_over = threading.Event()
        super().__init__(self._started(port := a_free_port()), port)
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()
        self.recover()

    def _supervise(self) -> None:
        while True:
            self.process.wait()
            if self._is_over.wait(_SUPERVISOR_PAUSE_SECONDS):
                return
            self.process = self._started(self.port)

    def _started(self, port: int) -> subprocess.Popen[str]:
        paths = [each["PYTHONPATH"] for each in (self._program.environ, self._environ) if "PYTHONPATH" in each]
        with self._log.open("a") as output:
            return subprocess.Popen(
                [self._program.path, "serve", "--port", str(port), "--workers", str(WORKERS)],
                cwd=self._program.folder,
                env={**self._environ, "PYTHONPATH": os.pathsep.join(paths)},
                stdout=output,
                stderr=output,
                text=True,
                # A group of its own can be killed whole, and Ctrl-C does not reach it: who started it ends it.
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kill all of its processes at once, in the middle of whatever they do."""
        before = self.workers()
        self._kill_group()
        self.recover(before)

    def stop(self) -> None:
        """Stop it as an operator does: what is in flight is finished."""
        before = self.workers()
        self.process.terminate()
        self.recover(before)

    def replace(self, program: Program) -> None:
        """Stop it as an operator does, and go on with another release."""
        self._program = program
        self.stop()

    def reload(self) -> None:
        """Let every process of it read its settings and keys anew."""
        before = {*self.workers(), *self.background()}
        self.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + _SECONDS_MAX
        while before & {*self.workers(), *self.background()} and time.monotonic() < deadline:
            time.sleep(0.02)
        self.recover()

    def kill_worker(self, chance: random.Random) -> None:
        """Kill one worker. Whose worker dies again within seconds takes that for a loop, and ends whole."""
        before = self.workers()
        if before:
            with suppress(ProcessLookupError):
                os.kill(chance.choice(before), signal.SIGKILL)
            self.recover(before)

    def kill_background(self) -> None:
        """Kill the process that numbers and sends."""
        for process in self.background():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def recover(self, before: Sequence[int] = ()) -> None:
        """Wait until as many workers serve as there should, and not just the same as before."""
        deadline = time.monotonic() + _SECONDS_MAX
        while time.monotonic() < deadline:
            now = self.workers()
            if len(now) == WORKERS and set(now) != set(before) and self._is_ready():
                return
            time.sleep(0.02)
        raise AssertionError(self._log.read_text()[-4000:])

    @override
    def workers(self) -> list[int]:
        # Between two lives it has none, and a worker may be gone by the time it is looked at.
        with suppress(FileNotFoundError, ProcessLookupError):
            return super().workers()
        return []

    @override
    def background(self) -> list[int]:
        with suppress(FileNotFoundError, ProcessLookupError):
            return super().background()
        return []

    def end(self) -> None:
        """End it for good."""
        self._is_over.set()
        self._kill_group()
        self._supervisor.join(_SECONDS_MAX)

    def _is_ready(self) -> bool:
        try:
            return self.get("/readyz").status == HTTPStatus.OK
        except urllib3.exceptions.HTTPError:
            return False

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


@contextmanager
def supervised_server(environ: Mapping[str, str], log: Path, program: Program = CHECKOUT) -> Iterator[SupervisedServer]:
    """Serve until the end of the block, with interruptions."""
    server = SupervisedServer(environ, log, program)
    try:
        yield server
    finally:
        server.end()
