"""`flask inbox deliver`: a raw HTTP request is verified, stored and processed like any other."""

from dataclasses import replace
from pathlib import Path

import pytest

from app import create_app
from app.alipay.delivery import BODY_BYTES_MAX
from app.config import DEFAULT_NOTIFY_PATH
from app.simulator.draft import authcode_created, token_canceled
from tests.builders import a_genuine_delivery, a_raw_request, an_environ
from tests.integration.shell import Shell


def deliver(shell: Shell, raw: bytes) -> tuple[int, str]:
    result = shell.run("inbox", "deliver", "-", stdin=raw)
    return result.exit_code, result.output


def test_a_delivered_file_is_acknowledged_and_processed(shell: Shell, tmp_path: Path) -> None:
    shell.consult()
    file = tmp_path / "request.http"
    file.write_bytes(a_raw_request(a_genuine_delivery(shell.keyring_path, authcode_created("s-1", "code-1"))))
    said = shell.ask("inbox", "deliver", str(file))
    assert [line.split(maxsplit=1) for line in said.splitlines()] == [
        ["status", "200 OK"],
        ["result", "S SUCCESS"],
        ["entry", "1"],
        ["outcome", "applied"],
    ]
    assert shell.json("authorizations", "show", "s-1")["state"] == "authcode_issued"


def test_a_forged_file_is_refused_and_not_stored(shell: Shell) -> None:
    genuine = a_genuine_delivery(shell.keyring_path, token_canceled("token-1"))
    forged = a_raw_request(replace(genuine, body=token_canceled("token-2").body()))
    exit_code, said = deliver(shell, forged)
    assert exit_code == 1
    assert "401 Unauthorized" in said
    assert "INVALID_SIGNATURE" in said
    assert shell.json("inbox", "list") == []


def test_a_malformed_file_is_stored_and_not_acknowledged(shell: Shell) -> None:
    exit_code, said = deliver(shell, a_raw_request(a_genuine_delivery(shell.keyring_path, b"{}")))
    assert exit_code == 1
    assert "400 Bad Request" in said
    assert "authorizationNotifyType: missing" in said
    assert shell.json("inbox", "show", "1")["outcome"] == "malformed"


@pytest.mark.parametrize("query", ["", "?tenant=1"])
def test_a_file_from_behind_the_proxy_is_verified_over_the_public_path(
    database_url: str, keyring_path: Path, query: str
) -> None:
    environ = an_environ(database_url, keyring_path, FLASK_PUBLIC_NOTIFY_PATH="/public/notify")
    shell = Shell(create_app(environ), keyring_path)
    delivery = a_genuine_delivery(keyring_path, token_canceled("token-1"), uri=f"/public/notify{query}")
    seen = replace(delivery, uri=f"{DEFAULT_NOTIFY_PATH}{query}")
    assert deliver(shell, a_raw_request(delivery))[0] == 0
    assert deliver(shell, a_raw_request(seen))[0] == 0
    assert shell.json("inbox", "show", "1")["deliveries"] == 2
    shell.service.database.close()


def test_a_file_that_the_endpoint_would_refuse_is_refused(shell: Shell) -> None:
    genuine = a_genuine_delivery(shell.keyring_path, token_canceled("token-1"))
    too_large = a_genuine_delivery(shell.keyring_path, b" " * (BODY_BYTES_MAX + 1))
    elsewhere = a_genuine_delivery(shell.keyring_path, token_canceled("token-1"), uri=DEFAULT_NOTIFY_PATH + "/")
    refused = {
        a_raw_request(elsewhere): "404 Not Found",
        a_raw_request(genuine, method="PUT"): "405 Method Not Allowed",
        a_raw_request(too_large): "413 Request Entity Too Large",
        a_raw_request(genuine) + b" " * 10 * BODY_BYTES_MAX: "413 Request Entity Too Large",
        b"nonsense": "not a raw HTTP request",
        b"": "not a raw HTTP request",
    }
    for raw, sentence in refused.items():
        exit_code, said = deliver(shell, raw)
        assert exit_code == 1
        assert sentence in said
    assert shell.json("inbox", "list") == []


def test_a_file_that_is_not_there_is_a_usage_error(shell: Shell) -> None:
    assert shell.run("inbox", "deliver", "nowhere.http").exit_code == 2
