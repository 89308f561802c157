"""The pretend Alipay in the shell: what it sends is authentic, and its exit code says how it went."""

import stat
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import click.testing
import pytest

from app import create_app
from app.alipay.delivery import Delivery
from app.alipay.keyring import Keyring
from app.alipay.signature import NotAuthenticError, verify
from app.cli.simulator import simulator
from app.config import new_vault_key
from app.simulator.keys import SANDBOX_CLIENT_ID
from app.simulator.sender import REDELIVERY_DELAYS
from tests.unit.simulator.endpoint import ACKNOWLEDGED, OUTAGE, Endpoint, running_endpoint

Run = Callable[..., click.testing.Result]

#: So fast that the whole schedule is over in a tenth of a second.
SPEED = str(sum(REDELIVERY_DELAYS, timedelta()).total_seconds() * 10)


@pytest.fixture
def sandbox(tmp_path: Path) -> Path:
    """Where the keyring of the service is."""
    return tmp_path / "sandbox" / "keyring.toml"


@pytest.fixture
def run(tmp_path: Path, sandbox: Path) -> Run:
    """`flask simulator …`, with everything it reads and writes in a folder of the test's own."""
    environ = {
        "FLASK_DATABASE_URL": f"sqlite:///{tmp_path / 'notifyauth.db'}",
        "FLASK_KEYRING": str(sandbox),
        "FLASK_VAULT_KEYS": new_vault_key(),
    }
    runner = create_app(environ).test_cli_runner()

    def run(*arguments: str, stdin: bytes = b"") -> click.testing.Result:
        return runner.invoke(simulator, arguments, input=stdin)

    return run


