"""Resume parked entries in pieces, where more wait for one authorization than one transaction can take.

The column `resume_after` of an authorization is set until all its entries are resumed. It survives a crash, and any
worker may resume the next piece: the entries behind it in the inbox.

An example: 450 parked entries, 1 to 450, name the authState of a consult, and a transaction takes 200.

1. The consult's transaction loads entries 1 to 200. Entry 1 moves the authorization, so it starts over with the first
   (`restart_resumption`). Nothing moves any more: it sets `resume_after = 200` and commits (`finish_resumption`).
2. The second transaction loads 201 to 400. Entry 300 moves the authorization, and an entry of the first piece may have
   waited for just that. It is not loaded, so `resume_after = 0`, and the transaction commits.
3. The third loads the first 200 that are still parked. Nothing moves: `resume_after` is the last one of them. So it
   goes on, piece by piece, until no more than 200 are left: then `resume_after` is empty.

Had nothing moved in the second, the third would have loaded 401 to 450 and come to the end: three pieces. A delivery
for this authorization that arrives before the end is parked behind the others (`UnitOfWork.wait_behind`). A report or a
replay resumes the pieces first, in its own thread (`run_after_pieces`).
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

#: Authorizations that one look for work takes: more would queue in this process while other workers are idle.
UNFINISHED_MAX = 10
#: The pause between two pieces, in which other transactions get the locks; SQLite has only one.
_PAUSE_S = 0.05
#: The pause between two looks for work, each of an index that is nearly always empty. It finds what a process that died
#: has left.
_LOOK_AGAIN_S = 5
#: How often a sleeping thread checks for shutdown.
_NOTICE_S = 0.5
#: How long a report or a replay resumes the pieces that come before it, until its caller is answered to try again.
_FIRST_S = 2


class Resumption:
    """Resumes the pieces that transactions have left. Safe to share between threads."""

    def __init__(self, resume: Callable[[UUID], bool]) -> None:
        #: Resumes one piece for an authorization, and says whether there is more.
        self._resume = resume
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="resume")
        self._lock = threading.Lock()
        self._under_way: set[UUID] = set()
        #: Asked for again while their piece runs, which may not see what was added: run once more.
        self._asked_again: set[UUID] = set()

    def close(self) -> None:
        """End the thread; what is left to resume keeps its `resume_after`."""
        self._thread.shutdown()

    def resume_later(self, authorization_ids: Iterable[UUID]) -> None:
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
                # No thread can be started. `resume_after` stays, and the next look finds it.
                with self._lock:
                    self._under_way.discard(authorization_id)

    def run_after_pieces(self, work: Callable[[], T]) -> T:
        """Do work that must come after all pieces of an authorization: resume those first, in this thread.

        Raises `DatabaseUnavailableError` where they take too long.
        """
        until = time.monotonic() + min(_FIRST_S, seconds_left())
        while True:
            try:
                return work()
            except UnfinishedError as unfinished:
                if time.monotonic() > until:
                    self.resume_later([unfinished.authorization_id])
                    raise DatabaseUnavailableError(type(unfinished).__name__) from unfinished
                self._resume(unfinished.authorization_id)

    def _do_piece(self, authorization_id: UUID) -> None:
        is_unfinished = False
        with self._lock:
            self._asked_again.discard(authorization_id)
        try:
            is_unfinished = self._resume(authorization_id)
        except DatabaseUnavailableError as unavailable:
            # `resume_after` stays, and the next look finds it.
            _log.warning("resuming postponed", extra={"authorization": authorization_id, **failure(unavailable)})
        except BaseException as error:  # noqa: BLE001 -- a panic of a library too: the other pieces are to be done all the same
            _log.error("resuming failed", extra={"authorization": authorization_id, **failure(error)})
        finally:
            with self._lock:
                self._under_way.discard(authorization_id)
                is_asked_again = authorization_id in self._asked_again
                self._asked_again.discard(authorization_id)
        # A process that ends leaves the rest to the other workers.
        if (is_unfinished or is_asked_again) and threading.main_thread().is_alive():
            time.sleep(_PAUSE_S)
            self.resume_later([authorization_id])


def keep_looking(look: Callable[[], None], *, is_over: Callable[[], bool]) -> None:
    """Look for work at once, then every few seconds until it is over, whatever goes wrong."""
    while not is_over():
        try:
            look()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the next look may go well
            _log.warning("search for entries to resume failed", extra=failure(error))
        looked = time.monotonic()
        while not is_over() and time.monotonic() - looked < _LOOK_AGAIN_S:
            time.sleep(_NOTICE_S)
