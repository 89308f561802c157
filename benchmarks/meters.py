"""Read what processes and the database have used, without asking the contestants themselves."""

import threading
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil
import psycopg
from sqlalchemy import make_url

#: Often enough to see how a process grows, seldom enough not to be seen itself.
_MEMORY_PERIOD_SECONDS = 0.5
#: From this version on, the log's flushes are counted with all other input and output.
_FLUSHES_MOVED = 180_000


def cpu_seconds(process_id: int) -> float:
    """Give the processor time of a process, of all that came from it, and of those of them that have ended."""
    return sum(_cpu_seconds(process) for process in _tree(process_id))


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        used = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0
    # The time of a process that has ended is in that of its parent.
    return float(used.user + used.system + used.children_user + used.children_system)


def _tree(process_id: int) -> list[psutil.Process]:
    root = psutil.Process(process_id)
    return [root, *root.children(recursive=True)]


class PeakMemory:
    """Watches how much memory a process and all that came from it have at most, shared pages counted once."""

    def __init__(self, process_id: int) -> None:
        self._process_id = process_id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.bytes = 0

    def _watch(self) -> None:
        while not self._stop.wait(_MEMORY_PERIOD_SECONDS):
            # The next look may have more luck.
            with suppress(psutil.Error):
                self.look()

    def look(self) -> int:
        """Give how many bytes it is now."""
        now = sum(_memory(process) for process in _tree(self._process_id))
        self.bytes = max(self.bytes, now)
        return now

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


def _memory(process: psutil.Process) -> int:
    try:
        used = process.memory_full_info()
    except psutil.AccessDenied:
        used = process.memory_info()
    # Only Linux divides what processes share by how many share it.
    return int(getattr(used, "pss", used.rss))


class WalMeter:
    """Reads how far the write-ahead log of a PostgreSQL server has come."""

    def __init__(self, url: str) -> None:
        libpq_url = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection = psycopg.connect(libpq_url, autocommit=True)

    def checkpoint(self) -> None:
        """Write everything out now, so that nothing of the past has to be written during a round."""
        # A role may lack the privilege; a server given by its URL is set up by its operator.
        with suppress(psycopg.errors.InsufficientPrivilege):
            self._connection.execute("CHECKPOINT")

    def written(self) -> int:
        """Give the bytes written since the server was made."""
        return self._number("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")

    def flushes(self) -> int:
        """Give how often it was flushed to disk, by connections that are closed: open ones tell it late."""
        if self._connection.info.server_version >= _FLUSHES_MOVED:
            return self._number("SELECT sum(fsyncs)::bigint FROM pg_stat_io WHERE object = 'wal'")
        return self._number("SELECT wal_sync FROM pg_stat_wal")

    def _number(self, query: str) -> int:
        row = self._connection.execute(query.encode()).fetchone()
        assert row is not None
        return int(row[0])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@dataclass(frozen=True)
class Reading:
    """What the meters said at one moment; None for what there is no meter of."""

    server_cpu: float | None
    database_cpu: float | None
    wal_bytes: int | None


@dataclass(frozen=True)
class Meters:
    """All that is read at the beginning and at the end of a round."""

    server_process_id: int | None = None
    database_process_id: int | None = None
    wal: WalMeter | None = None

    def read(self) -> Reading:
        """Read them all."""
        return Reading(
            server_cpu=None if self.server_process_id is None else cpu_seconds(self.server_process_id),
            database_cpu=None if self.database_process_id is None else cpu_seconds(self.database_process_id),
            wal_bytes=None if self.wal is None else self.wal.written(),
        )


def used_between(before: float | None, after: float | None, *, scale: float) -> float | None:
    """Give the difference of two readings, or None where there is no meter."""
    return None if before is None or after is None else (after - before) * scale
