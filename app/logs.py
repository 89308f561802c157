"""Write one line for each thing that happened: a time, a fixed message, and its fields as `name=value`."""

import json
import logging
import re
import sys
import time
import traceback
from pathlib import Path
from typing import IO

from typing_extensions import override

#: What every record has; whatever else is on one was given with `extra`, and is a field.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_PLAIN = re.compile(r"[A-Za-z0-9_.:/-]+")
#: The place where it broke is among the innermost.
_FRAMES_MAX = 12


class FieldFormatter(logging.Formatter):
    """Format a record so that a person can read it and a program can split it, and no value can forge a line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:
        """Add the fields behind the message."""
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        written = "".join(f" {name}={_written(value)}" for name, value in fields.items() if value not in {None, ""})
        return super().formatMessage(record) + written


def _written(value: object) -> str:
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    # Quotes are for what needs them; JSON escapes whatever could end the line or start another field.
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def failure(error: BaseException) -> dict[str, str]:
    """Describe an error for a log by its class and the lines it came through; its own words may quote a token.

    An error that names its cause, as that of an unavailable database does, is described with it.
    """
    frames = traceback.extract_tb(error.__traceback__)
    path = " > ".join(f"{Path(frame.filename).stem}:{frame.lineno} {frame.name}" for frame in frames[-_FRAMES_MAX:])
    return {"error": type(error).__name__, "cause": getattr(error, "cause", ""), "trace": path}


def configure(stream: IO[str] | None = None) -> None:
    """Log the service's own messages to standard error, for a supervisor to collect. Does nothing the second time."""
    logger = logging.getLogger("app")
    if logger.handlers:
        return
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(FieldFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
