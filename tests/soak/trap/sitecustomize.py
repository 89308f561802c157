# noqa: INP001 -- no package: Python looks for it in a folder of PYTHONPATH
"""Kill a worker between a commit and its answer: once for each time that the file of the trap is put there.

Python imports a module of this name at its start if it finds one, so the service itself knows nothing of it.
"""

import os
import signal
import threading
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

_TRAP = Path(os.environ["SOAK_TRAP"])
_said = threading.local()


@event.listens_for(Engine, "before_cursor_execute")
def _notice(*arguments: Any) -> None:  # noqa: ANN401 -- whatever SQLAlchemy says; the third is the statement
    if "INTO inbox" in arguments[2]:
        _said.something_is_stored = True


@event.listens_for(Session, "after_commit")
def _kill(_: object) -> None:
    if getattr(_said, "something_is_stored", False):
        _said.something_is_stored = False
        try:
            _TRAP.unlink()
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
