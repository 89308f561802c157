"""What is resumed in pieces, whatever happens between two of them, ends as if it had been resumed at once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, settings, strategies as st

from tests.integration.stage import Stage
from tests.schedules.exploration import explore
from tests.schedules.model import Words
from tests.schedules.pieces import LiveInPieces, resumed_in_pieces
from tests.schedules.schedule import Play, replayable

#: As many as a test run has time for.
SCHEDULES = {"sqlite": 20, "postgresql": 5}
EXAMPLES = {"sqlite": 60, "postgresql": 15}


@pytest.fixture(params=[1, 2, 3], autouse=True)
def piece(request: pytest.FixtureRequest) -> Iterator[int]:
    """How many parked entries a transaction resumes."""
    size: int = request.param
    with resumed_in_pieces(size):
        yield size


@pytest.mark.no_cover
def test_any_schedule_that_is_resumed_in_pieces_ends_as_the_model_says(
    stage: Stage, tmp_path: Path, piece: int
) -> None:
    with replayable(stage, tmp_path, piece=piece):
        explore(stage, schedules=SCHEDULES[stage.database.engine.dialect.name], live=LiveInPieces)


#: What names one authorization, contradictions in plenty: nothing but a consult is missing for it to be decided.
NOTIFICATIONS = st.sampled_from(
    [("AUTHCODE_CREATED", "s-0", f"code-{number}") for number in range(4)]
    + [("TOKEN_CREATED", "s-0", f"token-{number}") for number in range(3)]
    + [("TOKEN_CANCELED", f"token-{number}") for number in range(3)]
)
#: What else may happen while there is a rest, and how often a piece of it is resumed.
OTHER_STEPS = st.sampled_from(
    [
        ("piece",),
        ("piece",),
        ("piece",),
        ("consult", "s-0", "auto_debit", "u-0"),
        ("authcode", "s-0", "code-9"),
        ("token", "s-0", "token-0"),
        ("token", "s-0", "token-9", "code-0"),
        ("refresh", "s-0", "token-0", "token-8"),
        ("revoke", "s-0"),
        ("replay", "TOKEN_CREATED", "s-0", "token-0"),
    ]
)


@pytest.mark.no_cover
def test_a_delivery_between_two_pieces_ends_as_without_pieces(stage: Stage, tmp_path: Path, piece: int) -> None:
    rests: list[int] = []

    @settings(
        max_examples=EXAMPLES[stage.database.engine.dialect.name],
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
        verbosity=Verbosity.quiet,
    )
    @given(
        st.lists(NOTIFICATIONS, min_size=4, max_size=10),
        st.sampled_from(["auto_debit", "direct"]),
        st.lists(NOTIFICATIONS | OTHER_STEPS, max_size=8),
    )
    def end_the_same(parked: list[Words], flow: str, later: list[Words]) -> None:
        live = LiveInPieces(stage)
        whole = Play(live)
        for step in [*parked, ("consult", "s-0", flow, "u-0"), *later]:
            rests.extend(1 for _ in live.unfinished())
            whole.step(*step)
        whole.compare()

    with replayable(stage, tmp_path, piece=piece):
        end_the_same()
    assert rests
