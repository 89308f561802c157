"""`flask serve` with two workers, killed in every way a machine knows, and started again at the same port."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import urllib3

from tests.acceptance.server import FLASK, Server, a_free_port, wait_until_ready
from tests.conftest import ROOT

#: Two processes are the fewest that can contradict each other.
WORKERS = 2
#: A worker imports the application in a second or two, and many more on a machine that is busy.
_SECONDS_MAX = 60


class RestartableServer(Server):
    """A server that comes back after whatever was done to it, as a supervisor of processes would bring it back."""

    def __init__(self, environ: Mapping[str, str], log: Path) -> None:
        self._environ = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **environ}
        self._log = log
        super().__init__(self._started(port := a_free_port()), port)
        wait_until_ready(self, log)

    def start(self) -> None:
        """Start again what is not running, and wait until it can work."""
        self.process = self._started(self.port)
        wait_until_ready(self, self._log)

    def signal(self, what: signal.Signals) -> None:
        """Send a signal to all of its processes at once."""
        os.killpg(self.process.pid, what)

    def kill(self) -> None:
        """Kill all of its processes at once, in the middle of whatever they do."""
        self.signal(signal.SIGKILL)
        self.process.wait(timeout=_SECONDS_MAX)

    def stop(self) -> None:
        """Stop it as an operator does: what is in flight is finished."""
        self.process.terminate()
        self.process.wait(timeout=_SECONDS_MAX)

    def kill_worker(self, chance: random.Random) -> bool:
        """Kill one worker, wait until two serve again, and say whether the server saw to it by itself.

        A server whose worker dies again within seconds of being replaced takes this for a loop and ends, and somebody
        has to start it.
        """
        before = self.workers()
        if not before:
            return False
        os.kill(chance.choice(before), signal.SIGKILL)
        deadline = time.monotonic() + _SECONDS_MAX
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                self.start()
                return False
            now = self.workers()
            if len(now) == WORKERS and set(now) != set(before):
                wait_until_ready(self, self._log)
                return True
            time.sleep(0.02)
        raise AssertionError(self._log.read_text())

    def is_ready(self) -> bool:
        """Whether a worker answers, right now, that it can work."""
        try:
            return self.get("/readyz").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def _started(self, port: int) -> subprocess.Popen[str]:
        with self._log.open("a") as output:
            return subprocess.Popen(
                [FLASK, "serve", "--port", str(port), "--workers", str(WORKERS)],
                cwd=ROOT,
                env=self._environ,
                stdout=output,
                stderr=output,
                text=True,
                # A group of its own can be killed whole, and Ctrl-C does not reach it: who started it ends it.
                start_new_session=True,
            )


@contextmanager
def restartable_server(environ: Mapping[str, str], log: Path) -> Iterator[RestartableServer]:
    """Serve until the end of the block, with interruptions."""
    server = RestartableServer(environ, log)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()
