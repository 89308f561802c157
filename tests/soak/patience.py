"""The auditor's transactions, tried again while the machine is too busy: what is on record is not judged by time."""

import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.orm import Session

from app.database import DatabaseUnavailableError
from app.wiring import Service

_SECONDS_MAX = 120
_PAUSE_SECONDS = 0.5

T = TypeVar("T")


def run_patiently(service: Service, work: Callable[[Session], T], *, read_only: bool = True) -> T:
    """Do one transaction, again while the database has no time for it. Raises `DatabaseUnavailableError` at last."""
    deadline = time.monotonic() + _SECONDS_MAX
    while True:
        try:
            return service.database.run(work, read_only=read_only)
        except DatabaseUnavailableError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_SECONDS)
