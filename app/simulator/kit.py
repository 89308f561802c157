"""A kit for tests of systems that work with the service: a sandbox, its signer, a running service, and a user.

The service is started as a process of its own, as an operator starts it, on an SQLite database in a temporary folder.
"""

import base64
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import urllib3
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.alipay.keyring import load_private_key
from app.secret import Secret
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from app.simulator.keys import SANDBOX_CLIENT_ID, SIMULATOR_KEY_NAME, make_sandbox
from app.simulator.merchant import Merchant
from app.simulator.player import Performance, Player
from app.simulator.readiness import gets_ready
from app.simulator.scenarios import SCENARIOS
from app.simulator.sender import Sender, ServiceResponse, Signer, epoch_milliseconds, headers_of

NOTIFY_PATH = "/alipay/notifyAuthorization"

#: Starting takes a second or two; a machine that runs many tests is slower.
_START_SECONDS_MAX = 60
_STOP_SECONDS_MAX = 15
_VAULT_KEY_BYTES = 32


class NotStartedError(Exception):
    """The service ended, or did not get ready in time."""

    def __init__(self, said: str) -> None:
        super().__init__(f"The service did not start. It said:\n{said}")


class WrongAnswerError(AssertionError):
    """The service did not answer a scenario as it has to."""

    def __init__(self, wrong: list[Performance]) -> None:
        lines = [f"{each.actor} {each.action}: {each.answer}, not {each.expected}" for each in wrong]
        super().__init__("\n".join(lines))


@dataclass(frozen=True, slots=True)
class SandboxSigner:
    """Signs as Alipay does, with the key of a sandbox."""

    #: What knows the public key, for a service of your own: FLASK_KEYRING.
    keyring: Path
    private_key: RSAPrivateKey
    client_id: str = SANDBOX_CLIENT_ID

    def headers(self, body: bytes, *, uri: str = NOTIFY_PATH, request_time: str | None = None) -> dict[str, str]:
        """Give the headers that make a body a notification of Alipay's, posted to that path and query."""
        request_time = request_time or epoch_milliseconds(datetime.now(UTC))
        return dict(headers_of(self.as_alipay().sign(body, uri=uri, request_time=request_time)))

    def as_alipay(self) -> Signer:
        """Give what the simulator signs with."""
        return Signer(self.client_id, self.private_key)


def make_signer(folder: Path) -> SandboxSigner:
    """Make the keys of a sandbox in a folder."""
    keyring = folder / "keyring.toml"
    make_sandbox(keyring)
    return SandboxSigner(keyring, load_private_key(keyring.with_name(SIMULATOR_KEY_NAME).read_bytes()))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service answered: an HTTP status, and the JSON document if there is one."""

    status: int
    document: Any


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service that is running, with the key for its interface."""

    url: str
    api_key: str
    signer: SandboxSigner
    #: What it logs.
    log: Path

    @property
    def notify_url(self) -> str:
        """Where Alipay notifies."""
        return self.url + NOTIFY_PATH

    def ask(self, method: str, path: str, document: object = None) -> Answer:
        """Call the interface as one of the merchant's services."""
        headers = {"Authorization": f"Bearer {self.api_key}"}
        with urllib3.PoolManager(retries=False, headers=headers) as http:
            response = http.request(method, self.url + path, json=document)
            return Answer(response.status, response.json() if response.data else None)


@contextmanager
def running_service(folder: Path, signer: SandboxSigner, *, endpoints: str = "") -> Iterator[RunningService]:
    """Start a service that believes the signer and tells these endpoints, and stop it at the end of the block.

    `endpoints` is the text of an endpoints.toml. Raises `NotStartedError`.
    """
    api_key, port, log = secrets.token_urlsafe(), _free_port(), folder / "service.log"
    (folder / "endpoints.toml").write_text(endpoints, encoding="utf-8")
    settings = {
        "FLASK_DATABASE_URL": f"sqlite:///{folder / 'notifyauth.db'}",
        "FLASK_KEYRING": str(signer.keyring),
        "FLASK_VAULT_KEYS": base64.b64encode(secrets.token_bytes(_VAULT_KEY_BYTES)).decode(),
        "FLASK_ENDPOINTS": str(folder / "endpoints.toml"),
        "FLASK_API_KEYS": f"tests={api_key}",
    }
    with log.open("wb") as output:
        if _start(folder, settings, output, "db", "upgrade").wait() != 0:
            raise NotStartedError(log.read_text(errors="replace"))
        process = _start(folder, settings, output, "serve", "--port", str(port), "--workers", "1")
        service = RunningService(f"http://127.0.0.1:{port}", api_key, signer, log)
        try:
            if not gets_ready(process, f"{service.url}/readyz", seconds_max=_START_SECONDS_MAX):
                raise NotStartedError(log.read_text(errors="replace"))
            yield service
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(folder: Path, settings: Mapping[str, str], output: Any, *arguments: str) -> subprocess.Popen[bytes]:  # noqa: ANN401 -- a file
    # Without the user's own settings, so that no real instance is used.
    others = {name: value for name, value in os.environ.items() if not name.startswith("FLASK_")}
    return subprocess.Popen(  # noqa: S603 -- the program is this Python, the commands are ours
        [sys.executable, "-m", "app", *arguments], cwd=folder, env={**others, **settings}, stdout=output, stderr=output
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Story:
    """What a user and Alipay do to a running service. Codes and tokens are new ones each time."""

    service: RunningService

    def notify(self, notification: Draft | bytes) -> ServiceResponse:
        """Send one notification, signed, and give what came back."""
        body = notification if isinstance(notification, bytes) else notification.body()
        with Sender(self.service.notify_url) as sender:
            moment = epoch_milliseconds(datetime.now(UTC))
            return sender.send(self.service.signer.as_alipay().sign(body, uri=sender.uri, request_time=moment))

    def agree(self, auth_state: str) -> str:
        """Let the user agree, and give the code that Alipay notifies of."""
        code = f"code-{secrets.token_hex(8)}"
        self._require_acknowledged(self.notify(authcode_created(auth_state, code)))
        return code

    def create_token(self, auth_state: str) -> str:
        """Let Alipay notify of a token, and give it."""
        token = f"token-{secrets.token_hex(8)}"
        self._require_acknowledged(self.notify(token_created(auth_state, token)))
        return token

    def cancel(self, access_token: str) -> None:
        """Let the user take the authorization back in the wallet."""
        self._require_acknowledged(self.notify(token_canceled(access_token)))

    def play(self, name: str) -> list[Performance]:
        """Play a scenario that `flask simulator play` knows. Raises `WrongAnswerError` if an answer is not right."""
        signer = self.service.signer
        key = Secret(self.service.api_key)
        with (
            Sender(self.service.notify_url) as sender,
            Merchant(self.service.url, key, client_id=signer.client_id) as merchant,
        ):
            player = Player(signer.as_alipay(), sender, sender.uri, lambda: datetime.now(UTC), merchant)
            played = list(player.play(SCENARIOS[name]))
        if wrong := [each for each in played if not each.right]:
            raise WrongAnswerError(wrong)
        return played

    def _require_acknowledged(self, answer: ServiceResponse) -> None:
        assert answer.acknowledged, str(answer)  # noqa: S101 -- this is said to a test
