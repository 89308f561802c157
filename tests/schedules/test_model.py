"""Whatever happens, in whatever order, the service has on record what the model says."""

from pathlib import Path

import pytest

from tests.integration.stage import Stage
from tests.schedules.exploration import explore
from tests.schedules.schedule import replayable

#: As many as a test run has time for; `python -m tests.schedules soak` tries more.
SCHEDULES = {"sqlite": 70, "postgresql": 15}


@pytest.mark.no_cover
def test_any_schedule_ends_as_the_model_says(stage: Stage, tmp_path: Path) -> None:
    with replayable(stage, tmp_path):
        explore(stage, schedules=SCHEDULES[stage.database.engine.dialect.name])
