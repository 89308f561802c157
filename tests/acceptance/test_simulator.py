"""The pretend Alipay in the shell: what it sends is authentic, and its exit code says how it went."""

import json
import stat
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib.metadata import entry_points
from pathlib import Path

import click.testing
import pytest

from app.alipay.delivery import Delivery
from app.alipay.keyring import Keyring
from app.alipay.signature import NotAuthenticError, verify
from app.cli.simulator import simulator
from app.simulator.keys import SANDBOX_CLIENT_ID
from app.simulator.sender import REDELIVERY_DELAYS
from tests.integration.shell import run_flask
from tests.unit.simulator.endpoint import ACKNOWLEDGED, OUTAGE, Endpoint, running_endpoint

Run = Callable[..., click.testing.Result]

#: So fast that the whole schedule is over in a tenth of a second.
SPEED = str(sum(REDELIVERY_DELAYS, timedelta()).total_seconds() * 10)


@pytest.fixture
def keyring_path(tmp_path: Path) -> Path:
    """Where the keyring of the service is."""
    return tmp_path / "sandbox" / "keyring.toml"


@pytest.fixture
def run(keyring_path: Path) -> Run:
    """`flask simulator …`, with everything it reads and writes in a folder of the test's own.

    Of the service's settings it needs the keyring's, and no other.
    """
    environ = {"FLASK_KEYRING": f"{keyring_path}\r", "FLASK_DATABASE_URL": "postgresql://db/without-its-vault-key"}

    def run(*arguments: str, stdin: bytes = b"") -> click.testing.Result:
        return click.testing.CliRunner().invoke(simulator, arguments, input=stdin, env=environ)

    return run


@pytest.fixture
def keyring(run: Run, keyring_path: Path) -> Keyring:
    """What `flask simulator keys` made."""
    assert run("keys").exit_code == 0
    return Keyring.load(keyring_path)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A receiver that acknowledges everything, unless it is told otherwise."""
    with running_endpoint() as endpoint:
        yield endpoint


def test_keys_makes_the_keyring_that_the_service_reads(run: Run, keyring_path: Path) -> None:
    result = run("keys")
    assert result.exit_code == 0
    assert "PRIVATE" not in result.output
    assert set(Keyring.load(keyring_path).clients) == {SANDBOX_CLIENT_ID}
    assert stat.S_IMODE(keyring_path.with_name("simulator.pem").stat().st_mode) == 0o600


@pytest.mark.skipif(
    "simulator" not in entry_points(group="flask.commands").names,
    reason="the project was installed before it named this command: pip install --no-deps --editable .",
)
def test_it_plays_where_the_application_does_not_start(tmp_path: Path) -> None:
    environ = {
        "FLASK_DATABASE_URL": "postgresql://db/without-its-vault-key",
        "FLASK_KEYRING": str(tmp_path / "keyring.toml"),
        "FLASK_API_KEYS": "shop=",
    }
    assert run_flask("simulator", "keys", environ=environ).returncode == 0
    signed = run_flask("simulator", "sign", "-", environ=environ, stdin=b"{}")
    assert (signed.returncode, "signature: algorithm=RSA256" in signed.stdout) == (0, True)


def test_keys_in_another_folder_says_how_the_service_finds_them(run: Run, keyring_path: Path, tmp_path: Path) -> None:
    result = run("keys", "--dir", str(tmp_path / "other"), "--client", "SANDBOX_X")
    assert f"FLASK_KEYRING={tmp_path / 'other' / 'keyring.toml'}" in result.output
    assert set(Keyring.load(tmp_path / "other" / "keyring.toml").clients) == {"SANDBOX_X"}
    assert not keyring_path.exists()


def test_keys_never_overwrites(run: Run, keyring_path: Path) -> None:
    run("keys")
    before = keyring_path.read_bytes()
    again = run("keys")
    assert again.exit_code == 1
    assert "exists" in again.output
    assert "--dir" in again.output
    assert keyring_path.read_bytes() == before


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
def test_send_shows_what_a_refusal_says(run: Run, endpoint: Endpoint) -> None:
    said = {"resultStatus": "F", "resultCode": "PARAM_ILLEGAL", "resultMessage": "accessToken \x1b is missing"}
    endpoint.answers = [(400, json.dumps({"result": said}).encode())]
    result = run("send", "TOKEN_CANCELED", "--to", endpoint.url)
    assert result.exit_code == 1
    assert r"1. after 0:00:00: 400 F PARAM_ILLEGAL: accessToken \x1b is missing" in result.output


@pytest.mark.parametrize("url", ["localhost", "127.0.0.1:8000/notify", "http://127.0.0.1:8000"])
def test_an_address_that_is_not_whole_is_refused_with_one_that_is(run: Run, url: str) -> None:
    result = run("send", "TOKEN_CANCELED", "--to", url)
    assert result.exit_code == 2
    assert "write the whole URL" in " ".join(result.output.split())
    assert "http://127.0.0.1:8000/alipay/notifyAuthorization" in result.output


@pytest.mark.parametrize(
    ("given", "signed"),
    [
        ("https://merchant.example/alipay/notify/?a=b", "/alipay/notify/?a=b"),
        ("HTTP://127.0.0.1:8000/a//b#part", "/a//b"),
        ("https://merchant.example", "/"),
        ("https://merchant.example?a=b", "/?a=b"),
        ("/redirect?to=https://merchant.example/", "/redirect?to=https://merchant.example/"),
    ],
)
def test_of_a_url_the_path_and_query_are_signed(
    run: Run, keyring: Keyring, endpoint: Endpoint, given: str, signed: str
) -> None:
    headers = dict(line.split(": ", 1) for line in run("sign", "-", "--uri", given, stdin=b"{}").output.splitlines())
    verify(
        Delivery("POST", signed, headers["client-id"], headers["request-time"], headers["signature"], b"{}"), keyring
    )
    run("send", "TOKEN_CANCELED", "--uri", given, "--to", endpoint.url)
    seen = endpoint.deliveries[0]
    verify(Delivery("POST", signed, seen.client_id, seen.request_time, seen.signature, seen.body), keyring)


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
        ("send", "TOKEN_CANCELED", "--uri", "notify"),
        ("sign", "-", "--uri", "notify"),
        ("send", "TOKEN_CANCELED", "--speed", "0"),
        ("sign", "no-such-file"),
        ("sign", "-"),
    ],
)
def test_a_command_that_cannot_begin_is_a_usage_error(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.output


@pytest.mark.usefixtures("keyring")
@pytest.mark.parametrize("command", [("send", "TOKEN_CANCELED"), ("play", "direct")])
def test_a_path_without_an_endpoint_is_explained(run: Run, endpoint: Endpoint, command: tuple[str, ...]) -> None:
    endpoint.answers = [(404, b"{}")]
    result = run(*command, "--to", endpoint.url)
    assert result.exit_code == 1
    assert "with the path that the service has in FLASK_NOTIFY_PATH" in result.stderr


@pytest.mark.usefixtures("keyring")
def test_play_without_an_api_key_says_how_to_give_one(run: Run, endpoint: Endpoint) -> None:
    assert "or set FLASK_SIMULATOR_API_KEY" in run("play", "direct", "--to", endpoint.url).output
