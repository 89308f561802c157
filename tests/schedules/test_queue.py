"""Whatever happens to workers, endpoints and clocks, the feed has every move once and in order, and all are told."""

import pytest

from tests.integration.stage import Stage
from tests.schedules.queue_exploration import explore_queue, play
from tests.schedules.queue_promises import BrokenPromiseError

#: As many as a test run has time for; `python -m tests.schedules soak` tries more.
SCHEDULES = {"sqlite": 12, "postgresql": 5}


@pytest.mark.no_cover
def test_whatever_happens_every_move_is_told(stage: Stage) -> None:
    explore_queue(stage, schedules=SCHEDULES[stage.database.engine.dialect.name])


def test_a_worker_killed_between_the_answer_and_the_record_tells_twice(stage: Stage) -> None:
    queue = play(
        stage,
        [
            ("code", "s-1"),
            ("turn", "a"),
            ("answer", "a", "shop", "0"),
            ("kill", "a"),
            ("turn", "b"),
            ("pass", "9"),
        ],
    )
    received = [event_id for event_id, _ in queue.promises.received["shop"]]
    assert len(received) == 3
    assert len(set(received)) == 2


def test_a_stalled_worker_that_goes_on_changes_nothing_that_another_has_recorded(stage: Stage) -> None:
    queue = play(
        stage,
        [
            ("token", "s-1"),
            ("code", "s-1"),
            ("turn", "a"),
            ("turn", "b"),
            ("pass", "9"),
            ("turn", "b"),
            ("answer", "b", "shop", "0"),
            ("turn", "b"),
            ("manner", "shop", "refuse"),
            ("answer", "a", "shop", "0"),
            ("turn", "a"),
        ],
    )
    assert len({event_id for event_id, _ in queue.promises.received["shop"]}) == 3


def test_a_broken_promise_would_be_seen(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.events.deliveries.add", lambda *_, **__: None)
    with pytest.raises(BrokenPromiseError, match="deliveries are there for"):
        play(stage, [("code", "s-1"), ("turn", "a")])
