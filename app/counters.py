"""Count in memory, and share the counts of several processes through a folder that may fail without harm.

Counting touches no file, so that a full disk or a missing folder never decides, delays or prevents a response. Every
second a thread of each process writes what that process has counted into a file of its own, and /metrics adds up all
files. A process locks a free slot, which is a numbered file, for as long as it lives, and goes on counting where the
last holder of that slot ended: there are never more files than processes that lived at one time.
"""

import fcntl
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_log = logging.getLogger(__name__)

#: Scrapers ask every ten seconds or less often. A killed process loses what it has counted since the last write.
_WRITE_INTERVAL_SECONDS = 1
#: Far more processes than serve together.
_SLOTS_MAX = 1024
#: A file is padded to a multiple of this, so that counts of the next hours fit even on a full disk.
_FILLED_TO_BYTES = 8192
#: A disk that hangs delays the figures of the others by this much, once a scrape.
_WAIT_SECONDS_MAX = 1
#: Whatever the umask is, and also in a folder that is given (`PROMETHEUS_MULTIPROC_DIR`).
_PRIVATE, _PRIVATE_FILE = 0o700, 0o600

#: A series: the name of a sample, and the values of its labels.
Series = tuple[str, ...]
Counts = dict[Series, float]


@dataclass
class Memory:
    """The counts of one process, and the latest value of each series of times."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _sums: Counts = field(default_factory=dict)
    _latest: Counts = field(default_factory=dict)

    def add(self, series: Series, amount: float = 1) -> None:
        """Add to a sum."""
        with self._lock:
            self._sums[series] = self._sums.get(series, 0) + amount

    def note(self, series: Series, value: float) -> None:
        """Keep a value if it is larger than the one kept."""
        with self._lock:
            self._latest[series] = max(value, self._latest.get(series, 0))

    def snapshot(self) -> tuple[Counts, Counts]:
        """Copy the sums and the latest values."""
        with self._lock:
            return dict(self._sums), dict(self._latest)

    def merge(self, sums: Mapping[Series, float], latest: Mapping[Series, float]) -> None:
        """Add the counts of another process."""
        for series, amount in sums.items():
            self.add(series, amount)
        for series, value in latest.items():
            self.note(series, value)

    def reset(self) -> None:
        """Start from nothing, as a forked process must: a thread that it does not have may hold the lock."""
        self._lock = threading.Lock()
        self._sums = {}
        self._latest = {}


class SharedCounts:
    """The counts of this process in a folder, beside those of the others that serve with it."""

    def __init__(self, memory: Memory, folder: Path) -> None:
        self.folder = folder
        self._memory = memory
        self._guard = threading.Lock()
        #: The slot and the open file that locks it; `None` until one is taken.
        self._slot: int | None = None
        self._descriptor: int | None = None
        self._written: bytes = b""
        self._has_failed = False

    def write_for_ever(self) -> None:
        """Write every second, in a thread of its own."""
        pause = threading.Event()
        while True:
            self.write()
            pause.wait(_WRITE_INTERVAL_SECONDS)

    def write(self) -> bool:
        """Write the counts, and say whether that succeeded. The first failure in a row is logged."""
        if not self._guard.acquire(timeout=_WAIT_SECONDS_MAX):
            return False
        try:
            self._write()
        except (OSError, ValueError) as error:
            if not self._has_failed:
                fields = {"folder": self.folder, "error": type(error).__name__}
                _log.warning("counts are not shared between workers", extra=fields)
            self._has_failed = True
        else:
            if self._has_failed:
                _log.info("counts are shared again", extra={"folder": self.folder})
            self._has_failed = False
        finally:
            self._guard.release()
        return not self._has_failed

    def total(self) -> tuple[Counts, Counts]:
        """Add up the counts of all processes; where this one cannot write, its own and the files of the others."""
        total, own = Memory(), None
        if not self.write():
            own = f"{self._slot}.json"
            total.merge(*self._memory.snapshot())
        for path in self._written_files():
            if path.name != own:
                total.merge(*_read(path))
        return total.snapshot()

    def _written_files(self) -> list[Path]:
        # A folder that may not be looked into, or whose path is a file, has none.
        with suppress(OSError):
            return list(self.folder.glob("*.json"))
        return []

    def forget_slot(self) -> None:
        """Leave the slot to the process that this one was forked from."""
        self._guard = threading.Lock()
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._slot = self._descriptor = None
        self._written = b""

    def _write(self) -> None:
        self._require_slot()
        path = self.folder / f"{self._slot}.json"
        sums, latest = ([[*series, value] for series, value in counts.items()] for counts in self._memory.snapshot())
        document = json.dumps({"sums": sums, "latest": latest}).encode()
        if document == self._written and path.exists():
            return
        filled = document.ljust(-(-len(document) // _FILLED_TO_BYTES) * _FILLED_TO_BYTES)
        # A reader sees the old file or the new one. No fsync: a power cut ends the counting process too.
        fresh = self.folder / f"{self._slot}.fresh"
        try:
            with open(fresh, "wb", opener=_open_private) as file:
                file.write(filled)
            fresh.replace(path)
        except OSError:
            with suppress(OSError):
                fresh.unlink()
            # A full disk still has the space that the old file takes.
            with path.open("r+b") as file:
                file.write(filled)
        self._written = document

    def _require_slot(self) -> None:
        """Take a slot, again if its lock file was removed: another process could make and lock a file of that name."""
        if self._descriptor is not None:
            if os.fstat(self._descriptor).st_nlink:
                return
            os.close(self._descriptor)
            self._descriptor = self._slot = None
        self.folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        for slot in range(_SLOTS_MAX):
            descriptor = os.open(self.folder / f"{slot}.lock", os.O_RDWR | os.O_CREAT, _PRIVATE_FILE)
            if _lock(descriptor):
                self._slot, self._descriptor = slot, descriptor
                self._memory.merge(*_read(self.folder / f"{slot}.json"))
                return
            os.close(descriptor)
        message = "every slot is taken"
        raise ValueError(message)


def _open_private(path: str | Path, flags: int) -> int:
    return os.open(path, flags, _PRIVATE_FILE)


def _read(path: Path) -> tuple[Counts, Counts]:
    """Read the counts of one process. A file that is missing or not of this form counts nothing."""
    try:
        document = json.loads(path.read_bytes())
        sums, latest = ({tuple(each[:-1]): float(each[-1]) for each in document[part]} for part in ("sums", "latest"))
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return {}, {}
    return sums, latest


def _lock(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed; say whether it was free."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def folder_of_its_own(parents: Iterable[Path]) -> Iterator[Path | None]:
    """Make a folder in the first of these parents that allows it, and remove it at the end.

    The folders of killed services in that parent are removed. A living one holds a lock, so several may share a parent.
    """
    made = next(filter(None, map(_made_in, parents)), None)
    if made is None:
        yield None
        return
    folder, descriptor = made
    try:
        yield folder
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def _made_in(parent: Path) -> tuple[Path, int] | None:
    try:
        parent.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        parent_descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(parent_descriptor).st_uid != os.geteuid():
                # Any user may have made it in a folder for temporary files.
                return None
            # One at a time: a folder is locked before another service can take it for one that was left behind.
            fcntl.flock(parent_descriptor, fcntl.LOCK_EX)
            for left in parent.iterdir():
                with suppress(OSError):
                    _remove_if_left(left)
            folder = Path(tempfile.mkdtemp(dir=parent))
            descriptor = os.open(folder, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # A file too, so that a full disk is noticed now.
            os.close(_open_private(folder / "0.lock", os.O_WRONLY | os.O_CREAT))
        finally:
            os.close(parent_descriptor)
    except OSError:
        return None
    return folder, descriptor


def _remove_if_left(folder: Path) -> None:
    """Remove the folder of a service none of whose processes lives: not the one that made it, nor one that counts."""
    descriptors: list[int] = []
    try:
        for path in (folder, *folder.glob("*.lock")):
            descriptors.append(os.open(path, os.O_RDONLY))
            if not _lock(descriptors[-1]):
                return
        shutil.rmtree(folder)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
