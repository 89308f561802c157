"""A lease is held by one worker at a time, and by another soon after that one is gone."""

from dataclasses import dataclass

from app.leases import HELD_SECONDS, TAKEOVER_SECONDS, Leases
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
