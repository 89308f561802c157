# noqa: INP001 -- no package: Python looks for it in a folder of PYTHONPATH
"""Kill a process between two of its steps: once for each time that the file of the trap is put there.

The file says `before` or `after`, and a piece of a statement: the process is killed when it sends that, or when it has
committed that. An empty file means a worker that has stored a notification and has not answered.

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
_BY_DEFAULT = "after INTO inbox"
#: What a trap may name. Nothing else costs a look at the file.
_PIECES = ("INTO inbox", "INTO events", "INTO webhook_attempts", "INTO call_attempts", "UPDATE call_attempts")
_said = threading.local()
_execute = psycopg.Cursor.execute


def _spring(when: str, piece: str) -> None:
    try:
        if (_TRAP.read_text() or _BY_DEFAULT) != f"{when} {piece}":
            return
        _TRAP.unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _notice(statement: str) -> None:
    for piece in _PIECES:
        if piece in statement:
            _said.piece = piece
            _spring("before", piece)


@event.listens_for(Engine, "before_cursor_execute")
def _notice_statement(*arguments: Any) -> None:  # noqa: ANN401 -- whatever SQLAlchemy says; the third is the statement
    _notice(arguments[2])


def _notice_in_message(cursor: Any, statement: Any, *rest: Any, **options: Any) -> Any:  # noqa: ANN401 -- the driver's own
    # Of what goes to PostgreSQL in one message, SQLAlchemy says the last alone.
    _notice(str(statement))
    return _execute(cursor, statement, *rest, **options)


psycopg.Cursor.execute = _notice_in_message  # type: ignore[method-assign, assignment] # any arguments


@event.listens_for(Engine, "commit")
def _commits(_: object) -> None:
    _said.commits = True


@event.listens_for(Engine, "rollback")
def _gives_up(_: object) -> None:
    _said.piece, _said.commits = None, False


@event.listens_for(Pool, "checkin")
def _look(*_: object) -> None:
    piece = getattr(_said, "piece", None) if getattr(_said, "commits", False) else None
    _said.piece, _said.commits = None, False
    if piece is not None:
        _spring("after", piece)
