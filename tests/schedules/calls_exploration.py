"""Let Hypothesis make up schedules of calls to Alipay, and see after each step that every promise holds."""

from itertools import product

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from hypothesis import HealthCheck, Phase, given, seed as seeded, settings, strategies as st

from tests.integration.stage import Stage
from tests.schedules.calls import CONSULTED, NAMES, WORKERS, Words, play

#: Enough for a life with a mishap or two in it.
STEPS_MIN, STEPS_MAX = 12, 40

#: What goes wrong with a call at the pretend Alipay, and most often nothing does.
MANNERS = (
    *["well"] * 6,
    "in-process",
    "unknown-done",
    "refused",
    "cut-before",
    "cut-after",
    "unsigned",
    "no-refresh-token",
)
#: Every step, as often as it is likely. A list, since Hypothesis takes the same alternative twice for once.
STEPS: list[Words] = [
    *(("turn", worker) for worker in ("a", "a", "a", "b") * 6),
    *(("serve", pick, manner) for pick in "01" for manner in MANNERS),
    *product(("renew", "record", "look", "kill", "away", "break", "break"), WORKERS),
    *product(("strike", "strike", "stop"), WORKERS),
    *product(("slow",), WORKERS, ("6", "9", "13")),
    *product(("lie",), WORKERS, ("twice", "raise")),
    *(("reach", "0", manner) for manner in ("well", "well", "in-process")),
    *product(("answer", "answer", "cut", "cut", "refuse"), "01"),
    *product(("code", "code", "code", "cancel", "redirect", "own", "renewal", "report", "report"), CONSULTED),
    *product(("refresh", "refresh", "revoke", "revoke", "retry", "payment"), CONSULTED),
    *product(("consult", "code"), NAMES[2:]),
    *product(("notify",), "0000011123"),
    *product(("again",), "03"),
    *product(("lose",), "01"),
    *product(("keyring",), ("exchange", "refresh"), ("on", "off")),
    # A pause; until a holder must stop, and until another may begin; until a request is given up, or what a dead
    # worker has begun is repeated; until a code expires; until a token is to be refreshed, and is over.
    *(("pass", seconds) for seconds in ("1", "1", "3", "6", "9", "9", "13", "61", "920")),
]

_CODE: list[Words] = [("code", "s-1"), ("notify", "0")]
_ACTIVE: list[Words] = [*_CODE, ("turn", "a"), ("serve", "0", "well"), ("turn", "a")]
_TO_BE_REFRESHED: list[Words] = [*_ACTIVE, ("pass", "920"), ("turn", "a")]
_TO_BE_REVOKED: list[Words] = [*_ACTIVE, ("revoke", "s-1"), ("turn", "a")]
#: What a schedule may begin with, so that not all of them end before the best of a life.
BEGINNINGS: tuple[list[Words], ...] = (
    [],
    _CODE,
    [*_CODE, ("turn", "a")],
    [*_CODE, ("own", "s-1")],
    [*_CODE, ("turn", "a"), ("strike", "a")],
    _ACTIVE,
    _TO_BE_REFRESHED,
    [*_TO_BE_REFRESHED, ("strike", "a")],
    [*_ACTIVE, ("refresh", "s-1"), ("renewal", "s-1")],
    [*_TO_BE_REFRESHED, ("cancel", "s-1")],
    _TO_BE_REVOKED,
    [*_TO_BE_REVOKED, ("renewal", "s-1")],
)


def explore_calls(stage: Stage, merchant_key: RSAPrivateKey, *, schedules: int, seed: int | None = None) -> None:
    """Play that many schedules. Raises `BrokenPromiseError` with the shortest that breaks a promise."""

    @settings(
        max_examples=schedules,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(
        st.sampled_from(BEGINNINGS),
        st.lists(st.sampled_from(STEPS), min_size=STEPS_MIN, max_size=STEPS_MAX),
    )
    def all_calls_end_well(beginning: list[Words], steps: list[Words]) -> None:
        play(stage, merchant_key, [*beginning, *steps])

    (all_calls_end_well if seed is None else seeded(seed)(all_calls_end_well))()