@pytest.fixture
def keyring(run: Run, sandbox: Path) -> Keyring:
    """What `flask simulator keys` made."""
    assert run("keys").exit_code == 0
    return Keyring.load(sandbox)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A receiver that acknowledges everything, unless it is told otherwise."""
    with running_endpoint() as endpoint:
        yield endpoint


def test_keys_makes_the_keyring_that_the_service_reads(run: Run, sandbox: Path) -> None:
    result = run("keys")
    assert result.exit_code == 0
    assert "PRIVATE" not in result.output
    assert set(Keyring.load(sandbox).clients) == {SANDBOX_CLIENT_ID}
    assert stat.S_IMODE(sandbox.with_name("simulator.pem").stat().st_mode) == 0o600


def test_keys_in_another_folder_says_how_the_service_finds_them(run: Run, sandbox: Path, tmp_path: Path) -> None:
    result = run("keys", "--dir", str(tmp_path / "other"), "--client", "SANDBOX_X")
    assert f"FLASK_KEYRING={tmp_path / 'other' / 'keyring.toml'}" in result.output
    assert set(Keyring.load(tmp_path / "other" / "keyring.toml").clients) == {"SANDBOX_X"}
    assert not sandbox.exists()


def test_keys_never_overwrites(run: Run, sandbox: Path) -> None:
    run("keys")
    before = sandbox.read_bytes()
    again = run("keys")
    assert again.exit_code == 1
    assert "exists" in again.output
    assert "--dir" in again.output
    assert sandbox.read_bytes() == before


def test_send_is_authentic_and_shows_no_secret(run: Run, keyring: Keyring, endpoint: Endpoint) -> None:
    result = run("send", "AUTHCODE_CREATED", "--auth-state", "s-1", "--auth-code", "the-code", "--to", endpoint.url)
    assert result.exit_code == 0
    assert "200 S SUCCESS" in result.output
    assert "s-1" in result.output
    assert "the-code" not in result.output
    verify(endpoint.deliveries[0], keyring)


def test_send_signs_another_uri_for_a_receiver_behind_a_proxy(run: Run, keyring: Keyring, endpoint: Endpoint) -> None:
    run("send", "TOKEN_CANCELED", "--access-token", "t-1", "--uri", "/public?a=b", "--to", endpoint.url)
    with pytest.raises(NotAuthenticError):
        verify(endpoint.deliveries[0], keyring)
    seen = endpoint.deliveries[0]
    verify(Delivery("POST", "/public?a=b", seen.client_id, seen.request_time, seen.signature, seen.body), keyring)


@pytest.mark.usefixtures("keyring")
def test_send_fails_unless_it_is_acknowledged(run: Run, endpoint: Endpoint) -> None:
    endpoint.answers = [(200, b"success"), ACKNOWLEDGED]
    assert run("send", "TOKEN_CANCELED", "--access-token", "t-1", "--to", endpoint.url).exit_code == 1
    assert len(endpoint.deliveries) == 1


@pytest.mark.usefixtures("keyring")
def test_send_redelivers_until_it_is_acknowledged(run: Run, endpoint: Endpoint) -> None:
    endpoint.answers = [OUTAGE, (500, b""), ACKNOWLEDGED]
    options = ("--redeliver", "--speed", SPEED, "--to", endpoint.url)
    result = run("send", "TOKEN_CANCELED", "--access-token", "t-1", *options)
    assert result.exit_code == 0
    assert "2. after 0:02:00: 500 without a result" in result.output
    assert len({delivery.signature for delivery in endpoint.deliveries}) == 3


@pytest.mark.usefixtures("keyring")
def test_send_gives_up_as_alipay_does(run: Run, endpoint: Endpoint) -> None:
    endpoint.answers = [OUTAGE]
    options = ("--redeliver", "--same-signature", "--speed", SPEED, "--to", endpoint.url)
    result = run("send", "TOKEN_CANCELED", "--access-token", "t-1", *options)
    assert result.exit_code == 1
    assert "8. after 1 day, 0:22:00: no answer" in result.output
    assert len(endpoint.deliveries) == 8
    assert len({delivery.signature for delivery in endpoint.deliveries}) == 1


def test_send_forges(run: Run, keyring: Keyring, endpoint: Endpoint) -> None:
    run("send", "TOKEN_CANCELED", "--access-token", "t-1", "--forge", "--to", endpoint.url)
    with pytest.raises(NotAuthenticError):
        verify(endpoint.deliveries[0], keyring)


def test_sign_makes_any_bytes_a_delivery(run: Run, keyring: Keyring) -> None:
    body = b'\xff any bytes\r\n"'
    printed = run("sign", "-", "--uri", "/a?b", "--request-time", "2019-01-01T01:01:01Z", stdin=body).output
    headers = dict(line.split(": ", maxsplit=1) for line in printed.splitlines())
    assert headers["request-time"] == "2019-01-01T01:01:01Z"
    assert headers["Content-Type"] == "application/json; charset=UTF-8"
    verify(Delivery("POST", "/a?b", headers["client-id"], headers["request-time"], headers["signature"], body), keyring)


@pytest.mark.usefixtures("keyring")
def test_play_tells_right_from_wrong(run: Run, endpoint: Endpoint) -> None:
    right = run("play", "direct", "--to", endpoint.url)
    assert right.exit_code == 0
    assert "2 of 2 answers right" in right.output
    wrong = run("play", "malformed", "direct", "--to", endpoint.url)
    assert wrong.exit_code == 1
    assert "expected: 400 F PARAM_ILLEGAL" in wrong.output
    assert "0 of 2 answers right" in wrong.output
    assert "2 of 2 answers right" in wrong.output


@pytest.mark.usefixtures("keyring")
def test_play_does_not_let_a_stranger_write_on_the_terminal(run: Run, endpoint: Endpoint) -> None:
    endpoint.answers = [(400, rb'{"result": {"resultStatus": "F", "resultCode": "\u001b[2J[bold]"}}')]
    output = run("play", "direct", "--to", endpoint.url).output
    assert "\x1b" not in output
    assert r"\x1b[2J[bold]" in output


@pytest.mark.parametrize(
    "arguments",
    [
        ("play", "no-such-scenario"),
        ("play",),
        ("send", "TOKEN_CANCELED", "--to", "localhost"),
        ("send", "TOKEN_CANCELED", "--client", "a b"),
        ("send", "TOKEN_CANCELED", "--speed", "0"),
        ("sign", "no-such-file"),
        ("sign", "-"),
    ],
)
def test_what_cannot_begin_is_a_usage_error(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.output
