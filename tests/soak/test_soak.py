"""A quick soak. If it fails, `make soak` with a seed shows how often."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak.figures import MEANINGS, Figures, table
from tests.soak.rounds import (
    race,
    search,
    spring_the_background_trap,
    spring_the_call_trap,
    spring_the_trap,
    storm,
    upgrade_machines,
)
from tests.soak.upgrading import RELEASE_BEFORE, release_before
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


@pytest.mark.long
def test_machines_upgraded_one_by_one_while_all_of_this_goes_on_lose_nothing(
    tmp_path: Path, chance: random.Random
) -> None:
    before = release_before(tmp_path / "before")
    if before is None:
        pytest.skip(f"git, or the commit {RELEASE_BEFORE}, is not here: the checkout is shallow, or none")
    folder = tmp_path / "soak"
    folder.mkdir()
    with world("postgresql", folder, Figures(), before) as made:
        upgrade_machines(made, chance)
        storm(made, chance, seconds=5)
        search(made)
        assert made.figures.complaints == []


def test_what_is_wrong_is_written_to_a_file_at_once(tmp_path: Path) -> None:
    figures = Figures(file=tmp_path / "wrong.txt")
    figures.complain("wrong", ["one", "two"])
    figures.complain("lost", ["three"])
    assert (figures.counts["wrong"], figures.counts["lost"], figures.faults()) == (2, 1, 3)
    written = (tmp_path / "wrong.txt").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in written] == ["wrong: one", "wrong: two", "lost: three"]


def test_the_figures_are_written_beside_each_other() -> None:
    figures = Figures()
    figures.counts["races"] = 12_345
    lines = table({"sqlite": figures, "postgresql": Figures()}).splitlines()
    assert lines[0] == "| | sqlite | postgresql | |"
    assert any(line.startswith("| races | 12,345 | 0 |") for line in lines)
    assert len(lines) == len(MEANINGS) + 2
