"""Resume parked entries in pieces, where more wait for one authorization than a transaction can take.

The mark that the first transaction leaves on the authorization survives a crash: any worker may go on, and the pieces
of several only wait for each other's lock.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from uuid import UUID

from app.database import DatabaseUnavailableError, seconds_left
from app.logs import failure
from app.unit_of_work import UnfinishedError

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Authorizations that one look for work takes on: more would only queue in this process while others are idle.
UNFINISHED_MAX = 10
#: Between two pieces everybody else may have the locks: on SQLite that is the only one there is.
_PAUSE_S = 0.05
#: A look reads an index that is nearly always empty. Whoever it finds something for has waited since a process died.
_LOOK_AGAIN_S = 5
#: Within this a thread notices that the process ends.
_NOTICE_S = 0.5
#: What a report or a replay does of the pieces before it, until its caller does better to come again.
_FIRST_S = 2


class Resumption:
    """Goes on where a transaction left off. Safe to share between threads."""

    def __init__(self, resume: Callable[[UUID], bool]) -> None:
        #: Resumes one piece for an authorization, and says whether there is more.
        self._resume = resume
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="resume")
        self._lock = threading.Lock()
        self._under_way: set[UUID] = set()
        #: Those of them for which more was left since their piece began: it may have begun too early to see that.
        self._asked_again: set[UUID] = set()

    def close(self) -> None:
        """End the thread; what is left to resume stays marked."""
        self._thread.shutdown()

    def go_on(self, authorization_ids: Iterable[UUID]) -> None:
        """Resume what is left for these authorizations in another thread, a piece of each in turn."""
        for authorization_id in authorization_ids:
            with self._lock:
                if authorization_id in self._under_way:
                    self._asked_again.add(authorization_id)
                    continue
                self._under_way.add(authorization_id)
            try:
                self._thread.submit(self._do_piece, authorization_id)
            except RuntimeError:
                # No thread can be had, or the interpreter ends. The mark stays, and the next look for it finds it.
                with self._lock:
                    self._under_way.discard(authorization_id)

    def first_finish(self, work: Callable[[], T]) -> T:
        """Do work that must come after all pieces: do those first, here and now.

        Raises `DatabaseUnavailableError` where there are too many of them to wait for.
        """
        until = time.monotonic() + min(_FIRST_S, seconds_left())
        while True:
            try:
                return work()
            except UnfinishedError as unfinished:
                if time.monotonic() > until:
                    self.go_on([unfinished.authorization_id])
                    raise DatabaseUnavailableError(type(unfinished).__name__) from unfinished
                self._resume(unfinished.authorization_id)

    def _do_piece(self, authorization_id: UUID) -> None:
        is_unfinished = False
        with self._lock:
            self._asked_again.discard(authorization_id)
        try:
            is_unfinished = self._resume(authorization_id)
        except DatabaseUnavailableError as unavailable:
            # The mark stays, and the next look for it finds it.
            _log.warning("resuming put off", extra={"authorization": authorization_id, **failure(unavailable)})
        except BaseException as error:  # noqa: BLE001 -- a panic of a library too: the other pieces are to be done all the same
            _log.error("resuming failed", extra={"authorization": authorization_id, **failure(error)})
        finally:
            with self._lock:
                self._under_way.discard(authorization_id)
                is_asked_again = authorization_id in self._asked_again
                self._asked_again.discard(authorization_id)
        # A process that ends leaves the rest to others.
        if (is_unfinished or is_asked_again) and threading.main_thread().is_alive():
            time.sleep(_PAUSE_S)
            self.go_on([authorization_id])


def keep_looking(look: Callable[[], None], *, is_over: Callable[[], bool]) -> None:
    """Look for work at once, then every few seconds until it is over, whatever goes wrong."""
    while not is_over():
        try:
            look()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the next look may go well
            _log.warning("no look for what is to be resumed", extra=failure(error))
        looked = time.monotonic()
        while not is_over() and time.monotonic() - looked < _LOOK_AGAIN_S:
            time.sleep(_NOTICE_S)
