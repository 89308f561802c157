"""Counting never fails, whatever happens to the folder that several processes share their counts in."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.counters import Counts, Memory, SharedCounts, folder_of_its_own

SERIES = ("deliveries", "200")


class Process:
    """What one of several processes counts with."""

    def __init__(self, folder: Path) -> None:
        self.memory = Memory()
        self.shared = SharedCounts(self.memory, folder)

    def end(self) -> None:
        """Die: the locks of a process go with it, and what it has written stays."""
        self.shared.forget_slot()

    @property
    def total(self) -> Counts:
        return self.shared.total()[0]


def test_processes_count_together(tmp_path: Path) -> None:
    processes = [Process(tmp_path / "counters") for _ in range(3)]
    for process in processes:
        process.memory.add(SERIES, 2)
        process.shared.write()
    assert [process.total for process in processes] == [{SERIES: 6}] * 3


def test_the_latest_of_several_times_is_kept(tmp_path: Path) -> None:
    first, second = Process(tmp_path), Process(tmp_path)
    for process, at in ((first, 7.0), (second, 9.0), (second, 8.0)):
        process.memory.note(SERIES, at)
        process.shared.write()
    assert first.shared.total()[1] == {SERIES: 9.0}


def test_counts_of_a_process_that_ended_stay_and_its_file_is_used_again(tmp_path: Path) -> None:
    for lives in range(1, 6):
        process = Process(tmp_path)
        process.memory.add(SERIES)
        assert process.total == {SERIES: lives}
        process.end()
    assert [path.name for path in tmp_path.glob("*.json")] == ["0.json"]


def test_a_folder_that_vanished_is_made_anew_with_all_that_was_counted(tmp_path: Path) -> None:
    processes = [Process(tmp_path / "counters") for _ in range(2)]
    for process in processes:
        process.memory.add(SERIES)
        process.shared.write()
    shutil.rmtree(tmp_path / "counters")
    for process in processes:
        process.memory.add(SERIES)
        process.shared.write()
    assert [process.total for process in processes] == [{SERIES: 4}] * 2


def test_a_file_that_vanished_is_written_again(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.memory.add(SERIES)
    process.shared.write()
    for path in tmp_path.iterdir():
        path.unlink()
    assert process.total == {SERIES: 1}


def test_a_process_that_cannot_write_shows_its_own_counts(tmp_path: Path) -> None:
    (tmp_path / "counters").write_text("a file where the folder should be")
    process = Process(tmp_path / "counters")
    process.memory.add(SERIES)
    assert not process.shared.write()
    assert process.total == {SERIES: 1}
    (tmp_path / "counters").unlink()
    assert process.shared.write()


def test_only_its_owner_reads_what_is_counted_whatever_the_umask(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        process = Process(tmp_path)
        process.memory.add(SERIES)
        process.shared.write()
        with folder_of_its_own([tmp_path / "place"]) as folder:
            assert folder is not None
            written = [*tmp_path.glob("*.*"), *folder.iterdir()]
            assert sorted(path.name for path in written) == ["0.json", "0.lock", "0.lock"]
            assert {path.stat().st_mode & 0o777 for path in written} == {0o600}
    finally:
        os.umask(umask)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"sums": [[]], "latest": []}', b'{"sums": [[["x"], 1]]}'])
def test_a_file_of_another_form_counts_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "0.json").write_bytes(content)
    process = Process(tmp_path)
    process.memory.add(SERIES)
    (tmp_path / "9.json").write_bytes(content)
    assert process.total == {SERIES: 1}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few pages."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", place],  # noqa: S607 -- wherever it is
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)  # noqa: S607 -- as above


def test_a_full_disk_stops_no_count(small_disk: Path) -> None:
    process, other = Process(small_disk), Process(small_disk)
    process.memory.add(SERIES)
    assert process.shared.write()
    with pytest.raises(OSError, match="space"):
        (small_disk / "rest").write_bytes(b"x" * 65536)
    process.memory.add(SERIES)
    assert process.shared.write()
    assert process.total == {SERIES: 2}
    # It had no file yet.
    other.memory.add(SERIES)
    assert not other.shared.write()
    assert other.total == {SERIES: 3}
    for each in (process, other):
        each.end()


def test_a_folder_is_made_in_the_first_place_that_takes_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with folder_of_its_own([tmp_path / "file" / "a", tmp_path / "b", tmp_path / "c"]) as folder:
        assert folder is not None
        assert folder.parent == tmp_path / "b"
    assert list((tmp_path / "b").iterdir()) == []
    with folder_of_its_own([tmp_path / "file" / "a"]) as none:
        assert none is None


def test_a_place_that_is_a_symbolic_link_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "counters").symlink_to(tmp_path / "elsewhere")
    with folder_of_its_own([tmp_path / "counters"]) as folder:
        assert folder is None


def test_the_folder_of_a_killed_service_is_removed_once_none_of_its_processes_lives(tmp_path: Path) -> None:
    left = tmp_path / "left"
    orphan = Process(left)
    orphan.shared.write()
    with folder_of_its_own([tmp_path]):
        assert left.exists()
    orphan.end()
    with folder_of_its_own([tmp_path]) as first, folder_of_its_own([tmp_path]) as second:
        assert first is not None
        assert second is not None
        assert sorted(tmp_path.iterdir()) == sorted([first, second])


def test_a_forked_process_counts_from_0_in_a_file_of_its_own(tmp_path: Path) -> None:
    parent = Process(tmp_path)
    parent.memory.add(SERIES)
    parent.shared.write()
    child = os.fork()
    if child == 0:
        parent.memory.reset()
        parent.shared.forget_slot()
        parent.memory.add(SERIES)
        parent.shared.write()
        os._exit(0)
    os.waitpid(child, 0)
    assert parent.total == {SERIES: 2}


#: Waits until the thread that writes every second has written, counts one more, and ends.
_COUNT_LAST = """
import pathlib, time
from app import metrics
metrics.share()
while not pathlib.Path({folder!r}, "0.json").exists():
    time.sleep(0.001)
metrics.DELIVERIES.inc("200")
"""


def test_a_process_that_ends_in_order_writes_what_it_counted_last(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", _COUNT_LAST.format(folder=str(tmp_path))],
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )
    assert Process(tmp_path).total == {("notifyauth_deliveries", "200"): 1}
