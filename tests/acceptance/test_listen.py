"""`flask simulator listen` in the shell: it shows what arrives, and the lines that lead the service to it."""

import json
import os
import re
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click.testing
import pytest
import urllib3
from standardwebhooks import Webhook

from app.cli.simulator import simulator
from tests.conftest import ROOT
from tests.integration.shell import FLASK

EVENT = {
    "id": "e-1",
    "type": "authorization.canceled",
    "data": {"authorizationId": "a-1", "authState": "s-\x1b1", "sequence": 4, "from": "token_active", "to": "canceled"},
}


@contextmanager
def listening(*options: str) -> Iterator[subprocess.Popen[str]]:
    command: list[str | Path] = [FLASK, "simulator", "listen", "--port", "0", *options]
    environ = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) as program:
        try:
            yield program
        finally:
            program.kill()


def introduction(program: subprocess.Popen[str]) -> tuple[str, str]:
    """Read the lines to paste, and return the address and the secret in them."""
    assert program.stdout is not None
    lines = [program.stdout.readline() for _ in range(6)]
    endpoint = tomllib.loads("".join(lines[2:]))["endpoints"]["listen"]
    return endpoint["url"], endpoint["secrets"][0]


def post(url: str, secret: str, *, webhook_id: str = "e-1") -> int:
    now, body = datetime.now(UTC), json.dumps(EVENT)
    signature = Webhook(secret if secret != "whsec_…" else SECRET).sign(webhook_id, now, body)
    headers = {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
    }
    return urllib3.request("POST", url, body=body, headers=headers, retries=False, redirect=False).status


SECRET = "whsec_c2VjcmV0IG9mIGEgdGVzdCBmb3IgbGlzdGVu"


def test_it_shows_what_arrives_and_what_a_receiver_drops() -> None:
    with listening() as program:
        url, secret = introduction(program)
        assert [post(url, secret), post(url, secret), post(url, SECRET, webhook_id="e-2")] == [200, 200, 401]
        program.send_signal(signal.SIGINT)
        shown, _ = program.communicate(timeout=30)
    assert program.returncode == 0
    line = r"authorization.canceled  authState s-\x1b1  sequence 4  token_active → canceled"
    assert shown.splitlines() == [
        line,
        "  ✓ verified; answered 200",
        line,
        "  ✓ verified, dropped as a repeat: this webhook-id was taken before; answered 200",
        "webhook-id e-2",
        "  ✗ No matching signature found; answered 401",
        "",
        "3 arrived: 1 dropped, 1 not verified, 1 taken.",
    ]


@pytest.mark.parametrize(
    ("options", "answered"),
    [
        (["--fail", "1"], [500, 200]),
        (["--status", "410"], [410, 410]),
        (["--status", "503", "--fail", "1"], [503, 200]),
        (["--redirect", "http://127.0.0.1:1/"], [302, 302]),
    ],
)
def test_it_fails_as_it_is_told_to_and_shows_no_secret_that_it_was_given(
    options: list[str], answered: list[int]
) -> None:
    with listening("--secret", SECRET, *options) as program:
        url, shown_secret = introduction(program)
        assert [post(url, shown_secret) for _ in answered] == answered
        program.terminate()
        shown, _ = program.communicate(timeout=30)
    assert program.returncode == 0
    assert re.search(rf"verified, not taken; answered {answered[0]}", shown)
    assert SECRET not in shown


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--secret", "secret"], "A secret is whsec_ and base64 behind it"),
        (["--redirect", "elsewhere"], "it must be a whole URL."),
        (["--status", "99"], "99 is not in the range"),
    ],
)
def test_what_it_cannot_do_is_a_usage_error(options: list[str], sentence: str) -> None:
    result = click.testing.CliRunner().invoke(simulator, ["listen", *options])
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_a_port_that_is_taken_is_named() -> None:
    with listening() as program:
        port = introduction(program)[0].rstrip("/").rpartition(":")[2]
        result = click.testing.CliRunner().invoke(simulator, ["listen", "--port", port])
    assert result.exit_code == 1
    assert f"Cannot listen at port {port}: Address already in use. Choose another with --port." in result.stderr
