"""Let Hypothesis make up schedules of the queue of what is told, and see after each step that every promise holds."""

from itertools import product

from hypothesis import HealthCheck, Phase, given, seed as seeded, settings, strategies as st

from tests.integration.stage import Stage
from tests.schedules.queue import TYPES, Queue, Words

#: Enough for a worker to die with something on its way, and for another to take over.
STEPS_MIN, STEPS_MAX = 25, 50

WORKERS = ("a", "b")
NAMES = ("s-1", "s-2", "s-3")
#: Every step, as often as it is likely. A list, since Hypothesis takes the same alternative twice for once.
STEPS: list[Words] = [
    *(("turn", worker) for worker in WORKERS * 12),
    *product(("answer",), WORKERS, TYPES, "012"),
    *product(("code", "code", "token", "cancel"), NAMES),
    *product(("number", "kill", "stop"), WORKERS),
    *((*words, "shop") for words in product(("reload",), WORKERS)),
    *((*words, "books", "shop") for words in product(("reload",), WORKERS)),
    *product(("manner",), TYPES, ("take", "take", "refuse", "deny", "wait")),
    # A second; until a holder must stop, and until another may begin; until a code expires; until all is given up.
    *(("pass", seconds) for seconds in ("1", "6", "9", "9", "61", "400000")),
    *(("clock", seconds) for seconds in ("-3600", "-2", "3600")),
    *product(("resend",), TYPES),
    *product(("begin", "commit", "rollback", "purge")),
]


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
    @given(st.lists(st.sampled_from(STEPS), min_size=STEPS_MIN, max_size=STEPS_MAX))
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
