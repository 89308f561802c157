"""A crew's threads: a few at a time, none without work, and no work without a thread."""

import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from app.group_commit.workers import Crew
from tests.conftest import ROOT

#: Those who wait when the interpreter ends have still to be told, though no pool takes work any more.
ENDING = """
import threading, time
from app.group_commit.batches import Gathering

entered = threading.Event()

def serve(numbers):
    entered.set()
    time.sleep(0.3)
    return numbers

gathering = Gathering(serve, int, key=str, is_unavailable=bool)
threading.Thread(target=gathering.serve, args=(0,)).start()
entered.wait()
for number in (1, 2, 3):
    gathering.serve_later(number).add_done_callback(lambda served: print(served.result()))
"""


class Panic(BaseException):
    """What a library written in another language raises when it breaks."""


def wait_for(crew_name: str, *, threads: int) -> None:
    deadline = time.monotonic() + 10
    while sum(thread.name == crew_name for thread in threading.enumerate()) != threads:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_no_more_than_a_bounded_number_work_at_once_and_none_stays() -> None:
    crew, http, done = Crew("bounded", threads_max=2), threading.Event(), list[int]()

    def work(number: int) -> None:
        http.wait(timeout=10)
        done.append(number)

    for number in range(10):
        crew.do(partial(work, number))
    wait_for("bounded", threads=2)
    http.set()
    wait_for("bounded", threads=0)
    assert sorted(done) == list(range(10))


@pytest.mark.parametrize("error", [ValueError("broken"), Panic()])
def test_work_that_breaks_keeps_no_other_from_being_done(error: BaseException) -> None:
    crew, done = Crew("broken", threads_max=1), threading.Event()

    def fail() -> None:
        raise error

    crew.do(fail)
    crew.do(done.set)
    assert done.wait(timeout=10)
    wait_for("broken", threads=0)


def test_whoever_waits_when_the_interpreter_ends_is_still_served() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDING], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    assert (ended.stdout.split(), ended.stderr) == (["1", "2", "3"], "")
