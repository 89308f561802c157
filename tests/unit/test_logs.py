"""One line for each thing that happened, and no value can forge another."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.logs import PENDING_BYTES_MAX, BackgroundHandler, FieldFormatter, failure


def logged(message: str, **fields: object) -> str:
    record = logging.makeLogRecord({"msg": message, "levelname": "INFO"} | fields)
    return FieldFormatter().format(record) + "\n"


def test_a_line_has_a_time_in_utc_a_level_a_message_and_its_fields() -> None:
    time, level, rest = logged("delivery stored", entry=7, outcome="applied", duplicate=False).split(" ", 2)
    assert time.endswith("Z")
    assert level == "INFO"
    assert rest == "delivery stored entry=7 outcome=applied duplicate=false\n"


def test_an_empty_field_is_left_out() -> None:
    assert logged("delivery stored", reason=None).endswith("delivery stored\n")


@pytest.mark.parametrize("value", ["a b", "a\nb", 'a"b', "a=b", "用户", "\ud800", "\x1b[31m", "\u2028"])
def test_a_value_stays_within_its_quotes_on_its_line(value: str) -> None:
    line = logged("m", field=value)
    assert line.isascii()
    assert line.count("\n") == 1
    assert '="' in line


def test_a_failure_is_logged_without_its_message() -> None:
    with pytest.raises(ValueError, match="token-1") as caught:
        int("token-1")
    described = failure(caught.value)
    assert described["error"] == "ValueError"
    assert "test_logs" in described["trace"]
    assert "token-1" not in str(described)


# --- the thread that writes ---


class Unread:
    """A log that is written to a pipe, and how many lines were dropped."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.handler = BackgroundHandler(self.writer)
        self.dropped = 0
        self.handler.on_dropped = self._count

    def _count(self, lines: int) -> None:
        self.dropped += lines

    def log(self, message: str, **fields: object) -> None:
        self.handler.handle(logging.makeLogRecord({"msg": message, "levelname": "INFO"} | fields))

    def read_until(self, words: bytes) -> bytes:
        text = b""
        while words not in text:
            text += os.read(self.reader, 1 << 20)
        return text


@pytest.fixture
def unread() -> Iterator[Unread]:
    log = Unread()
    yield log
    # The writer's end stays open: a thread may be writing to it for as long as the process lives.
    os.close(log.reader)


def test_lines_are_written_in_their_order(unread: Unread) -> None:
    for number in range(1000):
        unread.log("m", number=number)
    lines = unread.read_until(b"number=999\n").splitlines()
    assert [line.split(b"number=")[1] for line in lines] == [b"%d" % number for number in range(1000)]


def test_a_log_that_is_not_read_delays_nothing_and_dropped_lines_are_counted(unread: Unread) -> None:
    line = "x" * 1000
    logged = 0
    while not unread.dropped:
        unread.log(line)
        logged += 1
    unread.log(line)
    assert unread.dropped == 2
    assert 0.5 < logged * len(line) / PENDING_BYTES_MAX < 2
    told = unread.read_until(b"count=2\n")
    assert told.count(line.encode()) == logged - 1
    assert b" WARNING log lines dropped count=2\n" in told


def test_the_end_of_a_process_does_not_wait_long_for_a_log_that_is_not_read(unread: Unread) -> None:
    for _ in range(1000):
        unread.log("x" * 1000)
    started = time.monotonic()
    unread.handler.flush()
    assert time.monotonic() - started < 10
    unread.log("the end")
    unread.read_until(b"the end\n")
    unread.handler.flush()


def test_a_line_that_a_full_disk_refuses_is_written_again(tmp_path: Path) -> None:
    """`/dev/full` refuses every byte; then the descriptor leads to a file."""
    full = os.open("/dev/full", os.O_WRONLY)
    handler = BackgroundHandler(full)
    handler.handle(logging.makeLogRecord({"msg": "first", "levelname": "INFO"}))
    time.sleep(0.1)
    with (tmp_path / "log").open("wb") as file:
        os.dup2(file.fileno(), full)
        handler.handle(logging.makeLogRecord({"msg": "second", "levelname": "INFO"}))
        for _ in range(10):
            handler.flush()
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(" ")[-1] for line in lines] == ["first", "second"]


def test_a_line_that_cannot_be_formatted_is_dropped(unread: Unread) -> None:
    unread.log("%d", args=("no number",))
    unread.log("m")
    assert unread.dropped == 1
    assert b"log lines dropped count=1\n" in unread.read_until(b"m\n")


def test_a_forked_process_writes_its_own_lines_only(unread: Unread) -> None:
    unread.log("of the parent")
    unread.handler.flush()
    child = os.fork()
    if child == 0:
        unread.log("of the child")
        unread.handler.flush()
        os._exit(0)
    os.waitpid(child, 0)
    assert [line.split(b" ", 2)[2] for line in unread.read_until(b"child\n").splitlines()] == [
        b"of the parent",
        b"of the child",
    ]
