"""A signer and the keyring that knows its key, and a receiver made anew for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.alipay.keyring import Keyring, load_private_key
from app.simulator.keys import SANDBOX_CLIENT_ID, SIMULATOR_KEY_NAME
from app.simulator.sender import Sender, Signer
from tests.unit.simulator.endpoint import Endpoint, running_endpoint


@pytest.fixture(scope="session")
def keyring(keyring_path: Path) -> Keyring:
    """What the service knows about the sandbox."""
    return Keyring.load(keyring_path)


@pytest.fixture(scope="session")
def signer(keyring_path: Path) -> Signer:
    """The pretend Alipay of the sandbox."""
    return Signer(SANDBOX_CLIENT_ID, load_private_key(keyring_path.with_name(SIMULATOR_KEY_NAME).read_bytes()))


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A receiver that acknowledges everything, unless it is told otherwise."""
    with running_endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def sender(endpoint: Endpoint) -> Iterator[Sender]:
    """A sender to that receiver."""
    with Sender(endpoint.url) as sender:
        yield sender
