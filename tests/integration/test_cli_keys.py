"""`flask keys`: fingerprints instead of keys, and a vault key changed while the service works."""

import base64
from dataclasses import replace
from pathlib import Path

import pytest

from app import create_app
from app.alipay.keyring import Keyring, fingerprint, load_private_key
from app.alipay.keyring_digest import keyring_digest
from app.config import DEFAULT_NOTIFY_PATH, VAULT_KEY_BYTES, new_vault_key
from app.simulator.draft import authcode_created
from app.simulator.keys import SANDBOX_CLIENT_ID, make_sandbox
from app.simulator.sender import Signer
from app.wiring import Service
from tests.builders import an_environ
from tests.integration.shell import Shell


def restart(shell: Shell, *vault_keys: bytes) -> None:
    """Let the service begin anew with other vault keys."""
    settings = replace(shell.service.settings, vault_keys=vault_keys)
    shell.service.database.close()
    shell.app.extensions["notifyauth"] = Service(settings)


def test_show_gives_fingerprints_and_never_a_key(shell: Shell) -> None:
    (client,) = Keyring.load(shell.keyring_path).clients.values()
    document = shell.json("keys", "show")
    assert document == {
        "keyringDigest": keyring_digest(shell.service.keyring),
        "clients": [
            {
                "clientId": SANDBOX_CLIENT_ID,
                "defaultFlow": "auto_debit",
                "alipayPublicKeys": [
                    {"version": 1, "fingerprint": fingerprint(client.keys_of_version(1)[0]), "newest": True}
                ],
                "signsAcknowledgements": True,
                "gateway": None,
            }
        ],
        "vaultKeys": [{"id": shell.service.sealer.key_ids[0], "seals": True}],
    }
    shown = shell.ask("keys", "show")
    assert fingerprint(client.keys_of_version(1)[0]) in shown
    assert document["keyringDigest"] in shown
    assert "PRIVATE" not in shown
    assert "MII" not in shown


def test_show_marks_the_newest_key_and_needs_no_database(keyring_path: Path, tmp_path: Path) -> None:
    path = keyring_path.with_name("rotated.toml")
    first = next(line for line in keyring_path.read_text().splitlines() if line.startswith("1 ="))
    path.write_text(f"{keyring_path.read_text()}10 = {first.removeprefix('1 = ')}\n2 = {first.removeprefix('1 = ')}\n")
    shell = Shell(create_app(an_environ(f"sqlite:///{tmp_path}/none/none.db", path)), keyring_path)
    (client,) = shell.json("keys", "show")["clients"]
    assert [(key["version"], key["newest"]) for key in client["alipayPublicKeys"]] == [
        (1, False),
        (2, False),
        (10, True),
    ]


@pytest.mark.parametrize(
    ("settings", "calls"),
    [
        ("", ", codes are exchanged, tokens are refreshed"),
        ("refresh = false", ", codes are exchanged"),
        ("exchange = false\nrefresh = false", ""),
    ],
)
def test_show_says_where_the_calls_of_a_client_go(
    keyring_path: Path, tmp_path: Path, settings: str, calls: str
) -> None:
    path = keyring_path.with_name("calling.toml")
    gateway = f'default_flow = "direct"\ngateway = "https://gateway.example"\n{settings}'
    path.write_text(keyring_path.read_text().replace('default_flow = "auto_debit"', gateway))
    shell = Shell(create_app(an_environ(f"sqlite:///{tmp_path}/none/none.db", path)), keyring_path)
    (client,) = shell.json("keys", "show")["clients"]
    assert client["gateway"] == {
        "url": "https://gateway.example",
        "exchange": "exchange" not in settings,
        "refresh": "refresh" not in settings,
    }
    assert f"made to https://gateway.example{calls}\n" in shell.ask("keys", "show")


def test_a_new_vault_key_is_one_line_and_another_each_time(shell: Shell) -> None:
    keys = {shell.ask("keys", "new-vault-key") for _ in range(2)}
    assert len(keys) == 2
    assert all(len(base64.b64decode(key)) == VAULT_KEY_BYTES for key in keys)


def test_reseal_makes_the_old_vault_key_needless(shell: Shell) -> None:
    shell.ask("authorizations", "consult", "s-1")
    shell.notify(authcode_created("s-1", "code-1"))
    old_keys, new_key = shell.service.settings.vault_keys, base64.b64decode(new_vault_key())
    (old_id,) = shell.service.sealer.key_ids

    restart(shell, new_key, *old_keys)
    said = shell.ask("keys", "reseal")
    # The code, the body and the index key.
    assert "Sealed 3 again" in said
    assert f"No longer needed, once every process of the service has the new FLASK_VAULT_KEYS: {old_id}." in said
    assert "Sealed 0 again" in shell.ask("keys", "reseal")

    restart(shell, new_key)
    shell.notify(authcode_created("s-1", "code-1"))
    assert shell.json("inbox", "show", "1")["deliveries"] == 2


def test_reseal_says_which_key_is_missing(shell: Shell) -> None:
    shell.notify(authcode_created("s-1", "code-1"))
    restart(shell, base64.b64decode(new_vault_key()))
    result = shell.run("keys", "reseal")
    assert result.exit_code == 2
    assert "FLASK_VAULT_KEYS does not open this database." in result.stderr


def test_every_key_of_a_list_is_shown_and_verifies_as_version_0_too(
    database_url: str, keyring_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "keyring.toml"
    make_sandbox(path)
    own = next(line for line in path.read_text().splitlines() if line.startswith("1 =")).removeprefix("1 = ")
    other = next(line for line in keyring_path.read_text().splitlines() if line.startswith("1 =")).removeprefix("1 = ")
    path.write_text(path.read_text().replace(f"1 = {own}", f"0 = [{other}, {own}]"))
    shell = Shell(create_app(an_environ(database_url, path)), path)
    (client,) = shell.json("keys", "show")["clients"]
    assert [(key["version"], key["newest"]) for key in client["alipayPublicKeys"]] == [(0, True), (0, True)]
    assert len({key["fingerprint"] for key in client["alipayPublicKeys"]}) == 2
    signer = Signer(SANDBOX_CLIENT_ID, load_private_key(path.with_name("simulator.pem").read_bytes()), 0)
    body = authcode_created("s-1", "code-1").body()
    delivery = signer.sign(body, uri=DEFAULT_NOTIFY_PATH, request_time="1")
    assert shell.receiver.receive(delivery).answer.status == 200
    assert "key version    0\n" in shell.ask("inbox", "show", "1")
    assert shell.json("inbox", "show", "1")["keyVersion"] == 0
    shell.service.database.close()
