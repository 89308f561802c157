"""What waits to be processed: an item, by when it must be, and who is to be told."""

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from app.group_commit.workers import Promise
from app.logs import failure

_log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class Place(Generic[T, R]):
    """A place in a queue."""

    item: T
    #: What has the same key needs the same row.
    key: Hashable
    until: float
    served: Promise[R] = field(default_factory=Promise)

    def tell(self, result: R) -> None:
        """Say what serving it gave."""
        self._whatever_comes_of_it(partial(self.served.set_result, result))

    def fail(self, error: BaseException) -> None:
        """Say why it was not served."""
        self._whatever_comes_of_it(partial(self.served.set_exception, error))

    def _whatever_comes_of_it(self, settle: Callable[[], None]) -> None:
        try:
            settle()
        except BaseException as error:  # noqa: BLE001 -- a panic in one that is called back is no affair of the others
            _log.error("callback failed", extra=failure(error))
