"""Whatever happens to workers, endpoints and clocks, the feed has every move once and in order, and all are told."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from tests.integration.stage import Stage
from tests.schedules.queue import TYPES, BrokenPromiseError, Queue, Words

#: As many as a test run has time for.
SCHEDULES = {"sqlite": 20, "postgresql": 8}
STEPS_MAX = 40

WORKERS = st.sampled_from(["a", "a", "b"])
ENDPOINTS = st.sampled_from(sorted(TYPES))
NAMES = st.sampled_from(["s-1", "s-2", "s-3"])
MANNERS = st.sampled_from(["take", "take", "refuse", "deny", "wait"])
ANSWERS = st.tuples(st.just("answer"), WORKERS, ENDPOINTS, st.sampled_from("012"))
MOVES = st.tuples(st.sampled_from(["code", "code", "token", "cancel"]), NAMES)
TURNS = st.tuples(st.just("turn"), WORKERS)
STEPS = st.one_of(
    MOVES,
    MOVES,
    TURNS,
    TURNS,
    TURNS,
    ANSWERS,
    ANSWERS,
    st.tuples(st.just("number"), WORKERS),
    st.tuples(st.sampled_from(["kill", "stop"]), WORKERS),
    st.tuples(st.just("reload"), WORKERS, st.just("shop")),
    st.tuples(st.just("reload"), WORKERS, st.just("books"), st.just("shop")),
    st.tuples(st.just("manner"), ENDPOINTS, MANNERS),
    # A second; until a holder must stop, and until another may begin; until a code expires; until all is given up, and
    # until what was told is purged.
    st.tuples(st.just("pass"), st.sampled_from(["1", "6", "9", "9", "61", "400000", "2600000"])),
    st.tuples(st.just("clock"), st.sampled_from(["-3600", "-2", "2", "3600"])),
    st.tuples(st.just("resend"), ENDPOINTS),
    st.sampled_from([("begin",), ("commit",), ("rollback",)]),
    st.just(("purge",)),
)


@pytest.mark.no_cover
def test_whatever_happens_every_move_is_told(stage: Stage) -> None:
    @settings(
        max_examples=SCHEDULES[stage.database.engine.dialect.name],
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.lists(STEPS, min_size=10, max_size=STEPS_MAX))
    def all_is_told(steps: list[Words]) -> None:
        play(stage, steps)

    all_is_told()


def play(stage: Stage, steps: list[Words]) -> Queue:
    queue = Queue(stage)
    try:
        for step in steps:
            queue.step(*step)
        queue.calm()
    finally:
        if queue.open_transaction is not None:
            queue.open_transaction.close()
    return queue


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
    received = [event_id for event_id, _ in queue.received["shop"]]
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
    assert len({event_id for event_id, _ in queue.received["shop"]}) == 3


def test_a_broken_promise_would_be_seen(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.events.deliveries.add", lambda *_, **__: None)
    with pytest.raises(BrokenPromiseError, match="deliveries are there for"):
        play(stage, [("code", "s-1"), ("turn", "a")])
