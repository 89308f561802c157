"""`flask simulator gateway` in the shell: it answers with the keys of `flask simulator keys`, and says what happens."""

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click.testing
import pytest

from app.alipay.keyring import Keyring, load_private_key
from app.cli.simulator import simulator
from app.simulator.gateway.faults import KINDS
from app.simulator.keys import MERCHANT_KEY_NAME, make_sandbox
from tests.conftest import ROOT
from tests.integration.shell import FLASK, run_flask
from tests.unit.simulator.endpoint import running_endpoint
from tests.unit.simulator.gateway.caller import Caller


@contextmanager
def a_gateway(keyring_path: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command: list[str | Path] = [FLASK, "simulator", "gateway", "--port", "0", *options]
    environ = {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "FLASK_KEYRING": str(keyring_path),
    }
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            url, *_ = [program.stdout.readline().strip() for _ in range(4)]
            yield program, url
        finally:
            program.kill()


def test_it_answers_notifies_and_says_what_happened_without_secrets(keyring_path: Path) -> None:
    key = load_private_key(keyring_path.with_name(MERCHANT_KEY_NAME).read_bytes())
    options = ("--fault", "unknown:revoke:times=1", "--token-created", "--token-life", "60")
    with running_endpoint() as endpoint, a_gateway(keyring_path, "--to", endpoint.url, *options) as (program, url):
        caller = Caller(url, key, Keyring.load(keyring_path))
        page = caller.consult().document["normalUrl"]
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        decided = caller.http.request("POST", page, body="decision=agree&user=chen", headers=form, redirect=False)
        code = re.findall("authCode=([0-9]+)", decided.headers["Location"])[0]
        token = caller.exchange(code).document["accessToken"]
        assert [caller.revoke(token).believed for _ in range(2)] == ["U", "S"]
        assert caller.revoke("another").code == "INVALID_ACCESS_TOKEN"
        caller.http.clear()
        program.terminate()
        shown, _ = program.communicate(timeout=30)
    assert program.returncode == 0
    for line in (
        r"✓ call    consult  S SUCCESS  authState s-1",
        r"✓ user    chen agreed  authState s-1",
        r"✓ notify  AUTHCODE_CREATED  authState s-1: 200 S SUCCESS",
        r"✓ call    exchange S SUCCESS",
        r"✗ call    revoke   U UNKNOWN_EXCEPTION  \(unknown\)",
        r"✓ call    revoke   F INVALID_ACCESS_TOKEN",
    ):
        assert re.search(rf"^[0-9:]{{8}}  {line}$", shown, re.MULTILINE), line
    assert code not in shown
    assert token not in shown


def test_help_lists_every_fault() -> None:
    shown = click.testing.CliRunner().invoke(simulator, ["gateway", "--help"]).output
    assert [name for name in KINDS if not re.search(rf"^    {name} +\w", shown, re.MULTILINE)] == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--fault", "nothing"], "fault is one of unknown, "),
        (["--to", "elsewhere"], "is not an http:// or https:// address"),
        (["--to", "http://127.0.0.1:1"], "has no path"),
    ],
)
def test_what_it_cannot_do_is_a_usage_error(options: list[str], sentence: str) -> None:
    result = click.testing.CliRunner().invoke(simulator, ["gateway", *options])
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.split())


def test_a_port_that_is_taken_is_named(keyring_path: Path) -> None:
    with a_gateway(keyring_path) as (_, url):
        port = url.rpartition(":")[2]
        result = run_flask("simulator", "gateway", "--port", port, environ={"FLASK_KEYRING": str(keyring_path)})
    assert result.returncode == 1
    assert f"Cannot listen at port {port}: Address already in use. Choose another with --port." in result.stderr


def test_a_keyring_that_it_cannot_serve_is_named(keyring_path: Path, tmp_path: Path) -> None:
    make_sandbox(tmp_path / "keyring.toml")
    key = keyring_path.with_name("simulator.pem")
    environ = {"FLASK_KEYRING": str(tmp_path / "keyring.toml")}
    result = run_flask("simulator", "gateway", "--key", str(key), environ=environ)
    assert result.returncode == 1
    assert "none of its Alipay public keys belongs to the private key of this gateway" in result.stderr


def test_keys_can_be_made_for_a_gateway(tmp_path: Path) -> None:
    url = "http://127.0.0.1:8800"
    result = run_flask("simulator", "keys", "--dir", str(tmp_path), "--gateway", f"{url}/", environ={})
    assert result.returncode == 0
    client = tomllib.loads((tmp_path / "keyring.toml").read_text())["clients"]["SANDBOX_5Y00000000000000"]
    assert (client["gateway"], client["merchant_private_key"]) == (url, "file:merchant.pem")


@pytest.mark.parametrize(
    "url",
    ["http://gateway.example", "https://", "https://a.example/path", "ftp://127.0.0.1", "x", "https://u@a.example"],
)
def test_what_is_no_gateway_is_a_usage_error(tmp_path: Path, url: str) -> None:
    result = click.testing.CliRunner().invoke(simulator, ["keys", "--dir", str(tmp_path / "new"), "--gateway", url])
    assert result.exit_code == 2
    assert not (tmp_path / "new").exists()
