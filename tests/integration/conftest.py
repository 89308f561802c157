"""A stage, an operator at a shell and an HTTP client for each test, on each database."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app import create_app
from tests.builders import an_environ
from tests.integration.http_client import API_KEY, HttpClient
from tests.integration.shell import Shell
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


@pytest.fixture
def postgresql_stage(postgresql_url: str, alipay_key: RSAPrivateKey) -> Iterator[Stage]:
    """A service on a PostgreSQL database of its own, for what only that can do."""
    stage = a_stage(postgresql_url, alipay_key)
    yield stage
    stage.database.close()


@pytest.fixture
def shell(database_url: str, keyring_path: Path) -> Iterator[Shell]:
    """An operator at a shell; the test runs once on each kind of database."""
    shell = Shell(create_app(an_environ(database_url, keyring_path)), keyring_path)
    yield shell
    shell.service.database.close()


@pytest.fixture
def http(database_url: str, keyring_path: Path) -> Iterator[HttpClient]:
    """A client of a whole service over HTTP; the test runs once on each kind of database."""
    environ = an_environ(database_url, keyring_path, FLASK_API_KEYS=f"shop={API_KEY}")
    http = HttpClient(create_app(environ), keyring_path)
    yield http
    http.service.database.close()
