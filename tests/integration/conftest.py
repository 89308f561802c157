"""A stage for each test, on each database."""

from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from tests.integration.stage import Stage, a_stage


@pytest.fixture(scope="session")
def alipay_key() -> RSAPrivateKey:
    """What the pretend Alipay signs with."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def stage(database_url: str, alipay_key: RSAPrivateKey) -> Iterator[Stage]:
    """A service on a database of its own; the test runs once on each kind."""
    stage = a_stage(database_url, alipay_key)
    yield stage
    stage.database.close()
