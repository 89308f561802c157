"""The demo: start the service, play scenarios and a life with calls against it, and print what becomes of them.

Everything it makes is in one folder of its own, `instance/demo`, new for each run: no real instance is touched. It uses
the public commands only, and ends with 0 only if every answer was the right one.
"""

import base64
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import click

from app.simulator.keys import SANDBOX_CLIENT_ID
from app.simulator.life import LifeWithCalls
from app.simulator.listener import new_secret
from app.simulator.readiness import gets_ready

#: The client whose calls the service makes. The other one's are made by the merchant, that is by the scenarios.
CALLING_CLIENT_ID = SANDBOX_CLIENT_ID[:-1] + "1"
CALLING_LIFE = "life-with-calls"

SCENARIOS = ("full-life", "redelivery", "wrong-order", "illegal", "forgery", "malformed")

#: Starting takes a second or two.
_START_SECONDS_MAX = 30
#: The server finishes what it has begun; there is never more than one request.
_STOP_SECONDS_MAX = 10

#: The vault takes keys for AES-256.
_VAULT_KEY_BYTES = 32

#: Telling takes a fraction of a second.
_TELL_SECONDS_MAX = 30
#: Far more events than the scenarios make.
_EVENTS_MAX = "1000"

_ENDPOINTS = """\
[endpoints.demo]
url = "http://127.0.0.1:{port}/"
secrets = ["{secret}"]
"""


_CALLING_CLIENT = """
[clients.{client_id}]
merchant_private_key = "file:merchant.pem"
gateway = "{gateway}"

[clients.{client_id}.alipay_public_keys]
1 = "{alipay_public_key}"
"""


class CommandFailedError(click.ClickException):
    """A command that has to end well did not; it has said why."""

    def __init__(self, arguments: tuple[str, ...]) -> None:
        super().__init__(f"flask {' '.join(arguments)} failed.")


class ServerNotReadyError(click.ClickException):
    """The server ended, or did not get ready in time."""

    def __init__(self, log: str) -> None:
        super().__init__(f"The server did not start. It said:\n{log}")


class NotToldError(click.ClickException):
    """The endpoint was not told of all that happened."""

    def __init__(self, log: str) -> None:
        super().__init__(f"The endpoint was not told of everything in time. It was told:\n{log}")


class WrongAnswerError(click.ClickException):
    """The service did not answer as it has to."""

    def __init__(self) -> None:
        super().__init__("Not every answer was the right one: look for ✗ above.")


