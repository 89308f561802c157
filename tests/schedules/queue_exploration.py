"""Let Hypothesis make up schedules of the queue of what is told, and see after each step that every promise holds."""

from hypothesis import HealthCheck, Phase, given, seed as seeded, settings, strategies as st

from tests.integration.stage import Stage
from tests.schedules.queue import TYPES, Queue, Words

#: Enough for a worker to die with something on its way, and for another to take over.
STEPS_MAX = 40

WORKERS = st.sampled_from(["a", "b"])
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
    # A second; until a holder must stop, and until another may begin; until a code expires; until all is given up.
    st.tuples(st.just("pass"), st.sampled_from(["1", "6", "9", "9", "61", "400000"])),
    st.tuples(st.just("clock"), st.sampled_from(["-3600", "-2", "2", "3600"])),
    st.tuples(st.just("resend"), ENDPOINTS),
    st.sampled_from([("begin",), ("commit",), ("rollback",)]),
    st.just(("purge",)),
)


def explore_queue(stage: Stage, *, schedules: int, seed: int | None = None) -> None:
    """Play that many schedules. Raises `BrokenPromiseError` with the shortest that breaks a promise."""

    @settings(
        max_examples=schedules,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.lists(STEPS, min_size=10, max_size=STEPS_MAX))
    def all_is_told(steps: list[Words]) -> None:
        play(stage, steps)

    (all_is_told if seed is None else seeded(seed)(all_is_told))()


def play(stage: Stage, steps: list[Words]) -> Queue:
    """Play one schedule, and let it end well. Raises `BrokenPromiseError`."""
    queue = Queue(stage)
    try:
        for step in steps:
            queue.step(*step)
        queue.calm()
    finally:
        if queue.open_transaction is not None:
            queue.open_transaction.close()
    return queue
