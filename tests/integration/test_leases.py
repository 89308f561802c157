"""A lease is held by one worker at a time, and by another soon after that one is gone."""

import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass

from app.leases import HELD_SECONDS, TAKEOVER_SECONDS, Leases
from app.process_name import has_ended, name_of_this_process
from tests.integration.stage import NOON, Stage


@dataclass
class Monotonic:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def renew(stage: Stage, leases: Leases, *names: str) -> None:
    stage.database.run(lambda session: leases.renew(session, names, now=NOON))()


def two(monotonic: Monotonic) -> tuple[Leases, Leases]:
    return Leases("one", monotonic=monotonic), Leases("two", monotonic=monotonic)


def test_the_first_holds_and_the_second_waits(stage: Stage) -> None:
    first, second = two(Monotonic())
    renew(stage, first, "numbering")
    renew(stage, second, "numbering")
    assert (first.holds("numbering"), second.holds("numbering")) == (True, False)


def test_a_holder_that_lives_keeps_the_lease(stage: Stage) -> None:
    monotonic = Monotonic()
    first, second = two(monotonic)
    for _ in range(10):
        renew(stage, first, "numbering")
        renew(stage, second, "numbering")
        monotonic.now += TAKEOVER_SECONDS / 3
    renew(stage, first, "numbering")
    assert (first.holds("numbering"), second.holds("numbering")) == (True, False)


def test_a_lease_whose_holder_is_gone_is_taken(stage: Stage) -> None:
    monotonic = Monotonic()
    first, second = two(monotonic)
    renew(stage, first, "numbering")
    renew(stage, second, "numbering")
    monotonic.now += TAKEOVER_SECONDS
    renew(stage, second, "numbering")
    assert (first.holds("numbering"), second.holds("numbering")) == (False, True)


def test_a_holder_stops_before_another_may_begin(stage: Stage) -> None:
    monotonic = Monotonic()
    first, _ = two(monotonic)
    renew(stage, first, "numbering")
    monotonic.now += HELD_SECONDS
    assert not first.holds("numbering")
    assert HELD_SECONDS < TAKEOVER_SECONDS


def test_a_holder_that_froze_finds_that_another_has_the_lease(stage: Stage) -> None:
    monotonic = Monotonic()
    first, second = two(monotonic)
    renew(stage, first, "numbering")
    renew(stage, second, "numbering")
    monotonic.now += TAKEOVER_SECONDS
    renew(stage, second, "numbering")
    renew(stage, first, "numbering")
    assert (first.holds("numbering"), second.holds("numbering")) == (False, True)


def test_one_that_takes_the_place_of_a_dead_one_has_its_leases_at_once(stage: Stage) -> None:
    dead, successor = Leases("one"), Leases("one")
    renew(stage, dead, "numbering")
    renew(stage, successor, "numbering")
    assert successor.holds("numbering")


def test_a_lease_that_was_given_back_is_taken_at_once(stage: Stage) -> None:
    first, second = two(Monotonic())
    renew(stage, first, "numbering", "endpoint:shop")
    stage.database.run(first.release)
    renew(stage, second, "numbering", "endpoint:shop")
    assert not first.holds("numbering")
    assert second.holds("numbering")
    assert second.holds("endpoint:shop")


def a_process(stack: ExitStack) -> tuple[subprocess.Popen[str], str]:
    """Another process of this machine, which runs until it is told to end, and its name."""
    code = "from app.process_name import name_of_this_process as name; print(name(), flush=True); input()"
    process = stack.enter_context(
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_lease_of_a_process_of_this_machine_is_taken_as_soon_as_that_has_ended(stage: Stage) -> None:
    """As after `kill -9` of a whole server: nobody waits for eight seconds of a code's minute."""
    second = Leases("two", process=name_of_this_process())
    with ExitStack() as stack:
        process, name = a_process(stack)
        renew(stage, Leases("one", process=name), "numbering")
        renew(stage, second, "numbering")
        assert not second.holds("numbering")
        process.kill()
        # Nobody has asked yet how it ended.
        while not has_ended(name):
            time.sleep(0.01)
        renew(stage, second, "numbering")
        assert second.holds("numbering")
    assert has_ended(name)


def test_a_process_that_nobody_here_can_know_of_has_not_ended_for_certain(stage: Stage) -> None:
    with ExitStack() as stack:
        process, name = a_process(stack)
        process.kill()
    _, number, started = name.split("/")
    elsewhere = f"{'0' * 16}/{number}/{started}"
    renew(stage, Leases("one", process=elsewhere), "numbering")
    second = Leases("two", process=name_of_this_process())
    renew(stage, second, "numbering")
    assert not second.holds("numbering")
    assert not any(map(has_ended, ("", "one", f"{name}/1", elsewhere)))


def test_a_number_that_was_given_again_is_not_the_process_that_had_it() -> None:
    own = name_of_this_process()
    assert own is not None
    assert not has_ended(own)
    space, number, started = own.split("/")
    assert has_ended(f"{space}/{number}/{int(started) - 1}")
