"""SIGHUP takes over what the keyring says about calls, in the workers that receive and in the process that calls."""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.acceptance.gateway import Browser, Gateway, a_gateway, make_keys, running_gateway
from tests.acceptance.server import Server, running_server, working
from tests.builders import an_environ

API_KEY = "a-key-of-the-shop"
#: A tenth of it before its end a token is refreshed.
TOKEN_LIFE_SECONDS = 5


@dataclass
class Installation:
    """A service whose keyring is changed while it runs."""

    server: Server
    keyring_path: Path
    #: The keyring as it was made, without a gateway.
    bare: str
    log: Path

    def set_gateway(self, *settings: str) -> None:
        """Write the keyring anew."""
        flow = 'default_flow = "auto_debit"\n'
        assert flow in self.bare
        self.keyring_path.write_text(self.bare.replace(flow, flow + "".join(f"{each}\n" for each in settings)))

    def reload(self, expected: str = "reloaded") -> None:
        """Ask for a reload, and wait until the log says how it went."""
        before = self.log.read_text().count(expected)
        self.server.process.send_signal(signal.SIGHUP)
        self.wait_until(lambda: self.log.read_text().count(expected) > before)
        # The background process that was replaced finishes what it has begun.
        self.wait_until(lambda: len(self.server.background()) <= 1)

    def consult(self, auth_state: str, gateway: Gateway) -> urllib3.BaseHTTPResponse:
        body = {
            "authState": auth_state,
            "customerBelongsTo": "GCASH",
            "authRedirectUrl": f"{gateway.url}/merchant",
            "scopes": ["AGREEMENT_PAY"],
        }
        return self._ask("POST", "/v1/consults", body)

    def agree(self, auth_state: str, gateway: Gateway) -> dict[str, Any]:
        """Consult, and agree in a browser."""
        answer = self.consult(auth_state, gateway)
        assert answer.status == 201, answer.data
        document: dict[str, Any] = answer.json()
        assert document["normalUrl"].startswith(gateway.url)
        browser = Browser()
        browser.open(document["normalUrl"])
        browser.press("Agree")
        return document

    def wait_for_state(self, document: dict[str, Any], state: str) -> None:
        path = f"/v1/authorizations/{document['id']}"
        self.wait_until(lambda: self._ask("GET", path).json()["state"] == state)

    def _ask(self, method: str, path: str, body: object = None) -> urllib3.BaseHTTPResponse:
        headers = {"Authorization": f"Bearer {API_KEY}"}
        return urllib3.request(method, f"{self.server.url}{path}", json=body, headers=headers, retries=False)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not is_so():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


@pytest.fixture
def gateways() -> tuple[Gateway, Gateway]:
    return a_gateway(), a_gateway()


@pytest.fixture
def environ(sqlite_url: str, tmp_path: Path) -> dict[str, str]:
    keyring_path = make_keys(tmp_path, gateway=None)
    return an_environ(sqlite_url, keyring_path, FLASK_API_KEYS=f"shop={API_KEY}")


@pytest.fixture
def installation(
    request: pytest.FixtureRequest, environ: dict[str, str], gateways: tuple[Gateway, Gateway], tmp_path: Path
) -> Iterator[Installation]:
    """A service whose client has no gateway yet, and two gateways that notify it."""
    keyring_path, log = Path(environ["FLASK_KEYRING"]), tmp_path / "server.log"
    with running_server(environ, log, "--workers", "2", *getattr(request, "param", ())) as server:
        notify = ("--to", f"{server.url}/alipay/notifyAuthorization", "--token-life", str(TOKEN_LIFE_SECONDS))
        one, other = gateways
        with (
            running_gateway(one, keyring_path, tmp_path / "one.log", *notify),
            running_gateway(other, keyring_path, tmp_path / "other.log", *notify),
        ):
            yield Installation(server, keyring_path, keyring_path.read_text(), log)


def test_a_gateway_is_added_changed_and_removed_by_a_reload(
    installation: Installation, gateways: tuple[Gateway, Gateway]
) -> None:
    one, other = gateways
    assert installation.consult("before", one).status == 409

    installation.set_gateway(f'gateway = "{one.url}"')
    # What is written counts once it is reloaded.
    assert installation.consult("before", one).status == 409
    installation.reload()
    first = installation.agree("added", one)
    installation.wait_for_state(first, "token_active")
    installation.wait_until(lambda: len(one.received("refresh")) >= 1)

    installation.set_gateway(f'gateway = "{one.url}"', "exchange = false", "refresh = false")
    installation.reload()
    refreshes = len(one.received("refresh"))
    second = installation.agree("by the merchant", one)
    installation.wait_for_state(second, "authcode_issued")
    time.sleep(TOKEN_LIFE_SECONDS + 1)
    assert (len(one.received("exchange")), len(one.received("refresh"))) == (1, refreshes)

    installation.set_gateway('gateway = "nonsense"')
    installation.reload("reload refused")
    installation.wait_for_state(installation.agree("as before", one), "authcode_issued")

    installation.set_gateway(f'gateway = "{other.url}"')
    installation.reload()
    third = installation.agree("changed", other)
    installation.wait_for_state(third, "token_active")
    assert [each["operation"] for each in other.received("exchange")] == ["exchange"]

    installation.set_gateway()
    installation.reload()
    calls = len(one.ledger()["calls"]), len(other.ledger()["calls"])
    assert installation.consult("after", one).status == 409
    time.sleep(TOKEN_LIFE_SECONDS + 1)
    assert (len(one.ledger()["calls"]), len(other.ledger()["calls"])) == calls
    assert "Traceback" not in installation.log.read_text()


@pytest.mark.parametrize("installation", [("--no-work",)], indirect=True)
def test_flask_work_takes_a_gateway_over_too(
    installation: Installation, environ: dict[str, str], gateways: tuple[Gateway, Gateway], tmp_path: Path
) -> None:
    one, _ = gateways
    log = tmp_path / "work.log"
    with working(environ, log) as worker:
        installation.wait_until(lambda: "background work begins" in log.read_text())
        installation.set_gateway(f'gateway = "{one.url}"')
        worker.send_signal(signal.SIGHUP)
        installation.wait_until(lambda: "reloaded" in log.read_text())
        installation.reload()
        installation.wait_for_state(installation.agree("added", one), "token_active")
    assert worker.returncode == 0
