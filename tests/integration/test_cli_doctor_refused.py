"""An operator asks which deliveries were refused, and why: `flask doctor refused`."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from app import create_app
from app.alipay.delivery import Delivery, Origin
from app.config import DEFAULT_NOTIFY_PATH
from app.simulator.draft import token_canceled
from app.simulator.keys import SANDBOX_CLIENT_ID
from tests.builders import a_genuine_delivery, a_signed_delivery, an_environ
from tests.integration.shell import Shell

ORIGIN = Origin("request-1", "203.0.113.9")


@pytest.fixture
def genuine(shell: Shell) -> Delivery:
    delivery = a_genuine_delivery(shell.keyring_path, token_canceled("28100103_secret", "no more"))
    return replace(delivery, origin=ORIGIN)


def refuse(shell: Shell, delivery: Delivery, **headers: str) -> Any:  # noqa: ANN401 -- JSON
    """Let a delivery be refused, and return its row in the listing."""
    before = len(shell.json("doctor", "refused"))
    answer = shell.receiver.receive_later(delivery, other_headers=lambda: headers).result().answer
    assert answer.status == 401
    deadline = time.monotonic() + 20
    while len(rows := shell.json("doctor", "refused")) == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return rows[0]


def test_what_was_refused_is_listed(shell: Shell, genuine: Delivery) -> None:
    assert "No delivery was refused" in shell.ask("doctor", "refused")
    row = refuse(shell, replace(genuine, body=genuine.body + b"\n"))
    assert row.pop("id")
    assert row.pop("at")
    assert row == {
        "clientId": SANDBOX_CLIENT_ID,
        "isKnownClient": True,
        "cause": "mismatch",
        "keyVersion": 1,
        "path": DEFAULT_NOTIFY_PATH,
        "address": "203.0.113.9",
        "requestId": "request-1",
    }
    assert "mismatch" in shell.ask("doctor", "refused")


def test_one_is_shown_with_its_diagnosis_and_no_secret(shell: Shell, genuine: Delivery) -> None:
    row = refuse(shell, replace(genuine, body=genuine.body + b"\n"))
    said = shell.ask("doctor", "refused", row["id"])
    assert "✗ The signature does not verify." in said
    assert "final_newline: with all of it undone, the signature verifies" in said
    assert "--data-binary" in said
    assert "28100103_secret" not in said
    assert shell.json("doctor", "refused", row["id"])["diagnosis"]["changes"] == ["final_newline"]


def test_what_a_proxy_says_and_what_is_registered_help(shell: Shell) -> None:
    signed = a_genuine_delivery(shell.keyring_path, token_canceled("t"), uri=f"/eu-7{DEFAULT_NOTIFY_PATH}?tenant=7")
    row = refuse(shell, replace(signed, uri=DEFAULT_NOTIFY_PATH), **{"x-forwarded-prefix": "/eu-7"})
    url = f"https://merchant.example/eu-7{DEFAULT_NOTIFY_PATH}?tenant=7"
    shown = shell.json("doctor", "refused", row["id"], "--registered-url", url)
    assert shown["diagnosis"]["changes"] == ["prefix_stripped", "query_lost"]


def test_a_header_that_did_not_come_is_named(shell: Shell, genuine: Delivery) -> None:
    row = refuse(shell, replace(genuine, request_time=""))
    assert "the header request-time is missing" in shell.ask("doctor", "refused", row["id"])


def test_an_unknown_client_is_named_so(shell: Shell, genuine: Delivery) -> None:
    row = refuse(shell, replace(genuine, client_id="somebody\x1b[31m"))
    assert (row["cause"], row["isKnownClient"]) == ("unknown_client", False)
    said = shell.ask("doctor", "refused")
    assert "(not in the keyring)" in said
    assert "\x1b" not in said
    shown = shell.ask("doctor", "refused", row["id"])
    assert (
        "The keyring does not have the client somebody... (13 characters), and has the key that signed under " in shown
    )


def test_a_strangers_key_is_named(shell: Shell) -> None:
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    row = refuse(shell, a_signed_delivery(stranger, client_id=SANDBOX_CLIENT_ID))
    assert shell.json("doctor", "refused", row["id"])["diagnosis"]["changes"] == ["unknown_key"]


def test_one_that_verifies_by_now_is_said_to(database_url: str, keyring_path: Path) -> None:
    environ = an_environ(database_url, keyring_path, FLASK_FRESHNESS_SECONDS="90000")
    shell = Shell(create_app(environ), keyring_path)
    row = refuse(shell, a_genuine_delivery(keyring_path, token_canceled("t")))
    assert row["cause"] == "stale"
    said = shell.ask("doctor", "refused", row["id"])
    assert "✓ The signature verifies." in said
    assert "FLASK_FRESHNESS_SECONDS" in said
    shell.service.database.close()


def test_one_that_is_not_there_is_said_to_be(shell: Shell) -> None:
    result = shell.run("doctor", "refused", "00000000-0000-7000-8000-000000000000")
    assert result.exit_code == 1
    assert "There is no refused delivery" in result.output
