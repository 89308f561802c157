"""Which events somebody wants to be told of: types by their names, or `authorization.*` for all that begin so."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from app.events.staging import EventType

#: A star is all that a pattern has beside the letters of a type.
_PATTERN = re.compile(r"[a-z_.*]+")


class UnknownTypeError(Exception):
    """No event has this type. The message names those that there are, and not what was asked for."""

    def __init__(self) -> None:
        super().__init__(f"An event's type is one of {', '.join(EventType)}; authorization.* stands for all of them.")


def types_of(wanted: Iterable[str]) -> frozenset[EventType]:
    """Name the types that these patterns stand for. Raises `UnknownTypeError` for a pattern that stands for none."""
    found: set[EventType] = set()
    for pattern in wanted:
        matching = {each for each in EventType if fnmatchcase(each, pattern)} if _PATTERN.fullmatch(pattern) else set()
        if not matching:
            raise UnknownTypeError
        found |= matching
    return frozenset(found)