@dataclass(frozen=True, slots=True)
class Stage:
    """The folder that everything happens in, and the settings that lead the commands there."""

    folder: Path

    @property
    def settings(self) -> Path:
        """The settings, in a file that `flask --env-file` reads."""
        return self.folder / "demo.env"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.folder / "server.log"

    @property
    def told(self) -> Path:
        """What the pretend endpoint says."""
        return self.folder / "told.log"

    @property
    def gateway_log(self) -> Path:
        """What the pretend gateway says."""
        return self.folder / "gateway.log"

    @property
    def endpoints(self) -> Path:
        """Who is told."""
        return self.folder / "endpoints.toml"

    @property
    def keyring(self) -> Path:
        """Who is known."""
        return self.folder / "keyring.toml"

    def set_up(self, *, endpoint_port: int, secret: str, api_key: str) -> None:
        """Make the folder anew, with settings that name everything the service keeps, and an endpoint that is told."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o700, parents=True)
        settings = {
            "FLASK_DATABASE_URL": f"sqlite:///{self.folder / 'notifyauth.db'}",
            "FLASK_KEYRING": self.keyring,
            "FLASK_VAULT_KEYS": base64.b64encode(secrets.token_bytes(_VAULT_KEY_BYTES)).decode(),
            "FLASK_ENDPOINTS": self.endpoints,
            "FLASK_API_KEYS": f"demo={api_key}",
            "FLASK_SIMULATOR_API_KEY": api_key,
        }
        self.endpoints.touch(mode=0o600)
        self.endpoints.write_text(_ENDPOINTS.format(port=endpoint_port, secret=secret))
        self.settings.touch(mode=0o600)
        self.settings.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def add_calling_client(self, gateway: str) -> None:
        """Introduce one more client to the service, with the keys of the first and with a gateway."""
        text = self.keyring.read_text()
        keys = tomllib.loads(text)["clients"][SANDBOX_CLIENT_ID]["alipay_public_keys"]
        client = _CALLING_CLIENT.format(client_id=CALLING_CLIENT_ID, gateway=gateway, alipay_public_key=keys["1"])
        self.keyring.write_text(text + client)

    def start(
        self,
        *arguments: str,
        stdout: IO[bytes] | int | None = None,
        stderr: IO[bytes] | int | None = None,
        own_session: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a command of the service's on this stage; unless told otherwise it prints where the demo does."""
        return subprocess.Popen(  # noqa: S603 - the program is this Python, the commands are ours
            [sys.executable, "-m", "flask", "--env-file", str(self.settings), *arguments],
            env=_environment(),
            stdout=stdout,
            stderr=stderr,
            start_new_session=own_session,
        )

    def succeeds(self, *arguments: str) -> bool:
        """Run a command, let it print, and say whether it ended well."""
        with self.start(*arguments) as command:
            return command.wait() == 0

    def run(self, *arguments: str) -> None:
        """Run a command that has to end well, and let it print.

        Raises `CommandFailedError` if it did not.
        """
        if not self.succeeds(*arguments):
            raise CommandFailedError(arguments)

    def ask(self, *arguments: str) -> Any:  # noqa: ANN401 -- whatever the command prints
        """Run a command that prints JSON, and return what it says."""
        with self.start(*arguments, "--json", stdout=subprocess.PIPE) as command:
            return json.loads(command.communicate()[0])

    def auth_states(self) -> list[str]:
        """List the authorizations that were consulted, the oldest first."""
        return [authorization["authState"] for authorization in reversed(self.ask("authorizations", "list"))]


