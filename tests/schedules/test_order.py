"""Two orders of the same lives end the same, as long as nothing in them contradicts and each report keeps its place.

Within a phase, between two refreshes or revokes, and between lives any order goes.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Verbosity, given, settings, strategies as st

from tests.integration.stage import Stage
from tests.schedules.live import Live
from tests.schedules.lives import Act, arranged, lives
from tests.schedules.model import Words
from tests.schedules.schedule import DisagreementError, Play, replayable

#: As many as a test run has time for.
EXAMPLES = 20


def played(stage: Stage, schedule: list[Words]) -> tuple[list[str], Play]:
    """Play a schedule, compare it with the model, and return what it made of the authorizations."""
    play = Play(Live(stage))
    for step in schedule:
        assert play.step(*step) != "refused"
    play.compare()
    return [line for line in play.live.record() if line.startswith("s-")], play


@pytest.mark.no_cover
def test_two_orders_without_contradictions_end_the_same(stage: Stage, tmp_path: Path) -> None:
    @settings(
        max_examples=EXAMPLES,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
        verbosity=Verbosity.quiet,
    )
    @given(st.data(), lives())
    def end_the_same(data: st.DataObject, acts: list[Act]) -> None:
        first, second = (arranged(data.draw(st.permutations(acts))) for _ in range(2))
        expected, one = played(stage, first)
        found, other = played(stage, second)
        if found != expected:
            raise DisagreementError(other.played, f"This order ended {found}, another one {expected}:\n{one.played}")
        assert not any("parked" in line for line in other.live.record())

    with replayable(tmp_path):
        end_the_same()
