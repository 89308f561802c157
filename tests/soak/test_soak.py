"""A quick soak. If it fails, `make soak` with a seed shows how often."""

import random
from collections.abc import Iterator

import pytest

from tests.soak.figures import MEANINGS, Figures, table
from tests.soak.rounds import race, search, spring_the_background_trap, spring_the_call_trap, spring_the_trap, storm
from tests.soak.world import World, world


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def the_world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A database and two workers."""
    with world(request.param, tmp_path_factory.mktemp("soak"), Figures()) as made:
        yield made


@pytest.fixture
def chance() -> random.Random:
    return random.Random(1)


def test_at_one_instant_from_many_connections_everything_still_happens_once(
    the_world: World, chance: random.Random
) -> None:
    race(the_world, chance, races=40)
    assert the_world.figures.complaints == []


def test_a_worker_killed_between_commit_and_answer_loses_nothing_and_repeats_nothing(
    the_world: World, chance: random.Random
) -> None:
    spring_the_trap(the_world, chance)
    assert the_world.figures.complaints == []


@pytest.mark.parametrize("trap", ["after INTO events", "before INTO webhook_attempts"])
def test_a_background_process_killed_between_two_of_its_steps_loses_nothing(
    the_world: World, chance: random.Random, trap: str
) -> None:
    """That is, once an event is numbered and not sent, and once it is sent and not recorded."""
    spring_the_background_trap(the_world, chance, trap)
    assert the_world.figures.complaints == []


@pytest.mark.parametrize("trap", ["after INTO call_attempts", "before UPDATE call_attempts"])
def test_a_background_process_killed_between_two_steps_of_a_call_loses_nothing(
    the_world: World, chance: random.Random, trap: str
) -> None:
    """That is, once an attempt is on record and not made, and once it is answered and not recorded."""
    spring_the_call_trap(the_world, chance, trap)
    assert the_world.figures.complaints == []


def test_whatever_is_killed_nothing_acknowledged_is_lost(the_world: World, chance: random.Random) -> None:
    storm(the_world, chance, seconds=8)
    search(the_world)
    assert the_world.figures.complaints == []


def test_the_figures_are_written_beside_each_other() -> None:
    figures = Figures()
    figures.counts["races"] = 12_345
    lines = table({"sqlite": figures, "postgresql": Figures()}).splitlines()
    assert lines[0] == "| | sqlite | postgresql | |"
    assert any(line.startswith("| races | 12,345 | 0 |") for line in lines)
    assert len(lines) == len(MEANINGS) + 2
