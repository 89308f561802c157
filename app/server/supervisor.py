"""Keep worker processes running: replace them one by one, start again those that die, and end with their parent.

granian stops an old worker whether or not the new one came up, and takes two deaths within five seconds for a reason to
end the service. Here an old worker goes only when the new one is ready, and a worker that keeps dying is started ever
more slowly while the others serve.
"""

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, Protocol

from granian.net import SocketHolder  # type: ignore[attr-defined] # it does not say that it exports it
from granian.server import MPServer
from granian.server.mp import WorkerProcess
from typing_extensions import override

from app.limits import STOP_SECONDS_MAX
from app.server.background import Background, BackgroundProcess
from app.server.listening import BACKLOG, SPREADS, Address, stop_accepting
from app.server.processes import (
    LOOK_SECONDS,
    START_SECONDS_MAX,
    STEADY_SECONDS,
    end_with_parent,
    pause_before,
    show_as,
    tell_systemd_ready,
)

_log = logging.getLogger(__name__)

#: When every worker has died this often and none has ever been ready, the service cannot start, and says so by ending.
_HOPELESS_DEATHS = 3
#: Granian asks this of a socket that it is given.
_IS_UNIX_SOCKET = False

#: Tells a worker to drain. Nobody else sends it.
_DRAIN = signal.SIGUSR1
#: For a request that is on its way over a connection that was just taken, and for busy connections to come to an end.
_DRAIN_SECONDS = 1


class Served(Protocol):
    """What a worker serves: for granian something to call, and for the supervisor something to drain."""

    def __call__(self, scope: Any, protocol: Any, /) -> Any:  # noqa: ANN401 -- granian's
        """Answer a request."""

    def add_serving_callback(self, callback: Callable[[], None], /) -> None:
        """Have this called once, when a request would be answered."""

    def drain(self) -> None:
        """From now on, end each connection with its next answer."""


Loader = Callable[[], Served]


class _Wake:
    """What the main loop waits for, in place of a `threading.Event`.

    A signal handler may run while its own thread holds the lock of an event, and would then wait for itself.
    `SimpleQueue.put` is safe there.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Wake the loop."""
        self._calls.put(None)

    def wait(self, timeout: float | None) -> None:
        """Return when woken since the last time, or when the time is up."""
        try:
            self._calls.get(timeout=timeout)
            while True:
                self._calls.get_nowait()
        except Empty:
            return


@dataclass
class _Slot:
    """The place of one worker, which one process after the other takes."""

    listener: socket.socket
    #: Ends when the worker does; before that it says once that the worker is ready.
    news: Connection | None = None
    #: In a row, each soon after its start.
    deaths: int = 0
    #: When to start the next one; `None` while there is one.
    due: float | None = None
    was_ready: bool = False
    #: Whether a worker that was ready listens at the socket, as far as is known.
    is_listened_at: bool = False


