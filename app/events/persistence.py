"""Go on with what is done again and again, whatever goes wrong: each trouble is logged once, and once that it is over.

A database may be away for hours, and work that is tried every second would fill the log.
"""

import logging
from collections.abc import Callable

from app.database import DatabaseUnavailableError
from app.logs import failure

_log = logging.getLogger(__name__)


class Persistence:
    """One piece of work that is done again and again by one thread."""

    def __init__(self, what: str, **facts: str) -> None:
        #: What a log calls it.
        self._what = what
        self._facts = facts
        self._trouble: str | None = None

    def try_once(self, work: Callable[[], object]) -> bool:
        """Do the work, and say whether that went well."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the next time may go well
            self._note(error)
            return False
        if self._trouble is not None:
            self._trouble = None
            _log.info("background work goes on", extra={"what": self._what, **self._facts})
        return True

    def _note(self, error: Exception) -> None:
        is_away = isinstance(error, DatabaseUnavailableError)
        trouble = "away" if is_away else type(error).__name__
        if trouble != self._trouble:
            level = logging.WARNING if is_away else logging.ERROR
            _log.log(level, "background work fails", extra={"what": self._what, **self._facts, **failure(error)})
        self._trouble = trouble
