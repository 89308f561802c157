"""Long polling: requests wait for something to happen, and one thread looks for all of them together.

A request that waits keeps no thread. The thread that looks runs only while somebody waits, and asks one question for
all who wait for the same. What it looks for stays once it is there: nothing that happens between two looks is missed.
"""

import threading
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from app.limits import LONG_POLLS_MAX, LOOK_PAUSE_SECONDS

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class NoPlaceError(Exception):
    """All long-poll places are taken."""


@dataclass(frozen=True, slots=True)
class Found(Generic[V]):
    """What was waited for is there."""

    value: V


@dataclass(frozen=True, slots=True)
class NotYet(Generic[K]):
    """There is nothing up to here: look for this from now on."""

    key: K


#: Looks for all of these keys at once. A key that it says nothing of is looked for again.
Look = Callable[[Collection[K]], Mapping[K, Found[V] | NotYet[K]]]


@dataclass(eq=False, slots=True)
class Wait(Generic[K, V]):
    """One request that waits."""

    look: Look[K, V]
    #: What it waits for now.
    key: K
    until: float
    #: What was found, or `None` where the time was up first.
    future: "Future[V | None]" = field(default_factory=Future)


class LongPolling:
    """The waiting requests of this process. Safe to share between threads."""

    def __init__(self, *, places: int = LONG_POLLS_MAX, seconds_between_looks: float = LOOK_PAUSE_SECONDS) -> None:
        self._places = places
        self._pause = seconds_between_looks
        self._lock = threading.Lock()
        self._waits: set[Wait[Any, Any]] = set()
        self._is_looking = False
        self._is_closed = False

    def wait(self, look: Look[K, V], key: K, *, seconds: float) -> Wait[K, V]:
        """Wait for a key, no longer than so many seconds. Raises `NoPlaceError`."""
        wait = Wait(look, key, time.monotonic() + seconds)
        with self._lock:
            if len(self._waits) >= self._places:
                raise NoPlaceError
            self._waits.add(wait)
            try:
                self._require_thread()
            except RuntimeError:
                # The system has no room for another thread.
                self._waits.discard(wait)
                raise NoPlaceError from None
        return wait

    def leave(self, wait: Wait[Any, Any]) -> None:
        """Give a place back: nobody is there any more to be told."""
        with self._lock:
            self._waits.discard(wait)

    def close(self) -> None:
        """Let nobody wait any more: all are told soon that there is nothing. A signal handler may call it."""
        self._is_closed = True

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waits)

    def _require_thread(self) -> None:
        if not self._is_looking:
            # Not a daemon, which the interpreter would stop in the middle of a look: it ends when no request waits.
            threading.Thread(target=self._keep_looking, name="long-polling").start()
            self._is_looking = True

    def _keep_looking(self) -> None:
        while True:
            if not self._is_over():
                time.sleep(self._pause)
            with self._lock:
                waits = list(self._waits)
                if not waits:
                    self._is_looking = False
                    return
            for look in {wait.look for wait in waits}:
                self._look(look, [wait for wait in waits if wait.look == look])
            self._end_late(waits)

    def _look(self, look: Look[Any, Any], waits: list[Wait[Any, Any]]) -> None:
        try:
            seen = look({wait.key for wait in waits})
        except BaseException as error:  # noqa: BLE001 -- a panic of a library too: each who waits for this is told
            for wait in waits:
                if self._take(wait):
                    wait.future.set_exception(error)
            return
        for wait in waits:
            match seen.get(wait.key):
                case Found(value):
                    if self._take(wait):
                        wait.future.set_result(value)
                case NotYet(key):
                    wait.key = key
                case None:
                    pass

    def _end_late(self, waits: list[Wait[Any, Any]]) -> None:
        now = time.monotonic()
        for wait in waits:
            if (wait.until <= now or self._is_over()) and self._take(wait):
                wait.future.set_result(None)

    def _take(self, wait: Wait[Any, Any]) -> bool:
        """Take a request out, and say whether it was still waiting."""
        with self._lock:
            is_waiting = wait in self._waits
            self._waits.discard(wait)
        return is_waiting

    def _is_over(self) -> bool:
        return self._is_closed or not threading.main_thread().is_alive()
