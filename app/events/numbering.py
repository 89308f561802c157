"""Number what is staged, and set aside an event that the database refuses, so that it holds up no other.

Such an event stays in the outbox and is tried again every minute: it is never lost, and gets its place in the feed once
the cause is mended. By then later events of its authorization may be before it.
"""

import logging
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from app import metrics
from app.database import Database, DatabaseUnavailableError
from app.events import feed
from app.events.feed import NUMBERED_AT_ONCE_MAX, Subscribers
from app.logs import failure

_log = logging.getLogger(__name__)

#: After this time an event that was refused is tried again.
RETRY_SECONDS = 60.0
#: With more refused events than this, something is wrong with the feed rather than with them.
SET_ASIDE_MAX = 20


class Numbering:
    """Numbers events for one background worker. Used by one thread."""

    def __init__(
        self,
        database: Database,
        subscribers: Subscribers,
        *,
        endpoints: int,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._subscribers = subscribers
        self._endpoints = endpoints
        self._clock = clock
        self._monotonic = monotonic
        #: The ids in the outbox of what was refused, each with when it is tried again.
        self._set_aside: dict[int, float] = {}

    def number(self, *, may_go_on: Callable[[], bool], on_numbered: Callable[[], None]) -> None:
        """Move what is staged into the feed, in transactions of a bounded size, until something else is due.

        Raises what the database raises, but for the refusal of single events.
        """
        self._set_aside = {key: until for key, until in self._set_aside.items() if until > self._monotonic()}
        limit = NUMBERED_AT_ONCE_MAX
        while may_go_on() and self._first() is not None:
            try:
                numbered = self._number(limit)
            except Exception as error:
                if not _is_refusal(error) or len(self._set_aside) >= SET_ASIDE_MAX:
                    raise
                # The first refused event is found by halving; the events before it are numbered on the way.
                if limit == 1:
                    self._set_first_aside(error)
                    limit = NUMBERED_AT_ONCE_MAX
                else:
                    limit //= 2
                continue
            if numbered:
                on_numbered()
            # What was staged since is numbered together at the next look: under load there is always something.
            if limit == NUMBERED_AT_ONCE_MAX and not feed.may_have_left_some(numbered, endpoints=self._endpoints):
                return

    def _first(self) -> int | None:
        return self._database.run(partial(feed.first_staged, leaving_out=list(self._set_aside)), read_only=True)

    def _number(self, limit: int) -> int:
        leaving_out = list(self._set_aside)
        number = partial(feed.number, subscribers=self._subscribers, limit=limit, leaving_out=leaving_out)
        return self._database.run(partial(number, now=self._clock()))

    def _set_first_aside(self, error: Exception) -> None:
        refused = self._first()
        if refused is not None:
            metrics.EVENTS_REFUSED.inc()
            _log.error("event not numbered", extra={"outbox_id": refused, **failure(error)})
            self._set_aside[refused] = self._monotonic() + RETRY_SECONDS


def _is_refusal(error: Exception) -> bool:
    """Say whether an error is about what an event says, rather than about the database or its tables."""
    if isinstance(error, DatabaseUnavailableError | OSError):
        return False
    # A value that cannot be read is an error of Python's.
    return isinstance(error, IntegrityError | DataError) or not isinstance(error, SQLAlchemyError)