def _environment() -> dict[str, str]:
    """Leave out the FLASK_ variables of the user, those in `.env` too, so that no real instance is used."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("FLASK_")}
    return others | {"FLASK_APP": "app", "FLASK_SKIP_DOTENV": "1"}


@contextmanager
def _running_server(stage: Stage, *, port: int) -> Iterator[str]:
    """Start the real server, give its address once it is ready, and stop it whatever happens.

    Raises `ServerNotReadyError` if it does not get ready.
    """
    arguments = ("serve", "--host", "127.0.0.1", "--port", str(port))
    # In a session of its own, so that Ctrl-C reaches only the demo, which then stops the server in good order.
    with (
        stage.log.open("wb") as log,
        stage.start(*arguments, stdout=log, stderr=log, own_session=True) as server,
    ):
        try:
            if not gets_ready(server, f"http://127.0.0.1:{port}/readyz", seconds_max=_START_SECONDS_MAX):
                raise ServerNotReadyError(stage.log.read_text(errors="replace"))
            yield f"http://127.0.0.1:{port}"
        finally:
            _stop(server)


@contextmanager
def _running(stage: Stage, log: Path, *arguments: str) -> Iterator[None]:
    """Start a part of what surrounds the service, and stop it whatever happens."""
    with log.open("wb") as output, stage.start(*arguments, stdout=output, stderr=output, own_session=True) as process:
        try:
            yield
        finally:
            _stop(process)


def _wait_until_told(stage: Stage, auth_states: list[str]) -> None:
    """Wait until every move is an event, and none is still to be told. Raises `NotToldError`."""
    moves = sum(len(stage.ask("authorizations", "show", each)["history"]) for each in auth_states)
    deadline = time.monotonic() + _TELL_SECONDS_MAX
    while time.monotonic() < deadline:
        events = stage.ask("events", "list", "--limit", _EVENTS_MAX)
        if len(events) == moves and not any(each["due"] for each in stage.ask("endpoints", "list")):
            return
    raise NotToldError(stage.told.read_text(errors="replace"))


def _show_told(stage: Stage, auth_state: str) -> None:
    """Print what the endpoint was told of an authorization: each event, and what the endpoint made of it."""
    lines = stage.told.read_text().splitlines()
    for line, verdict in pairwise(lines):
        if f"authState {auth_state} " in line:
            click.echo(f"{line}\n{verdict}")


def _free_ports(count: int) -> list[int]:
    """Find ports that are free, each another one."""
    with ExitStack() as probes:
        bound = [probes.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in bound]


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)


@click.command()
def main() -> None:
    """Show the service at work, in a minute."""
    # SIGTERM must not leave a server behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stage = Stage(Path("instance", "demo"))
    endpoint_port, gateway_port, port = _free_ports(3)
    secret, api_key = new_secret(), secrets.token_urlsafe()
    stage.set_up(endpoint_port=endpoint_port, secret=secret, api_key=api_key)
    _heading("A database and the keys of a sandbox")
    stage.run("db", "upgrade")
    stage.run("simulator", "keys")
    gateway, notify = f"http://127.0.0.1:{gateway_port}", f"http://127.0.0.1:{port}/alipay/notifyAuthorization"
    stage.add_calling_client(gateway)
    listen = ("simulator", "listen", "--port", str(endpoint_port), "--secret", secret)
    be_gateway = ("simulator", "gateway", "--port", str(gateway_port), "--to", notify)
    with (
        _running(stage, stage.told, *listen),
        _running(stage, stage.gateway_log, *be_gateway),
        _running_server(stage, port=port) as url,
    ):
        _heading(f"Scenarios, played at {url}")
        right = stage.succeeds("simulator", "play", *SCENARIOS, "--to", notify)
        _heading(f"A life in which the service calls Alipay, here {gateway}")
        life = LifeWithCalls(url, api_key, CALLING_CLIENT_ID, gateway)
        right = _show_life(life, f"{CALLING_LIFE}-{secrets.token_hex(5)}") and right
        auth_states = stage.auth_states()
        _wait_until_told(stage, auth_states)
    _heading("What the merchant was told of the first and of the last of them")
    for auth_state in (auth_states[0], auth_states[-1]):
        _show_told(stage, auth_state)
    click.echo(f"In all {stage.told.read_text().splitlines()[-1]}")
    _heading("What became of the authorizations")
    stage.run("authorizations", "list")
    for auth_state in auth_states:
        click.echo()
        stage.run("authorizations", "show", auth_state)
    _tell_how_to_look_further(stage, auth_states[-1])
    if not right:
        raise WrongAnswerError


def _show_life(life: LifeWithCalls, auth_state: str) -> bool:
    """Print a life as it goes, and say whether every step went right."""
    rights = []
    for each in life.live(auth_state, user="budi"):
        click.echo(f"  {each.actor:<10}{each.action}")
        mark = click.style("✓", fg="green") if each.right else click.style("✗", fg="red")
        click.echo(f"{'':10}{mark} {each.answer}" + ("" if each.right else f" instead of {each.expected}"))
        rights.append(each.right)
    return all(rights)


def _heading(text: str) -> None:
    click.secho(f"\n{text}\n{'=' * len(text)}", bold=True)


def _tell_how_to_look_further(stage: Stage, auth_state: str) -> None:
    flask = f"{os.path.relpath(Path(sys.executable).with_name('flask'))} --env-file {stage.settings}"
    _heading("How to look further")
    click.echo(f"{flask} authorizations show {auth_state}")
    click.echo(f"{flask} inbox list")
    click.echo(f"{flask} events list")
    click.echo(f"{flask} serve")
    click.echo(f"{flask} simulator play re-authorization  # while it serves")


if __name__ == "__main__":
    main()