class Supervisor(MPServer):
    """granian's server, with its own rules for workers that are to be replaced or have died."""

    # What granian keeps here is not always of the type that it was first set to.
    main_loop_interrupt: Any
    _shd: Any
    _sso: Any

    def __init__(
        self,
        address: Address,
        *,
        check: Callable[[], str | None],
        background: Background | None = None,
        **options: Any,  # noqa: ANN401 -- granian's
    ) -> None:
        """Take granian's options, and a check that says what would keep a new worker from starting, if anything.

        What is to go on in the background, if anything is, can be pickled.
        """
        super().__init__("", address=address.host, port=address.port, backlog=BACKLOG, **options)
        self.workers_kill_timeout = STOP_SECONDS_MAX
        self._address = address
        self._check = check
        self._slots = [_Slot(listener) for listener in address.for_workers(self.workers)]
        self.main_loop_interrupt = _Wake()
        self._background = background and BackgroundProcess(background, wake=self.main_loop_interrupt.set)

    def serve_until_told_to_stop(self, loader: Loader) -> None:
        """Serve what the loader returns in each worker. Ends the process with 1 if no worker can ever start."""
        self.serve(target_loader=loader, wrap_loader=False)

    @override
    def _init_shared_socket(self) -> None:
        self._ssp = self._shd = self._sso = None

    @override
    def _drop_shared_socket(self) -> None:
        for slot in self._slots:
            slot.listener.close()

    @override
    def _spawn_workers(self, spawn_target: Any, target_loader: Loader) -> None:
        """Start the first worker of each slot."""
        self._target, self._loader = spawn_target, target_loader
        self.wrks = [self._start(index) for index in range(self.workers)]
        if self._background is not None:
            self._background.start()

    @override
    def _stop_workers(self) -> None:
        if self._background is not None:
            self._background.tell_to_stop()
        self._let_waiting_requests_be_answered()
        super()._stop_workers()  # type: ignore[no-untyped-call] # granian's
        if self._background is not None:
            self._background.stop()

    def _let_waiting_requests_be_answered(self) -> None:
        """Tell every worker to drain: else it would stop only when the last of its deferred responses is known."""
        for slot, worker in zip(self._slots, self.wrks, strict=True):
            # One that has become ready may have said so a moment ago.
            self._hear(slot)
            if slot.is_listened_at and not _has_ended(worker):
                # It may end just now.
                with suppress(ProcessLookupError):
                    os.kill(worker.inner.pid, _DRAIN)

    def _start(self, index: int) -> WorkerProcess:
        """Start a process for a slot, which gets the slot's socket and something to say "ready" with.

        Raises `OSError` where the system has no room for another process.
        """
        slot = self._slots[index]
        # granian hands both over. In the worker the descriptor has the same number, since the socket comes with it.
        self._sso = slot.listener
        backlog = (BACKLOG,) if SPREADS else ()
        self._shd = SocketHolder(slot.listener.fileno(), _IS_UNIX_SOCKET, *backlog)  # type: ignore[call-arg] # its stub names no arguments
        slot.news, ready = multiprocessing.Pipe(duplex=False)
        slot.due = None
        worker = self._spawn_worker(index, self._target, partial(_load, self._loader, ready, slot.listener))
        worker.start()
        # From here on only the worker holds it, so that it ends with the worker.
        ready.close()
        return worker

    @override
    def _serve_loop(self, spawn_target: Any, target_loader: Loader) -> None:
        while not self.interrupt_signal:
            if self.reload_signal:
                self.reload_signal = False
                self._replace_all()
            self._notice_deaths()
            if self._is_hopeless():
                _log.error("no worker can start")
                # granian's word for "end with 1".
                self.interrupt_children.append(0)
                return
            self._start_those_due()
            self._look_after_background()
            self.main_loop_interrupt.wait(self._seconds_until_one_is_due())
        # Deaths before the end are no reason to call it a failure.
        self.interrupt_children.clear()

    def _look_after_background(self) -> None:
        """Start the background process again where that is due, also in the middle of a reload."""
        if self._background is not None:
            self._background.look()

    def _replace_all(self) -> None:
        """Replace the workers one by one, each as soon as its successor is ready, unless a new one could not start."""
        problem = self._check()
        if problem is not None:
            _log.error("reload refused", extra={"problem": problem})
            return
        _log.info("reloading")
        for index in range(self.workers):
            if not self._replace(index):
                if not self.interrupt_signal:
                    _log.error("reload given up", extra={"worker": index + 1})
                return
        if self._background is not None and not self._background.replace(is_over=lambda: self.interrupt_signal):
            if not self.interrupt_signal:
                _log.error("reload given up", extra={"worker": "background"})
            return
        _log.info("reloaded")

    def _replace(self, index: int) -> bool:
        """Say whether there is a new worker now; until it is ready, the old one serves."""
        old = self.wrks[index]
        try:
            new = self._start(index)
        except OSError:
            return False
        if not self._becomes_ready(index):
            _stop(new)
            self._slots[index].was_ready = not _has_ended(old)
            return False
        self.wrks[index] = new
        self._slots[index].deaths = 0
        self._drain(old)
        _stop(old, while_waiting=self._look_after_background)
        return True

    def _drain(self, worker: WorkerProcess) -> None:
        """Let a worker that is replaced accept no more connections, and end each of its own with its next response."""
        if not _has_ended(worker):
            # It may end at this moment.
            with suppress(ProcessLookupError):
                os.kill(worker.inner.pid, _DRAIN)
            deadline = time.monotonic() + _DRAIN_SECONDS
            while not self.interrupt_signal and time.monotonic() < deadline:
                self._look_after_background()
                time.sleep(LOOK_SECONDS)

    def _becomes_ready(self, index: int) -> bool:
        deadline = time.monotonic() + START_SECONDS_MAX
        slot = self._slots[index]
        slot.was_ready = False
        while not self.interrupt_signal and time.monotonic() < deadline:
            if self._hear(slot, seconds=LOOK_SECONDS):
                return slot.was_ready
            self._look_after_background()
        return False

    def _hear(self, slot: _Slot, *, seconds: float = 0) -> bool:
        """Read from the pipe whether the worker of a slot is ready, or has ended; return whether it said either."""
        if slot.news is None or not slot.news.poll(seconds):
            return False
        try:
            slot.news.recv_bytes()
            slot.was_ready = slot.is_listened_at = True
        except EOFError:
            pass
        slot.news.close()
        slot.news = None
        return True

    def _notice_deaths(self) -> None:
        for slot, worker in zip(self._slots, self.wrks, strict=True):
            self._hear(slot)
            if slot.due is not None or worker.is_alive():
                continue
            lived = time.monotonic() - worker.birth
            slot.deaths = slot.deaths + 1 if lived < STEADY_SECONDS else 1
            pause = pause_before(slot.deaths)
            slot.due = time.monotonic() + pause
            facts = {"worker": worker.idx + 1, "exit_code": worker.inner.exitcode, "lived_seconds": round(lived)}
            _log.error("worker died", extra=facts | {"again_in_seconds": pause})
            slot.is_listened_at = False
            if SPREADS and self._is_any_listened_at():
                # A new socket, so that workers that listen get the connections waiting at the old one. Where all others
                # are still starting, the old one stays: without it, connections would be refused.
                with suppress(OSError):
                    slot.listener, old = self._address.bound(), slot.listener
                    old.close()

    def _is_any_listened_at(self) -> bool:
        pairs = zip(self._slots, self.wrks, strict=True)
        return any(slot.is_listened_at and not _has_ended(worker) for slot, worker in pairs)

    def _is_hopeless(self) -> bool:
        return not any(slot.was_ready for slot in self._slots) and all(
            slot.deaths >= _HOPELESS_DEATHS for slot in self._slots
        )

    def _start_those_due(self) -> None:
        for index, slot in enumerate(self._slots):
            if slot.due is None or slot.due > time.monotonic():
                continue
            try:
                self.wrks[index] = self._start(index)
            except OSError as error:
                slot.deaths += 1
                slot.due = time.monotonic() + pause_before(slot.deaths)
                _log.error("worker not started", extra={"worker": index + 1, "error": error.strerror})

    def _seconds_until_one_is_due(self) -> float | None:
        due = [each.due for each in (*self._slots, self._background) if each is not None and each.due is not None]
        return max(0, min(due) - time.monotonic()) if due else None


