"""Whatever happens, in whatever order, the service has on record what the model says."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from tests.integration.stage import a_stage
from tests.schedules.exploration import explore
from tests.schedules.schedule import replayable

#: As many as a test run has time for; `python -m tests.schedules soak` tries more.
SCHEDULES = 100


@pytest.mark.no_cover
def test_any_schedule_ends_as_the_model_says_on_sqlite(
    sqlite_url: str, alipay_key: RSAPrivateKey, tmp_path: Path
) -> None:
    stage = a_stage(sqlite_url, alipay_key)
    with replayable(stage, tmp_path):
        explore(stage, schedules=SCHEDULES)
    stage.database.close()


@pytest.mark.no_cover
def test_any_schedule_ends_as_the_model_says_on_postgresql(
    postgresql_url: str, alipay_key: RSAPrivateKey, tmp_path: Path
) -> None:
    stage = a_stage(postgresql_url, alipay_key)
    with replayable(stage, tmp_path):
        explore(stage, schedules=SCHEDULES // 4)
    stage.database.close()
