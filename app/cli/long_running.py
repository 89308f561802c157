"""Long-running commands: each batch is retried, leaves room for deliveries, and moves a progress bar."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import click

from app.cli.current_service import the_service
from app.database import DatabaseUnavailableError

T = TypeVar("T")

#: A restart of the database or a fail-over takes less. What earlier batches did is committed.
_RETRY_SECONDS_MAX = 60
_PAUSE_S = 1


def run_step(step: Callable[[], T]) -> T:
    """Run one transaction of a long command, and retry it for up to a minute while the database is unavailable.

    Work of an hour must not be given up because of a moment. Raises `DatabaseUnavailableError` after that minute.
    """
    first_tried = time.monotonic()
    while True:
        try:
            with sharing_the_write_lock():
                return step()
        except DatabaseUnavailableError as error:
            if time.monotonic() - first_tried > _RETRY_SECONDS_MAX:
                raise
            click.echo(f"{error} Trying again.", err=True)
            time.sleep(_PAUSE_S)


@contextmanager
def sharing_the_write_lock() -> Iterator[None]:
    """On SQLite, sleep after a transaction for as long as it took.

    SQLite has one write lock and no queue for it. A command that took it again at once would hold it nearly always, and
    deliveries would time out.
    """
    started = time.monotonic()
    yield
    if the_service().settings.uses_sqlite:
        time.sleep(time.monotonic() - started)


@contextmanager
def progress_bar(label: str, length: int | None) -> Iterator["click._termui_impl.ProgressBar[int]"]:
    """Draw a progress bar on stderr, where that is a terminal. The length may be an estimate, or unknown."""
    # Without a length click wants something to iterate over that has none, and shows how much is done, not a share.
    iterable = (each for each in range(0)) if length is None else None
    hidden = not sys.stderr.isatty()
    with click.progressbar(iterable, length=length, label=label, file=sys.stderr, hidden=hidden) as progress:
        yield progress
        # The length may have been too high an estimate: the work is done all the same.
        progress.update(max(0, (length or 0) - progress.pos))
