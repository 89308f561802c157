"""A whole service over HTTP that makes its own calls, and the pretend gateway that it calls."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sqlalchemy import select
from werkzeug.test import TestResponse

from app import create_app
from app.alipay.keyring import Keyring, load_private_key
from app.gateway.runner import CallRunner
from app.models import Call
from app.simulator.gateway.faults import Fault
from app.simulator.gateway.gateway import PretendGateway
from app.simulator.gateway.keys import client_keys
from app.simulator.gateway.ledger import ReceivedCall
from app.simulator.keys import SANDBOX_CLIENT_ID, SIMULATOR_KEY_NAME
from app.wiring import Service
from tests.builders import an_environ
from tests.integration.http_client import API_KEY, AUTHORIZATIONS, HttpClient

CONSULTS = "/v1/consults"
#: What a consult has to say at the least.
CONSULT = {
    "authState": "s-1",
    "customerBelongsTo": "GCASH",
    "authRedirectUrl": "https://shop.example/back",
    "scopes": ["AGREEMENT_PAY"],
}
_SECONDS_MAX = 30


@dataclass
class CallingHttp:
    """A merchant of a service that makes its calls."""

    http: HttpClient
    gateway: PretendGateway
    key: str = API_KEY

    def running(self) -> AbstractContextManager[None]:
        """Let a background worker make what is due, for a while."""
        return calls_made(self.http.service)

    # --- the merchant ---

    def consult(self, auth_state: str | None = "s-1", **said: Any) -> TestResponse:  # noqa: ANN401 -- any JSON
        """Ask for a consult; what is `...` is left out."""
        body = {**CONSULT, "authState": ... if auth_state is None else auth_state, **said}
        said = {name: value for name, value in body.items() if value is not ...}
        return self.http.post(CONSULTS, said, key=self.key)

    def ask(self, what: str, document: dict[str, Any]) -> TestResponse:
        """Ask for a refresh or a revoke."""
        return self.http.post(self.http.at(document, what), key=self.key)

    def activate(self, auth_state: str = "s-1") -> dict[str, Any]:
        """Consult, agree, and wait until the service has exchanged the code."""
        with self.running():
            document: dict[str, Any] = self.consult(auth_state).get_json()
            redirected = self.gateway.agree(SANDBOX_CLIENT_ID, auth_state)
            code = parse_qs(urlsplit(redirected).query)["authCode"][0]
            reported = self.http.post(self.http.at(document, "authcode"), {"authCode": code}, key=self.key)
            assert reported.status_code == 200
            self.wait_for(lambda: self.state(auth_state) == "token_active")
        return document

    # --- what there is to see ---

    def state(self, auth_state: str = "s-1") -> str:
        listed = self.http.get(f"{AUTHORIZATIONS}?authState={auth_state}", key=self.key)
        found = listed.get_json()["authorizations"]
        return str(found[0]["state"])

    def fail(self, fault: str, operation: str, *, times: int | None = 1, **said: Any) -> None:  # noqa: ANN401 -- what a fault takes
        """Ask the gateway to go wrong."""
        self.gateway.faults.add([Fault(fault, operation, times=times, **said)])

    def received(self, operation: str) -> list[ReceivedCall]:
        return [each for each in self.gateway.ledger.calls() if each.operation == operation]

    def calls(self) -> list[Call]:
        def find(session: Any) -> list[Call]:  # noqa: ANN401 -- a session
            return list(session.scalars(select(Call).order_by(Call.id)))

        return self.http.service.database.run(find, read_only=True)

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _SECONDS_MAX
        while not is_so():
            shown = [(each.kind, each.status, each.attempts, each.reason) for each in self.calls()]
            assert time.monotonic() < deadline, shown
            time.sleep(0.02)


@contextmanager
def calls_made(service: Service) -> Iterator[None]:
    """Make the calls that are due until the end of the block."""
    stop = threading.Event()
    thread = threading.Thread(target=CallRunner(service).run_until, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=_SECONDS_MAX)
        assert not thread.is_alive()


def keyring_with_gateway(keyring_path: Path, folder: Path, url: str, *settings: str) -> Path:
    """Copy a sandbox, with a gateway for its client."""
    path = shutil.copytree(keyring_path.parent, folder / "sandbox", dirs_exist_ok=True) / keyring_path.name
    lines = "\n".join([f'gateway = "{url}"', *settings])
    text = keyring_path.read_text().replace('default_flow = "auto_debit"\n', f'default_flow = "auto_debit"\n{lines}\n')
    path.write_text(text)
    return path


def a_pretend_gateway(keyring_path: Path) -> PretendGateway:
    """A gateway for the client of a sandbox. It notifies nobody."""
    alipay_key = load_private_key(keyring_path.with_name(SIMULATOR_KEY_NAME).read_bytes())
    return PretendGateway(client_keys(Keyring.load(keyring_path), alipay_key), notify=None)


def a_calling_service(database_url: str, keyring_path: Path, folder: Path) -> Iterator[CallingHttp]:
    """Serve with a gateway to call. Nobody makes the calls until a worker runs."""
    with a_pretend_gateway(keyring_path) as gateway:
        path = keyring_with_gateway(keyring_path, folder, gateway.url)
        environ = an_environ(database_url, path, FLASK_API_KEYS=f"shop={API_KEY}")
        http = HttpClient(create_app(environ), path)
        yield CallingHttp(http, gateway)
        http.service.database.close()
