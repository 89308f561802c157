"""Work through much beside a service that goes on working."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from app.cli.groups import the_service


@contextmanager
def leaving_room() -> Iterator[None]:
    """Do one batch, then rest for as long as it took, where the database has one lock for all who write.

    SQLite gives it to whoever happens to ask while it is free. A command that asked again at once would have it nearly
    always, and deliveries would wait in vain.
    """
    started = time.monotonic()
    yield
    if the_service().settings.uses_sqlite:
        time.sleep(time.monotonic() - started)
