"""Group commit: which calls run together, what one of them costs the others, and when a call is failed."""

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from app.group_commit import GroupCommit, NotRunError
from app.limits import ANSWER_SECONDS_MAX, BATCH_SIZE_MAX, SINGLES_AT_ONCE_MAX
from tests.conftest import ROOT
from tests.unit.committing import Panic, UnavailableError, a_group_commit, until

CROWD = BATCH_SIZE_MAX + 10

#: The interpreter ends while calls are queued: no executor takes work any more.
ENDING = """
import threading, time
from tests.unit.committing import a_group_commit

begun = threading.Event()

def run(numbers):
    begun.set()
    time.sleep(0.3)
    if 2 in numbers:
        raise ValueError
    return numbers

group_commit = a_group_commit(run, int)
group_commit.submit(0)
begun.wait()
for number in (1, 2, 3):
    group_commit.submit(number).add_done_callback(lambda future: print(future.result()))
"""


@dataclass
class Runs:
    """Runs numbers, but only once it is let go, and remembers which ran in one batch."""

    #: Raised by a batch in which there is a 0.
    error: BaseException | None = None
    is_circuit_open: bool = False
    batches: list[list[int]] = field(default_factory=list)
    singles: list[int] = field(default_factory=list)
    threads: list[str] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    time: float = 0
    #: The seconds that each run was given.
    seconds: list[float] = field(default_factory=list)

    def run_batch(self, numbers: Sequence[int]) -> list[str]:
        self.batches.append(list(numbers))
        self.threads.append(threading.current_thread().name)
        assert self.go.wait(timeout=10)
        if self.error is not None and 0 in numbers:
            raise self.error
        return [f"{number} in a batch" for number in numbers]

    def run_single(self, number: int) -> str:
        self.singles.append(number)
        self.threads.append(threading.current_thread().name)
        return f"{number} single"

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        self.seconds.append(seconds)
        yield

    def group_commit(self) -> GroupCommit[int, str]:
        return a_group_commit(
            self.run_batch,
            self.run_single,
            is_circuit_open=lambda: self.is_circuit_open,
            within=self.within,
            clock=lambda: self.time,
        )


@pytest.fixture
def runs() -> Iterator[Runs]:
    runs = Runs()
    yield runs
    runs.go.set()


def submit(
    runs: Runs, numbers: Sequence[int], *, group_commit: GroupCommit[int, str] | None = None
) -> list["Future[str]"]:
    """Submit the first, the others while that runs, and then let all of them go on."""
    group_commit = group_commit or runs.group_commit()
    first = group_commit.submit(numbers[0])
    until(lambda: bool(runs.batches))
    others = [group_commit.submit(number) for number in numbers[1:]]
    assert not any(each.done() for each in (first, *others))
    runs.go.set()
    return [first, *others]


def results(futures: Sequence["Future[str]"]) -> list[str]:
    return [each.result(timeout=10) for each in futures]


def test_a_call_does_not_wait_for_others(runs: Runs) -> None:
    runs.go.set()
    group_commit = runs.group_commit()
    assert [group_commit.submit(number).result(timeout=10) for number in (1, 2)] == ["1 in a batch", "2 in a batch"]
    assert runs.batches == [[1], [2]]


def test_calls_that_arrive_while_a_batch_runs_are_the_next_batch(runs: Runs) -> None:
    assert results(submit(runs, range(5))) == [f"{number} in a batch" for number in range(5)]
    assert runs.batches == [[0], [1, 2, 3, 4]]
    assert runs.singles == []


def test_a_call_cannot_be_canceled(runs: Runs) -> None:
    futures = submit(runs, range(3))
    assert not any(each.cancel() for each in futures)
    assert len(results(futures)) == 3


def test_the_caller_never_leads(runs: Runs) -> None:
    """It may be an event loop."""
    runs.error = ValueError("broken")
    results(submit(runs, [0, 1, 2]))
    assert threading.current_thread().name not in runs.threads
    assert {name.rpartition("_")[0] for name in runs.threads} == {"leader", "single"}


def test_calls_that_are_submitted_while_leaders_are_held_are_one_batch(runs: Runs) -> None:
    runs.go.set()
    group_commit = runs.group_commit()
    with group_commit.held():
        futures = [group_commit.submit(number) for number in range(5)]
        assert runs.batches == []
    assert results(futures) == [f"{number} in a batch" for number in range(5)]
    assert runs.batches == [list(range(5))]
    with group_commit.held():
        pass
    assert group_commit.submit(5).result(timeout=10) == "5 in a batch"


