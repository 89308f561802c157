"""Let those who wait be served together: the first who may begin leads, and serves all who have come meanwhile.

Nobody waits for company. While one transaction commits, deliveries gather behind it, and become the next one: the more
come, the more share the price of a commit.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

#: Held locks grow with it, and what is saved hardly does any more.
TOGETHER_MAX = 64


@dataclass(slots=True, eq=False)
class _Place(Generic[T, R]):
    item: T
    #: Empty until it was served, and for good where that failed.
    results: Sequence[R] = ()
    error: Exception | None = None


class Gathering(Generic[T, R]):
    """Serves items together, or each alone where that failed. Safe to share between threads."""

    def __init__(self, together: Callable[[Sequence[T]], Sequence[R]], alone: Callable[[T, Exception], R]) -> None:
        self._together = together
        self._alone = alone
        self._waiting: deque[_Place[T, R]] = deque()
        self._leading = threading.Lock()

    def serve(self, item: T) -> R:
        """Return what serving this item gives, or raise what serving it alone raises.

        Whatever keeps some from being served together, each is then served in its own thread: one that is broken, or
        waits for a lock that somebody holds, costs the others nothing but a moment.
        """
        place = _Place[T, R](item)
        self._waiting.append(place)
        with self._leading:
            if not place.results and place.error is None:
                self._lead()
        return place.results[0] if place.error is None else self._alone(item, place.error)

    def _lead(self) -> None:
        places = [self._waiting.popleft() for _ in range(min(len(self._waiting), TOGETHER_MAX))]
        try:
            results = self._together([place.item for place in places])
        except Exception as error:  # noqa: BLE001 -- whatever it is, whoever it belongs to will meet it alone
            for place in places:
                place.error = error
        else:
            for place, result in zip(places, results, strict=True):
                place.results = (result,)
