"""The log: a line for each event, with a time, a fixed message, and its fields as `name=value`.

A thread of its own writes the lines from a bounded queue. A full disk or a pipe that nobody reads costs lines, which
are counted, and never delays a response.
"""

import atexit
import json
import logging
import os
import re
import select
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from typing_extensions import override

#: The attributes of every record. All others were given with `extra`, and are fields.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
#: The loggers of the server that runs under `flask serve`.
SERVERS = ("_granian", "granian.access")

_PLAIN = re.compile(r"[A-Za-z0-9_.:/-]+")
#: The line that failed is among the innermost.
_FRAMES_MAX = 12

#: The bound of the queue: some 20,000 lines, or what a busy worker logs in five seconds.
PENDING_BYTES_MAX = 4 * 1024 * 1024
#: A write of this size to a pipe is atomic: never mixed with the lines of another worker (POSIX).
_PIECE_BYTES = select.PIPE_BUF
#: Lines that come within this time share a write, which wakes the thread 50 times a second at most.
_PAUSE_SECONDS = 0.02
#: The pause before a failed write is retried, on a full disk for example.
_RETRY_SECONDS = 0.5
#: How long the end of the process waits for the last lines.
_FLUSH_SECONDS_MAX = 1


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
    """Describe an error for a log by its class and its trace; its message may quote a token.

    An error that names its cause, as that of an unavailable database does, is described with it.
    """
    frames = traceback.extract_tb(error.__traceback__)
    path = " > ".join(f"{Path(frame.filename).stem}:{frame.lineno} {frame.name}" for frame in frames[-_FRAMES_MAX:])
    return {"error": type(error).__name__, "cause": getattr(error, "cause", ""), "trace": path}


def ignore_dropped_lines(_count: int) -> None:
    """Count dropped lines nowhere but in the log itself."""


class BackgroundHandler(logging.Handler):
    """Write lines in a thread of its own, in their order. To log a line never waits.

    The standard library's QueueListener writes record by record, and waits without a bound when it is stopped.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.setFormatter(FieldFormatter())
        #: Called with the number of lines just dropped, on the thread that logged them.
        self.on_dropped: Callable[[int], None] = ignore_dropped_lines
        self._descriptor = descriptor
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        """Start empty, as a forked process must: it does not have the thread, and the lines are its parent's."""
        self._guard = threading.RLock()
        self._lines: deque[bytes] = deque()
        self._pending_bytes = 0
        #: Dropped lines that the log does not mention yet.
        self._dropped = 0
        self._has_lines = threading.Event()
        self._is_written = threading.Event()
        self._is_written.set()
        self._thread: threading.Thread | None = None

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or drop it where the queue is full."""
        try:
            line = self._line(record)
        except Exception:  # noqa: BLE001 -- a record that cannot be formatted: nothing that logs may prevent an answer
            line = b""
        with self._guard:
            if self._dropped and self._pending_bytes < PENDING_BYTES_MAX // 2:
                # Lines are written again: say where some are missing.
                self._append(self._notice())
            is_taken = line and self._pending_bytes + len(line) <= PENDING_BYTES_MAX
            if is_taken:
                self._append(line)
            else:
                self._dropped += 1
            self._is_written.clear()
            self._start()
        if not self._has_lines.is_set():
            self._has_lines.set()
        if not is_taken:
            self.on_dropped(1)

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._pending_bytes += len(line)

    def _notice(self) -> bytes:
        count, self._dropped = self._dropped, 0
        return self._line(logging.makeLogRecord({"levelname": "WARNING", "msg": "log lines dropped", "count": count}))

    def _line(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode("utf-8", "backslashreplace")

    @override
    def flush(self) -> None:
        """Wait until all is written, but not for long."""
        self._is_written.wait(_FLUSH_SECONDS_MAX)

    def _start(self) -> None:
        if self._thread is not None:
            return
        # Where no thread can be started now, the next line tries again.
        with suppress(RuntimeError):
            thread = threading.Thread(target=self._write_for_ever, name="log", daemon=True)
            thread.start()
            self._thread = thread

    def _write_for_ever(self) -> None:
        while True:
            self._has_lines.wait()
            self._has_lines.clear()
            while piece := self._next_piece():
                self._write(piece)
            time.sleep(_PAUSE_SECONDS)

    def _next_piece(self) -> bytes:
        """Take whole lines, as many as one atomic write holds; nothing means that all are written."""
        with self._guard:
            piece = bytearray()
            while self._lines and (not piece or len(piece) + len(self._lines[0]) <= _PIECE_BYTES):
                piece += self._lines.popleft()
            self._pending_bytes -= len(piece)
            if piece:
                return bytes(piece)
            if self._dropped:
                return self._notice()
            self._is_written.set()
            return b""

    def _write(self, piece: bytes) -> None:
        """Write all of it, however long that takes: until then new lines are queued, or dropped."""
        while piece:
            try:
                piece = piece[os.write(self._descriptor, piece) :]
            except BlockingIOError:
                # Another process that shares the pipe has made it non-blocking.
                select.select([], [self._descriptor], [], _RETRY_SECONDS)
            except OSError:
                time.sleep(_RETRY_SECONDS)


def configure(on_dropped: Callable[[int], None] | None = None) -> None:
    """Log to standard error, for a supervisor to collect: the service's own messages, and the warnings of libraries.

    `on_dropped` is told of lines that were not written. Nothing else happens the second time.
    """
    logger = logging.getLogger("app")
    if not logger.handlers:
        handler = _handler()
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        # The warnings of libraries whose loggers have no handler.
        logging.lastResort = handler
    for handler in logger.handlers:
        if isinstance(handler, BackgroundHandler) and on_dropped is not None:
            handler.on_dropped = on_dropped


def _handler() -> logging.Handler:
    try:
        # A descriptor of our own: if standard error is closed, its number may become another file's.
        handler = BackgroundHandler(os.dup(sys.stderr.fileno()))
    except (AttributeError, OSError, ValueError):
        # Standard error is closed, or no file, as in a test.
        stream: logging.Handler = logging.NullHandler() if sys.stderr is None else logging.StreamHandler(sys.stderr)
        stream.setFormatter(FieldFormatter())
        return stream
    atexit.register(handler.flush)
    return handler


def include_everything(*loggers: str) -> None:
    """Log, in a process that serves, what would otherwise go to standard error at once.

    That is: the messages of these loggers, Python's warnings, and the error that ends a thread.
    """
    (handler,) = logging.getLogger("app").handlers[:1]
    for name in loggers:
        logging.getLogger(name).handlers = [handler]
    logging.captureWarnings(capture=True)
    threading.excepthook = _log_ended_thread


def _log_ended_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None:
        name = "" if ended.thread is None else ended.thread.name
        logging.getLogger(__name__).error("thread ended", extra={"thread_name": name, **failure(ended.exc_value)})
