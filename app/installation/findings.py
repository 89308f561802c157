"""A finding: one thing that was looked at, how it is, and the remedy where it is not as it should be."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a thing is."""

    OK = "ok"
    #: The service works, and somebody should look at this.
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """How one part is."""

    part: str
    status: Status
    #: What was found, in a sentence; the reason where something is wrong.
    said: str = ""
    #: What to do, where the reason does not say it.
    remedy: str = ""


def ok(part: str, said: str = "") -> Finding:
    """Say that a part is as it should be."""
    return Finding(part, Status.OK, said)


def warning(part: str, said: str, remedy: str = "") -> Finding:
    """Say what somebody should look at."""
    return Finding(part, Status.WARNING, said, remedy)


def failed(part: str, said: str, remedy: str = "") -> Finding:
    """Say what keeps the service from working, or will."""
    return Finding(part, Status.FAILED, said, remedy)
