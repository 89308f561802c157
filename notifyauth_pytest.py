"""A pytest plugin for integrators: fixtures with a signer, a running service and a user.

pytest finds it by itself where the package is installed, and so loads it with the tests of any project there. It stands
outside the package `app` and imports nothing of it before a test asks for one of these: many a project has an `app` of
its own, and the first that is imported is the only one.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from app.simulator.kit import RunningService, SandboxSigner, Story


@pytest.fixture(scope="session")
def notifyauth_signer(tmp_path_factory: pytest.TempPathFactory) -> "SandboxSigner":
    """Make what signs any body as Alipay does; its `keyring` is the file that knows the key."""
    from app.simulator.kit import make_signer  # noqa: PLC0415 -- only once a test asks for it

    return make_signer(tmp_path_factory.mktemp("notifyauth-keys"))


@pytest.fixture(scope="session")
def notifyauth_endpoints() -> str:
    """Give the text of an endpoints.toml, for a service that tells systems of yours: define this fixture anew."""
    return ""


@pytest.fixture(scope="session")
def notifyauth_service(
    notifyauth_signer: "SandboxSigner", notifyauth_endpoints: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["RunningService"]:
    """Start a service on an SQLite database of its own, which runs until the last test has ended."""
    from app.simulator.kit import running_service  # noqa: PLC0415 -- as above

    folder = tmp_path_factory.mktemp("notifyauth")
    with running_service(folder, notifyauth_signer, endpoints=notifyauth_endpoints) as service:
        yield service


@pytest.fixture
def notifyauth_scenario(notifyauth_service: "RunningService") -> "Story":
    """Give what a user and Alipay do to the running service: `agree`, `create_token`, `cancel`, `notify`, `play`."""
    from app.simulator.kit import Story  # noqa: PLC0415 -- as above

    return Story(notifyauth_service)