def test_leaders_cannot_be_held_while_one_runs(runs: Runs) -> None:
    group_commit = runs.group_commit()
    first = group_commit.submit(1)
    until(lambda: bool(runs.batches))
    with pytest.raises(RuntimeError), group_commit.held():
        pass
    runs.go.set()
    assert first.result(timeout=10) == "1 in a batch"


def test_futures_are_resolved_while_the_next_batch_runs() -> None:
    begun, first, second = threading.Semaphore(0), threading.Event(), threading.Event()

    def run_slowly(numbers: Sequence[int]) -> Sequence[int]:
        begun.release()
        assert (first if 0 in numbers else second).wait(timeout=10)
        return numbers

    group_commit = a_group_commit(run_slowly, int)
    leader = group_commit.submit(0)
    begun.acquire()
    others = [group_commit.submit(number) for number in (1, 2)]
    first.set()
    begun.acquire()
    assert leader.result(timeout=10) == 0
    assert not any(each.done() for each in others)
    second.set()
    assert [each.result(timeout=10) for each in others] == [1, 2]


def test_a_batch_has_a_bounded_size(runs: Runs) -> None:
    assert results(submit(runs, range(CROWD))) == [f"{number} in a batch" for number in range(CROWD)]
    assert [len(each) for each in runs.batches] == [1, BATCH_SIZE_MAX, CROWD - BATCH_SIZE_MAX - 1]


@pytest.mark.parametrize("error", [ValueError("broken"), Panic(), KeyboardInterrupt()])
def test_a_batch_that_breaks_runs_one_by_one(runs: Runs, error: BaseException) -> None:
    runs.error = error
    group_commit = runs.group_commit()
    futures = submit(runs, [7, 1, 0, 2, 3], group_commit=group_commit)
    assert results(futures) == ["7 in a batch", "1 single", "0 single", "2 single", "3 single"]
    assert sorted(runs.singles) == [0, 1, 2, 3]
    assert group_commit.submit(5).result(timeout=10) == "5 in a batch"


def test_a_batch_has_the_time_of_the_call_that_has_least(runs: Runs) -> None:
    runs.go.set()
    group_commit = runs.group_commit()
    with group_commit.held():
        futures = [group_commit.submit(1), group_commit.submit(2, seconds=2), group_commit.submit(3, seconds=100)]
    results(futures)
    assert runs.seconds == [2]


def test_a_call_by_itself_has_its_own_time(runs: Runs) -> None:
    runs.go.set()
    runs.error = ValueError("broken")
    group_commit = runs.group_commit()
    with group_commit.held():
        futures = [group_commit.submit(0), group_commit.submit(2, seconds=2)]
    results(futures)
    assert (runs.seconds[0], sorted(runs.seconds[1:])) == (2, [2, ANSWER_SECONDS_MAX])


def test_a_call_that_was_queued_too_long_is_failed(runs: Runs) -> None:
    group_commit = runs.group_commit()
    first = group_commit.submit(0)
    until(lambda: bool(runs.batches))
    late = group_commit.submit(1)
    runs.time += 5
    in_time = group_commit.submit(2)
    runs.go.set()
    with pytest.raises(NotRunError) as told:
        late.result(timeout=10)
    assert told.value.cause == "QueueTimeout"
    assert results([first, in_time]) == ["0 in a batch", "2 in a batch"]
    assert runs.batches == [[0], [2]]


@pytest.mark.parametrize("error", [ValueError("broken"), Panic()])
def test_a_callback_that_breaks_harms_no_other_call(runs: Runs, error: BaseException) -> None:
    def fail(_: object) -> None:
        raise error

    group_commit = runs.group_commit()
    with group_commit.held():
        futures = [group_commit.submit(number) for number in (1, 2, 3)]
        futures[0].add_done_callback(fail)
        runs.go.set()
    assert results(futures) == [f"{number} in a batch" for number in (1, 2, 3)]
    assert group_commit.submit(5).result(timeout=10) == "5 in a batch"


def test_a_callback_may_submit_another_call(runs: Runs) -> None:
    runs.go.set()
    again: list[Future[str]] = []
    group_commit = runs.group_commit()
    with group_commit.held():
        group_commit.submit(1).add_done_callback(lambda _: again.append(group_commit.submit(2)))
    until(lambda: bool(again))
    assert again[0].result(timeout=10) == "2 in a batch"


def test_a_batch_with_too_few_results_is_broken() -> None:
    group_commit = a_group_commit(
        lambda numbers: ["…"] * (len(numbers) - 1), lambda number: f"{number} single", key=str
    )
    assert results([group_commit.submit(number) for number in (1, 2)]) == ["1 single", "2 single"]


