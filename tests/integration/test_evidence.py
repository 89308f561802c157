"""What proves a move: somebody who has neither the service nor its keys verifies it with OpenSSL."""

import base64
import hashlib
import json
import shlex
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app import create_app
from app.simulator.draft import authcode_created, token_canceled, token_created
from tests.builders import an_environ
from tests.integration.http_client import API_KEY, AUTHORIZATIONS, HttpClient, problem
from tests.integration.shell import Shell

REASON = "Bye, said Zoë"


def canceled(http: HttpClient) -> dict[str, Any]:
    document = http.consult("s-1", userRef="u-1")
    http.notify(authcode_created("s-1", "code-1"))
    http.notify(token_created("s-1", "token-1"))
    http.notify(token_canceled("token-1", REASON))
    return document


def verify(command: str, folder: Path, proof: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Write the three files, and run the line as it is told."""
    (folder / "key.pem").write_text(proof["keyPem"])
    (folder / "sig.bin").write_bytes(base64.b64decode(proof["signatureBase64"]))
    (folder / "signed.txt").write_bytes(base64.b64decode(proof["signedBase64"]))
    return subprocess.run(shlex.split(command), cwd=folder, capture_output=True, text=True, check=False)


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="it is OpenSSL that verifies here")


@needs_openssl
def test_every_notified_move_is_verified_by_the_very_line_that_is_told(http: HttpClient, tmp_path: Path) -> None:
    found = http.get(http.at(canceled(http), "evidence"))
    assert found.headers["Cache-Control"] == "no-store"
    evidence = found.get_json()
    assert evidence["verify"] == "openssl dgst -sha256 -verify key.pem -signature sig.bin signed.txt"
    proofs = [move["notification"] for move in evidence["moves"] if move["notification"]]
    assert [each["type"] for each in proofs] == ["AUTHCODE_CREATED", "TOKEN_CREATED", "TOKEN_CANCELED"]
    for proof in proofs:
        told = verify(evidence["verify"], tmp_path, proof)
        assert (told.returncode, told.stdout) == (0, "Verified OK\n")
    (tmp_path / "signed.txt").write_bytes(base64.b64decode(proofs[-1]["signedBase64"]).replace(b"token-1", b"token-2"))
    forged = subprocess.run(shlex.split(evidence["verify"]), cwd=tmp_path, capture_output=True, check=False)
    assert forged.returncode == 1


def test_evidence_has_all_that_was_received_and_when(http: HttpClient) -> None:
    evidence = http.get(http.at(canceled(http), "evidence")).get_json()
    consult, *_, last = evidence["moves"]
    assert (consult["cause"], consult["by"], consult["notification"]) == ("api", "shop", None)
    proof = last["notification"]
    assert json.loads(proof["body"])["reason"] == REASON
    assert base64.b64decode(proof["bodyBase64"]).decode() == proof["body"]
    headers = proof["headers"]
    assert headers["request-time"] == "1685599933871"
    assert proof["requestedAt"] == "2023-06-01T06:12:13.871Z"
    head = f"POST {proof['uri']}\n{headers['client-id']}.{headers['request-time']}."
    assert proof["signed"] == head + proof["body"]
    key = http.service.keyring.client(headers["client-id"]).alipay_public_keys[1][0]
    der = base64.b64decode("".join(proof["keyPem"].splitlines()[1:-1]))
    digest = base64.b64encode(hashlib.sha256(der).digest()).decode().rstrip("=")
    assert proof["keyFingerprint"] == f"SHA256:{digest}"
    assert (proof["keyVersion"], key.key_size) == (1, 2048)
    assert (evidence["cancellation"]["walletReason"], evidence["cancellation"]["merchantReason"]) == (REASON, None)


def test_what_the_merchant_said_is_there_too(http: HttpClient) -> None:
    document = http.consult("s-1")
    http.notify(authcode_created("s-1", "code-1"))
    http.notify(token_created("s-1", "token-1"))
    http.post(http.at(document, "canceled"), {"reason": REASON})
    cancellation = http.get(http.at(document, "evidence")).get_json()["cancellation"]
    assert (cancellation["cause"], cancellation["by"], cancellation["merchantReason"]) == ("api", "shop", REASON)
    assert REASON not in http.get(http.at(document)).text


def test_evidence_of_what_was_purged_says_so_and_the_history_stays(shell: Shell) -> None:
    shell.activate("s-1")
    canceled_by = shell.notify(token_canceled("token of s-1", REASON))
    before = shell.json("authorizations", "evidence", "s-1", "--reveal")
    long_ago = datetime.now(UTC) - timedelta(days=100)
    for entry in range(1, int(canceled_by) + 1):
        shell.change_entry(str(entry), received_at=long_ago, last_received_at=long_ago)
    shell.ask("inbox", "purge", "--older-than", "90d", "--yes")
    after = shell.json("authorizations", "evidence", "s-1", "--reveal")
    for move, was in zip(after["moves"], before["moves"], strict=True):
        assert {**move, "notification": None} == {**was, "notification": None}
    last = after["moves"][-1]
    assert last["notification"] == {"id": canceled_by, "isPurged": True, "isErased": False}
    assert (last["cause"], last["learnedAt"] is not None, last["at"] is not None) == ("notification", True, True)
    assert (after["cancellation"]["isPurged"], after["cancellation"]["walletReason"]) == (True, None)
    assert "purged: the history above is what is left" in shell.ask("authorizations", "evidence", "s-1")


def test_the_shell_shows_no_secret_unless_it_is_asked_to(shell: Shell) -> None:
    shell.activate("s-1")
    shell.notify(token_canceled("token of s-1", REASON))
    for arguments in ((), ("--json",)):
        masked = shell.ask("authorizations", "evidence", "s-1", *arguments)
        assert "token of s-1" not in masked
        assert "Bye" not in masked
    assert "2023-06-01T06:12:13Z" in shell.ask("authorizations", "evidence", "s-1")
    assert "token of s-1" in shell.ask("authorizations", "evidence", "s-1", "--reveal")


@needs_openssl
def test_the_files_are_verified_where_they_were_written(shell: Shell, tmp_path: Path) -> None:
    shell.activate("s-1")
    folder = tmp_path / "evidence"
    told = shell.ask("authorizations", "evidence", "s-1", "--output", str(folder))
    line = told.splitlines()[-1].strip()
    moves = sorted(each for each in folder.iterdir() if each.is_dir())
    assert [each.name for each in moves] == ["02-authcode_created", "03-token_created"]
    for move in moves:
        run = subprocess.run(shlex.split(line), cwd=move, capture_output=True, text=True, check=True)
        assert run.stdout == "Verified OK\n"
        assert (move / "signed.txt").read_bytes().endswith((move / "body.json").read_bytes())
        assert {each.stat().st_mode & 0o077 for each in (folder, move, *move.iterdir())} == {0}
    assert json.loads((folder / "evidence.json").read_text())["moves"][1]["event"] == "authcode_created"
    again = shell.run("authorizations", "evidence", "s-1", "--output", str(folder))
    assert (again.exit_code, "is there already" in again.stderr) == (1, True)


@pytest.fixture
def guarded(database_url: str, keyring_path: Path) -> Flask:
    """A service where one key may read tokens, and another may not."""
    environ = an_environ(
        database_url, keyring_path, FLASK_API_KEYS=f"shop={API_KEY}", FLASK_TOKEN_KEYS="support=other-key"
    )
    return create_app(environ)


def test_evidence_and_reasons_are_for_token_keys_only(guarded: Flask, keyring_path: Path) -> None:
    http = HttpClient(guarded, keyring_path)
    document = canceled(http)
    for path in (http.at(document, "evidence"), f"{AUTHORIZATIONS}?state=canceled&reasons=true"):
        assert problem(http.get(path)) == (403, "forbidden")
        assert problem(http.get(path, key=None)) == (401, "unauthorized")
        assert http.get(path, key="other-key").status_code == 200
    assert REASON not in http.get(f"{AUTHORIZATIONS}?state=canceled").text
    http.service.database.close()


def test_the_signed_string_is_shown_in_the_characters_of_the_wallet(shell: Shell) -> None:
    shell.ask("authorizations", "consult", "s-1")
    shell.notify(authcode_created("s-1", "code"))
    shell.notify(token_created("s-1", "token"))
    shell.notify(token_canceled("token", "\u592a\u8d35"))
    shown = shell.ask("authorizations", "evidence", "s-1", "--reveal")
    assert '"\u592a\u8d35"' in shown.partition("walletReason")[0]
