"""Two orders of the same lives end the same, as long as nothing in them contradicts and each report keeps its place.

Within a phase, between two refreshes or revokes, and between lives any order goes.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, settings, strategies as st

from tests.integration.stage import Stage
from tests.schedules.lives import Act, arranged, lives
from tests.schedules.schedule import DisagreementError, Play, play, replayable, text_of

#: As many as a test run has time for.
EXAMPLES = 12


@pytest.mark.no_cover
def test_two_orders_without_contradictions_end_the_same(stage: Stage, tmp_path: Path) -> None:
    @settings(
        max_examples=EXAMPLES,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
        verbosity=Verbosity.quiet,
    )
    @given(st.data(), lives())
    def end_the_same(data: st.DataObject, acts: list[Act]) -> None:
        first, second = (play(stage, arranged(data.draw(st.permutations(acts)))) for _ in range(2))
        if on_record(first) != on_record(second):
            what = f"{on_record(second)}\n\nis not how this order ended:\n\n{text_of(first.played)}"
            raise DisagreementError(second.played, what)

    with replayable(stage, tmp_path):
        end_the_same()


def on_record(lived: Play) -> list[str]:
    """Say what the lives have come to, once nothing was refused and nothing is left to wait for."""
    assert "refused" not in lived.said
    assert not any("parked" in line for line in lived.live.record())
    return [line for line in lived.live.record() if line.startswith("s-")]