def test_so_many_run_by_themselves_at_once_and_no_more() -> None:
    lock, inside, most = threading.Lock(), 0, 0
    all_inside = threading.Barrier(SINGLES_AT_ONCE_MAX)

    def break_down(_: Sequence[int]) -> list[int]:
        raise ValueError

    def run_slowly(number: int) -> int:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        # Fewer at once would never get past this.
        all_inside.wait(timeout=10)
        with lock:
            inside -= 1
        return number

    group_commit = a_group_commit(break_down, run_slowly)
    numbers = range(4 * SINGLES_AT_ONCE_MAX)
    futures = [group_commit.submit(number) for number in numbers]
    assert [each.result(timeout=10) for each in futures] == list(numbers)
    assert most == SINGLES_AT_ONCE_MAX


def test_no_call_joins_a_queue_before_a_database_that_does_not_answer(runs: Runs) -> None:
    group_commit = runs.group_commit()
    runs.is_circuit_open = True
    # One call finds out whether that is still so.
    first = group_commit.submit(1)
    until(lambda: bool(runs.batches))
    with pytest.raises(NotRunError) as told:
        group_commit.submit(2).result(timeout=0)
    assert told.value.cause == "CircuitOpen"
    runs.go.set()
    assert first.result(timeout=10) == "1 in a batch"


def test_a_batch_behind_an_unavailable_database_fails_with_it(runs: Runs) -> None:
    runs.error = UnavailableError()
    for each in submit(runs, range(CROWD)):
        assert each.exception(timeout=10) is runs.error
    assert (runs.batches, runs.singles) == ([[0]], [])


@pytest.mark.parametrize("error", [ValueError("broken"), UnavailableError()])
def test_after_trouble_calls_run_as_before(runs: Runs, error: Exception) -> None:
    runs.error = error
    group_commit = runs.group_commit()
    for each in submit(runs, [0, 1], group_commit=group_commit):
        each.exception(timeout=10)
    assert group_commit.submit(5).result(timeout=10) == "5 in a batch"


def test_the_future_has_the_error_that_a_call_raises_by_itself() -> None:
    def break_down(_: object) -> list[str]:
        raise ValueError

    def refuse(_: int) -> str:
        raise LookupError

    with pytest.raises(LookupError):
        a_group_commit(break_down, refuse).submit(1).result(timeout=10)


def test_a_call_whose_key_runs_by_itself_joins_no_batch() -> None:
    """It would only hold up the whole batch."""
    batches: list[list[int]] = []
    begun, free = threading.Event(), threading.Event()

    def break_over_a_held_row(numbers: Sequence[int]) -> Sequence[str]:
        batches.append(list(numbers))
        if any(number % 10 == 0 for number in numbers):
            raise ValueError
        return [f"{number} in a batch" for number in numbers]

    def wait_for_the_row(number: int) -> str:
        begun.set()
        assert free.wait(timeout=10)
        return f"{number} single"

    group_commit = a_group_commit(break_over_a_held_row, wait_for_the_row, key=lambda number: number % 10)
    stuck = [group_commit.submit(10)]
    assert begun.wait(timeout=10)
    stuck += [group_commit.submit(number) for number in (20, 30)]
    others = [group_commit.submit(number).result(timeout=10) for number in (1, 2, 3)]
    assert others == ["1 in a batch", "2 in a batch", "3 in a batch"]
    assert not any(each.done() for each in stuck)
    free.set()
    assert results(stuck) == ["10 single", "20 single", "30 single"]
    assert batches == [[10], [1], [2], [3]]


def test_calls_that_are_queued_when_the_interpreter_ends_still_run() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDING], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    assert (sorted(ended.stdout.split()), ended.stderr) == (["1", "2", "3"], "")


def test_where_no_thread_can_be_had_calls_run_once_and_here(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError

    runs.go.set()
    runs.error = ValueError("broken")
    group_commit = runs.group_commit()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert group_commit.submit(1).result(timeout=0) == "1 in a batch"
        assert group_commit.submit(0).result(timeout=0) == "0 single"
    assert group_commit.submit(2).result(timeout=10) == "2 in a batch"
    assert (runs.batches, runs.singles) == ([[1], [0], [2]], [0])


def test_closing_runs_queued_calls_and_ends_the_threads(runs: Runs) -> None:
    before = threading.active_count()
    group_commit = runs.group_commit()
    futures = submit(runs, range(3), group_commit=group_commit)
    group_commit.close()
    assert all(each.done() for each in futures)
    assert threading.active_count() <= before
