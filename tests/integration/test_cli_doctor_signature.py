"""An operator asks why a signature does not verify: `flask doctor signature`."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from app import create_app
from app.alipay.delivery import Delivery
from app.alipay.keyring import load_private_key
from app.cli.doctor.masking import masked_content
from app.config import DEFAULT_NOTIFY_PATH
from app.simulator.draft import token_canceled, token_created
from app.simulator.keys import MERCHANT_KEY_NAME, SANDBOX_CLIENT_ID
from app.simulator.sender import Signer
from tests.builders import a_genuine_delivery, a_raw_request, an_environ
from tests.integration.shell import Shell
from tests.unit.alipay.key_text import certificate_of


@pytest.fixture
def genuine(shell: Shell) -> Delivery:
    return a_genuine_delivery(shell.keyring_path, token_canceled("28100103_secret", "no more"))


def ask(shell: Shell, delivery: Delivery | bytes, *options: str) -> tuple[int, str]:
    raw = delivery if isinstance(delivery, bytes) else a_raw_request(delivery)
    result = shell.run("doctor", "signature", "-", *options, stdin=raw)
    return result.exit_code, result.output


def document(shell: Shell, delivery: Delivery, *options: str) -> dict[str, Any]:
    result = shell.run("doctor", "signature", "-", "--json", *options, stdin=a_raw_request(delivery))
    assert result.exit_code == 1
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_genuine_request_verifies_and_is_not_stored(shell: Shell, genuine: Delivery, tmp_path: Path) -> None:
    file = tmp_path / "request.http"
    file.write_bytes(a_raw_request(genuine))
    said = shell.ask("doctor", "signature", str(file))
    assert said.startswith("✓ The signature verifies.\n")
    assert f"Alipay's key, version 1, of client {SANDBOX_CLIENT_ID} (SHA256:" in said
    assert shell.json("doctor", "signature", str(file))["changes"] == []
    assert shell.json("inbox", "list") == []


def test_what_is_certain_the_changes_and_the_remedy_are_said(shell: Shell, genuine: Delivery) -> None:
    exit_code, said = ask(shell, replace(genuine, body=genuine.body + b"\n"))
    assert exit_code == 1
    assert said.startswith("✗ The signature does not verify.\n")
    assert "sha256" in said
    assert "final_newline: with all of it undone, the signature verifies" in said
    assert "--data-binary" in said
    head = len(f"POST {genuine.uri}\n{genuine.client_id}.{genuine.request_time}.")
    assert f"{head + len(genuine.body)} bytes: POST {DEFAULT_NOTIFY_PATH}\\n" in said
    assert f"{head + len(genuine.body) + 1} bytes: POST" in said
    assert f"from byte {head + len(genuine.body) + 1} on" in said
    assert shell.json("inbox", "list") == []


def test_programs_are_told_the_same(shell: Shell, genuine: Delivery) -> None:
    found = document(shell, replace(genuine, body=json.dumps(json.loads(genuine.body), indent=2).encode()))
    fingerprint = shell.json("keys", "show")["clients"][0]["alipayPublicKeys"][0]["fingerprint"]
    assert found.pop("remedy")
    assert found == {
        "verifies": False,
        "key": {"client": SANDBOX_CLIENT_ID, "version": 1, "fingerprint": fingerprint},
        "digest": "sha256",
        "changes": ["json_rewritten"],
    }


def test_a_registered_url_says_what_was_lost(shell: Shell) -> None:
    signed = a_genuine_delivery(shell.keyring_path, token_canceled("t"), uri=f"/shop{DEFAULT_NOTIFY_PATH}?tenant=7")
    arrived = replace(signed, uri=DEFAULT_NOTIFY_PATH)
    assert document(shell, arrived)["changes"] == []
    url = f"https://merchant.example/shop{DEFAULT_NOTIFY_PATH}?tenant=7"
    found = document(shell, arrived, "--registered-url", url)
    assert found["changes"] == ["prefix_stripped", "query_lost"]
    assert f"FLASK_PUBLIC_NOTIFY_PATH=/shop{DEFAULT_NOTIFY_PATH}" in found["remedy"]


def test_a_header_of_the_proxy_says_what_was_lost(shell: Shell) -> None:
    signed = a_genuine_delivery(shell.keyring_path, token_canceled("t"), uri=f"/eu-7{DEFAULT_NOTIFY_PATH}")
    raw = a_raw_request(replace(signed, uri=DEFAULT_NOTIFY_PATH), headers={"X-Forwarded-Prefix": "/eu-7"})
    result = shell.run("doctor", "signature", "-", "--json", stdin=raw)
    assert json.loads(result.stdout)["changes"] == ["prefix_stripped"]


def test_the_merchants_own_key_is_recognised(shell: Shell) -> None:
    own = load_private_key(shell.keyring_path.with_name(MERCHANT_KEY_NAME).read_bytes())
    body = token_canceled("t").body()
    signed = Signer(SANDBOX_CLIENT_ID, own, 1).sign(body, uri=DEFAULT_NOTIFY_PATH, request_time="1685599933871")
    found = document(shell, signed)
    assert (found["changes"], found["key"]["version"]) == (["own_key"], None)
    assert "the merchant's own key of client" in ask(shell, signed)[1]


def test_the_path_that_alipay_signs_is_verified_behind_a_proxy(database_url: str, keyring_path: Path) -> None:
    shell = Shell(
        create_app(an_environ(database_url, keyring_path, FLASK_PUBLIC_NOTIFY_PATH="/public/notify")), keyring_path
    )
    signed = a_genuine_delivery(keyring_path, token_canceled("t"), uri="/public/notify")
    exit_code, said = ask(shell, replace(signed, uri=DEFAULT_NOTIFY_PATH))
    assert exit_code == 0
    assert "verified as /public/notify (FLASK_PUBLIC_NOTIFY_PATH)" in said
    internal = a_genuine_delivery(keyring_path, token_canceled("t"))
    found = document(shell, internal)
    assert found["changes"] == ["prefix_stripped", "prefix_added"]
    assert f"FLASK_PUBLIC_NOTIFY_PATH={DEFAULT_NOTIFY_PATH}" in found["remedy"]
    shell.service.database.close()


def test_what_else_the_endpoint_would_refuse_is_said(shell: Shell, genuine: Delivery) -> None:
    assert "is answered 404" in ask(shell, replace(genuine, uri=f"{DEFAULT_NOTIFY_PATH}/"))[1]
    exit_code, said = ask(shell, a_raw_request(genuine, method="PUT"))
    assert exit_code == 1
    assert "PUT is answered 405" in said


def test_garbage_finds_nothing_and_says_so(shell: Shell, genuine: Delivery) -> None:
    exit_code, said = ask(shell, replace(genuine, signature="garbage"))
    assert exit_code == 1
    assert "none of the 2 keys at hand" in said
    found = document(shell, replace(genuine, body=b'{"never": "seen"}'))
    assert (found["changes"], found["digest"]) == ([], "sha256")
    said = ask(shell, replace(genuine, body=b'{"never": "seen"}'))[1]
    assert "contents were tried, and none is what was signed" in said


@pytest.mark.parametrize(
    "body",
    [
        token_created("state", "SECRET").body(),
        b'{"acc\\u0065ssToken": "SECRET", "SECRET": 1}',
        b'{"userLoginId": ["SECRET", {"deep": "SECRET"}], "n": 4711}',
        b'{"accessToken": "SECRET"',
        b"accessToken=SECRET",
        base64.b64encode(b'{"accessToken": "SECRET"}'),
    ],
)
@pytest.mark.parametrize("change", [b"\n", b"?"])
def test_no_secret_is_shown(shell: Shell, body: bytes, change: bytes) -> None:
    signed = a_genuine_delivery(shell.keyring_path, body, uri=f"{DEFAULT_NOTIFY_PATH}?token=SECRET")
    arrived = replace(signed, body=body + change, uri=f"{DEFAULT_NOTIFY_PATH}?access_token=SECRET&a=1")
    exit_code, said = ask(shell, arrived)
    assert exit_code == 1
    for secret in ("SECRET", "4711", base64.b64encode(b'{"accessToken').decode()[:12]):
        assert secret not in said


def test_what_helps_to_compare_is_shown() -> None:
    head = b"POST /a?tenant=1&token=x\nC.1."
    body = '{"authorizationNotifyType": "TOKEN_CANCELED", "accessToken":"t", "result": {"resultStatus":"S"}, "n":1}'
    assert masked_content(head + body.encode(), len(head)) == (
        "POST /a?tenant=1&token=***\nC.1."
        '{"authorizationNotifyType": "TOKEN_CANCELED", "accessToken":"***", "result": {"resultStatus":"S"}, "n":***}'
    )


@pytest.mark.parametrize(
    ("raw", "problem"),
    [(b"no request", "This is not a raw HTTP request"), (b"x" * 200_000, "The body of a notification has at most")],
)
def test_a_file_that_is_no_request_is_named(shell: Shell, raw: bytes, problem: str) -> None:
    exit_code, said = ask(shell, raw)
    assert exit_code == 2
    assert problem in said


def test_a_registered_url_that_is_none_is_refused(shell: Shell, genuine: Delivery) -> None:
    exit_code, said = ask(shell, genuine, "--registered-url", "merchant.example")
    assert exit_code == 2
    assert "must begin with https://" in said


def test_a_certificate_in_the_place_of_a_key_is_named_with_its_remedy(database_url: str, tmp_path: Path) -> None:
    keyring = tmp_path / "keyring.toml"
    certificate = certificate_of(rsa.generate_private_key(65537, 2048))
    keyring.write_text(f'[clients.C.alipay_public_keys]\n1 = """{certificate}"""\n', encoding="utf-8")
    shell = Shell(create_app(an_environ(database_url, keyring)), keyring)
    exit_code, said = ask(shell, b"POST / HTTP/1.1\r\n\r\n")
    shell.service.database.close()
    assert exit_code == 2
    assert "is a certificate; take its key out with openssl x509 -pubkey -noout" in said