def _stop(worker: WorkerProcess, *, while_waiting: Callable[[], None] = lambda: None) -> None:
    """Let a worker finish what it has begun, and no longer than that may take."""
    if _has_ended(worker):
        # Its id may be another's by now.
        return
    worker.terminate()
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while not _ends_within(worker, LOOK_SECONDS):
        if time.monotonic() >= deadline:
            _log.warning("worker killed", extra={"worker": worker.idx + 1})
            worker.kill()
            worker.join()
            return
        while_waiting()


def _has_ended(worker: WorkerProcess) -> bool:
    """Say whether a worker has ended, also while granian's thread, which waits for it, has not yet said how."""
    return _ends_within(worker, 0)


def _ends_within(worker: WorkerProcess, seconds: float) -> bool:
    # Its end of this pipe closes with the process. `is_alive` asks for its status, which only one of two can be given.
    return bool(wait([worker.inner.sentinel], seconds))


def _load(loader: Loader, ready: Connection, listener: socket.socket) -> Served:
    """Load what a worker serves, which tells the parent when it does. This is the first of our code in a worker."""
    # A terminal that goes away tells everyone. For a worker that is no reason to die.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    show_as("worker")
    threading.Thread(target=end_with_parent, name="end-with-parent", daemon=True).start()
    loaded = loader()
    signal.signal(_DRAIN, partial(_on_drain, loaded, listener.detach()))
    loaded.add_serving_callback(partial(_begin_to_serve, loaded, ready))
    return loaded


def _begin_to_serve(loaded: Served, ready: Connection) -> None:
    """Say that the worker is ready. By now granian has its own handlers for the signals that stop it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # A signal that reaches a worker directly, as from a terminal, has not told it to drain.
        signal.signal(number, partial(_on_stop, loaded, signal.getsignal(number)))
    tell_systemd_ready()
    _say_ready(ready)


def _say_ready(ready: Connection) -> None:
    # A parent that has given this worker up listens no more.
    with suppress(OSError):
        ready.send_bytes(b"ready")
    ready.close()


def _on_drain(loaded: Served, listener: int, *_: object) -> None:
    stop_accepting(listener)
    loaded.drain()


def _on_stop(loaded: Served, then: Any, number: int, frame: FrameType | None) -> None:  # noqa: ANN401 -- a handler, or none
    # Else granian would wait for the last of its deferred responses.
    loaded.drain()
    if callable(then):
        then(number, frame)
