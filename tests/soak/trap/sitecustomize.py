# noqa: INP001 -- no package: Python looks for it in a folder of PYTHONPATH
"""Kill a worker between a commit and its answer: once for each time that the file of the trap is put there.

Python imports a module of this name at its start if it finds one, so the service itself knows nothing of it.
"""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Engine, Pool, event

_TRAP = Path(os.environ["SOAK_TRAP"])
_said = threading.local()
_execute = psycopg.Cursor.execute


@event.listens_for(Engine, "before_cursor_execute")
def _notice(*arguments: Any) -> None:  # noqa: ANN401 -- whatever SQLAlchemy says; the third is the statement
    if "INTO inbox" in arguments[2]:
        _said.something_is_stored = True


def _notice_in_message(cursor: Any, statement: Any, *rest: Any, **options: Any) -> Any:  # noqa: ANN401 -- the driver's own
    # Of what goes to PostgreSQL in one message, SQLAlchemy says the last alone.
    if "INTO inbox" in str(statement):
        _said.something_is_stored = True
    return _execute(cursor, statement, *rest, **options)


psycopg.Cursor.execute = _notice_in_message  # type: ignore[method-assign, assignment] # any arguments


@event.listens_for(Engine, "commit")
def _commits(_: object) -> None:
    _said.commits = True


@event.listens_for(Engine, "rollback")
def _gives_up(_: object) -> None:
    _said.something_is_stored = _said.commits = False


@event.listens_for(Pool, "checkin")
def _kill(*_: object) -> None:
    is_committed = getattr(_said, "something_is_stored", False) and getattr(_said, "commits", False)
    _said.something_is_stored = _said.commits = False
    if not is_committed:
        return
    try:
        _TRAP.unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
