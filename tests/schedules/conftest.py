"""A stage for each test, as the integration tests have it, but in a hurry."""

from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import event

from tests.integration.conftest import alipay_key
from tests.integration.stage import Stage, a_stage

__all__ = ["alipay_key"]


@pytest.fixture
def stage(database_url: str, alipay_key: RSAPrivateKey) -> Iterator[Stage]:
    """A service on a database of its own, which need not survive a power cut; the test runs once on each kind."""
    stage = a_stage(database_url, alipay_key)
    if stage.database.engine.dialect.name == "sqlite":

        @event.listens_for(stage.database.engine, "connect")
        def hurry(connection: Any, _record: object) -> None:  # noqa: ANN401 -- the driver's own
            connection.execute("PRAGMA synchronous = OFF")

    yield stage
    stage.database.close()
