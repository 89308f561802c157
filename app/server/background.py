"""The background process beside the workers: started again when it dies, replaced on reload, ended with its parent.

It is a process of its own, so that its work never shares an interpreter with what answers requests.
"""

import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from uuid import uuid4

from app.limits import STOP_SECONDS_MAX
from app.server.processes import (
    LOOK_SECONDS,
    START_SECONDS_MAX,
    STEADY_SECONDS,
    end_with_parent,
    pause_before,
    show_as,
)

_log = logging.getLogger(__name__)

_NAME = "background"
#: The longest pause before it is started again. Until then no process does its work, and a code lives a minute.
_PAUSE_SECONDS_MAX = 8.0
#: A process that has closed everything is gone within milliseconds.
_REAP_SECONDS_MAX = 1.0

#: What the process does until told to stop. It is called with the identity that holds its leases, the stop event, and a
#: function that reports 'started' to the parent.
Background = Callable[[str, threading.Event, Callable[[], None]], None]


class BackgroundProcess:
    """Keeps one process running. Used by the supervisor's main loop alone."""

    def __init__(self, background: Background, *, wake: Callable[[], None]) -> None:
        """Take what the process does, and what wakes the main loop when it has died."""
        self._background = background
        self._wake = wake
        self._process: BaseProcess | None = None
        #: The one before, which finishes what it has begun.
        self._leaving: BaseProcess | None = None
        self._born = 0.0
        #: What it is known by; one that takes the place of a dead one, by the same: then the dead one's leases are its.
        self._identity = str(uuid4())
        #: In a row, each soon after its start.
        self._deaths = 0
        #: When to start it; `None` while it runs.
        self.due: float | None = None

    def start(self) -> None:
        """Start the process, or say when that is tried again."""
        self.due = None
        try:
            self._process, news = self._start(self._identity)
        except OSError as error:
            self._deaths += 1
            self.due = time.monotonic() + pause_before(self._deaths, seconds_max=_PAUSE_SECONDS_MAX)
            _log.error("background process not started", extra={"error": error.strerror})
            return
        news.close()
        if self._deaths:
            _log.info("background process started again")

    def look(self) -> None:
        """Notice that the process has died, and start it when that is due."""
        if self._leaving is not None and _has_ended(self._leaving):
            self._leaving.join(_REAP_SECONDS_MAX)
            self._leaving = None
        if self.due is None and self._process is not None and _has_ended(self._process):
            # It has ended, so that this is over as soon as the system says how.
            self._process.join(_REAP_SECONDS_MAX)
            lived = time.monotonic() - self._born
            self._deaths = self._deaths + 1 if lived < STEADY_SECONDS else 1
            pause = pause_before(self._deaths, seconds_max=_PAUSE_SECONDS_MAX)
            self.due = time.monotonic() + pause
            facts = {"exit_code": self._process.exitcode, "lived_seconds": round(lived), "again_in_seconds": pause}
            _log.error("background process died", extra=facts)
        if self.due is not None and self.due <= time.monotonic():
            self.start()

    def replace(self, *, is_over: Callable[[], bool]) -> bool:
        """Put a new process in the place of the old one, which goes on until that has started; say whether it has."""
        old, identity = self._process, str(uuid4())
        try:
            new, news = self._start(identity)
        except OSError:
            return False
        with news:
            if not _hears(news, is_over):
                _stop(new)
                return False
        if self._leaving is not None:
            _stop(self._leaving)
        self._process, self._leaving, self._identity = new, old, identity
        self._deaths, self.due = 0, None
        if old is not None and not _has_ended(old):
            # The main loop does not wait for it: it may be told to stop just now.
            old.terminate()
        return True

    def tell_to_stop(self) -> None:
        """Let the process finish what it has begun."""
        if self._process is not None and not _has_ended(self._process):
            self._process.terminate()

    def stop(self) -> None:
        """Wait until the process has finished what it has begun, and no longer than that may take."""
        for process in (self._leaving, self._process):
            if process is not None:
                _stop(process)

    def _start(self, identity: str) -> tuple[BaseProcess, Connection]:
        news, ready = multiprocessing.Pipe(duplex=False)
        arguments = (self._background, identity, ready)
        process = multiprocessing.get_context("spawn").Process(target=_run, args=arguments, name=_NAME)
        process.start()
        self._born = time.monotonic()
        # From here on only the process holds it, so that it ends with the process.
        ready.close()
        watch = threading.Thread(target=_wake_at_end, args=(process.sentinel, self._wake), name="watch", daemon=True)
        # Where no thread can be had, its death is noticed at the next look for something else.
        with suppress(RuntimeError):
            watch.start()
        return process, news


def _wake_at_end(sentinel: int, wake: Callable[[], None]) -> None:
    # Joining the process here would take its exit code from the main loop.
    wait([sentinel])
    wake()


def _hears(news: Connection, is_over: Callable[[], bool]) -> bool:
    """Say whether a process tells in time that it has started."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while not is_over() and time.monotonic() < deadline:
        if news.poll(LOOK_SECONDS):
            with suppress(EOFError):
                return bool(news.recv_bytes())
            return False
    return False


def _stop(process: BaseProcess) -> None:
    if not _has_ended(process):
        process.terminate()
    process.join(STOP_SECONDS_MAX)
    if not _has_ended(process):
        _log.warning("background process killed")
        process.kill()
        process.join()


def _has_ended(process: BaseProcess) -> bool:
    return bool(wait([process.sentinel], 0))


def _run(background: Background, identity: str, ready: Connection) -> None:
    """Do the background work. This is the first of our code that runs in the process."""
    # A terminal that goes away tells everyone. For this process that is no reason to die.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, partial(_on_stop, stop))
    threading.Thread(target=end_with_parent, name="end-with-parent", daemon=True).start()
    show_as(_NAME)
    background(identity, stop, partial(_tell, ready))


def _tell(ready: Connection) -> None:
    # The parent may be gone, or no longer listen.
    with suppress(OSError):
        ready.send_bytes(b"ready")
        ready.close()


def _on_stop(stop: threading.Event, *_: object) -> None:
    # A thread of its own: this one may hold the lock of the event just now, and would wait for itself.
    threading.Thread(target=stop.set, name="stop", daemon=True).start()
