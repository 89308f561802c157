"""Work through much beside a service that goes on working: in small pieces, each with a transaction of its own."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import click

from app.cli.groups import the_service
from app.database import DatabaseUnavailableError

T = TypeVar("T")

#: A restart of the database or a fail-over takes less. What earlier pieces did is committed.
_TROUBLE_SECONDS_MAX = 60
_PAUSE_S = 1


def do_piece(piece: Callable[[], T]) -> T:
    """Do one piece of long work, again while the database is in trouble, and leave room for others after it.

    Work of an hour must not be given up because of a moment. Raises `DatabaseUnavailableError` where the trouble lasts.
    """
    first_tried = time.monotonic()
    while True:
        try:
            with leaving_room():
                return piece()
        except DatabaseUnavailableError as error:
            if time.monotonic() - first_tried > _TROUBLE_SECONDS_MAX:
                raise
            click.echo(f"{error} Trying again.", err=True)
            time.sleep(_PAUSE_S)


@contextmanager
def leaving_room() -> Iterator[None]:
    """Do one piece, then rest for as long as it took, where the database has one lock for all who write.

    SQLite gives it to whoever happens to ask while it is free. A command that asked again at once would have it nearly
    always, and deliveries would wait in vain.
    """
    started = time.monotonic()
    yield
    if the_service().settings.uses_sqlite:
        time.sleep(time.monotonic() - started)
