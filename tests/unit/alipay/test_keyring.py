"""A keyring is read once and whole, or refused with one sentence that says what to do."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
)

from app.alipay.keyring import (
    KeyNotFoundError,
    Keyring,
    KeyringError,
    UnknownClientError,
)
from tests.builders import CLIENT_ID
from tests.unit.alipay.key_text import private_text, public_text


class Folder:
    """Where a keyring and its key files are written."""

    def __init__(self, path: Path) -> None:
        self.keyring_path = path / "keyring.toml"

    def load(self, text: str) -> Keyring:
        self.keyring_path.write_text(text, "utf-8")
        return Keyring.load(self.keyring_path)

    def refusal(self, text: str) -> str:
        """Return the sentence, without the path it begins with."""
        with pytest.raises(KeyringError) as refusal:
            self.load(text)
        sentence = str(refusal.value)
        assert sentence == f"{refusal.value.where} {refusal.value.problem}; {refusal.value.remedy}."
        assert sentence.startswith(str(self.keyring_path))
        return sentence.removeprefix(str(self.keyring_path)).strip(": ")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def a_client(public_keys: str, settings: str = "") -> str:
    return f"[clients.{CLIENT_ID}]\n{settings}\n[clients.{CLIENT_ID}.alipay_public_keys]\n{public_keys}\n"


class TestLoading:
    def test_reads_clients_versions_and_files_beside_the_keyring(
        self, folder: Folder, alipay_key: RSAPrivateKey, newer_alipay_key: RSAPrivateKey, merchant_key: RSAPrivateKey
    ) -> None:
        (folder.keyring_path.parent / "merchant.pem").write_text(private_text(merchant_key, Encoding.PEM))
        (folder.keyring_path.parent / "alipay-10.pem").write_text(public_text(newer_alipay_key, Encoding.PEM))
        keyring = folder.load(
            a_client(
                f'9 = "{public_text(alipay_key)}"\n10 = "file:alipay-10.pem"',
                'default_flow = "direct"\nmerchant_private_key = "file:merchant.pem"',
            )
        )
        client = keyring.client(CLIENT_ID)
        assert client.default_flow == "direct"
        assert client.merchant_private_key is not None
        assert client.merchant_private_key.public_key() == merchant_key.public_key()
        assert client.keys_of_version(9) == (alipay_key.public_key(),)
        assert client.keys_of_version(10) == (newer_alipay_key.public_key(),)
        assert client.keys_of_version(None) == (newer_alipay_key.public_key(),)

    def test_reads_several_keys_of_one_version_and_version_0(
        self, folder: Folder, alipay_key: RSAPrivateKey, newer_alipay_key: RSAPrivateKey
    ) -> None:
        keys = f'0 = ["{public_text(alipay_key)}", "{public_text(newer_alipay_key)}"]'
        client = folder.load(a_client(keys)).client(CLIENT_ID)
        both = (alipay_key.public_key(), newer_alipay_key.public_key())
        assert client.keys_of_version(0) == client.keys_of_version(None) == both

    @pytest.mark.parametrize("written", [" file:alipay.pem", "file:alipay.pem\\r", "\\nfile:alipay.pem \\n"])
    def test_reads_a_file_whatever_blanks_stand_around_its_name(
        self, folder: Folder, alipay_key: RSAPrivateKey, written: str
    ) -> None:
        (folder.keyring_path.parent / "alipay.pem").write_text(public_text(alipay_key, Encoding.PEM))
        client = folder.load(a_client(f'1 = "{written}"')).client(CLIENT_ID)
        assert client.keys_of_version(1) == (alipay_key.public_key(),)

    def test_takes_a_private_key_and_a_flow_as_optional(self, folder: Folder, alipay_key: RSAPrivateKey) -> None:
        client = folder.load(a_client(f"1 = '''\n{public_text(alipay_key, Encoding.PEM)}'''")).client(CLIENT_ID)
        assert client.default_flow == "auto_debit"
        assert client.merchant_private_key is None

    def test_takes_a_file_elsewhere_by_its_whole_path(
        self, folder: Folder, alipay_key: RSAPrivateKey, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        key_file = tmp_path_factory.mktemp("elsewhere") / "alipay.txt"
        key_file.write_text(public_text(alipay_key))
        folder.load(a_client(f"1 = {json.dumps(f'file:{key_file}')}"))

    def test_passes_over_the_byte_order_mark_of_an_editor(self, folder: Folder, alipay_key: RSAPrivateKey) -> None:
        keyring = folder.load("\ufeff" + a_client(f'1 = "{public_text(alipay_key)}"'))
        assert list(keyring.clients) == [CLIENT_ID]

    def test_happens_once(self, folder: Folder, alipay_key: RSAPrivateKey) -> None:
        keyring = folder.load(a_client(f'1 = "{public_text(alipay_key)}"'))
        folder.keyring_path.unlink()
        assert keyring.client(CLIENT_ID).keys_of_version(1) == (alipay_key.public_key(),)

    def test_gives_an_immutable_keyring(self, folder: Folder, alipay_key: RSAPrivateKey) -> None:
        keyring = folder.load(a_client(f'1 = "{public_text(alipay_key)}"'))
        clients: Any = keyring.clients
        with pytest.raises(TypeError):
            clients[CLIENT_ID] = keyring.client(CLIENT_ID)


class TestLookingUp:
    def test_client_that_is_not_there_is_named(self, folder: Folder, alipay_key: RSAPrivateKey) -> None:
        keyring = folder.load(a_client(f'1 = "{public_text(alipay_key)}"'))
        with pytest.raises(UnknownClientError, match=r"no client 'a\\n' in the keyring") as refusal:
            keyring.client("a\n")
        assert refusal.value.client_id == "a\n"

    def test_version_that_is_not_there_is_named(self, folder: Folder, alipay_key: RSAPrivateKey) -> None:
        client = folder.load(a_client(f'1 = "{public_text(alipay_key)}"')).client(CLIENT_ID)
        with pytest.raises(KeyNotFoundError, match="no Alipay public key of version 2") as refusal:
            client.keys_of_version(2)
        assert (refusal.value.client_id, refusal.value.version) == (CLIENT_ID, 2)


class TestRefusal:
    def test_of_a_keyring_that_does_not_exist_says_where_to_point(self, folder: Folder) -> None:
        with pytest.raises(
            KeyringError, match="does not exist; create it, point FLASK_KEYRING at the one you have, or"
        ):
            Keyring.load(folder.keyring_path)

    def test_of_a_keyring_that_cannot_be_read_says_why(self, folder: Folder) -> None:
        folder.keyring_path.mkdir()
        with pytest.raises(KeyringError, match=r"keyring.toml cannot be read \(Is a directory\)"):
            Keyring.load(folder.keyring_path)

    def test_of_a_file_that_is_not_utf_8_says_so(self, folder: Folder) -> None:
        folder.keyring_path.write_bytes("# Schlüssel".encode("latin-1"))
        with pytest.raises(KeyringError, match="is not UTF-8; save it as UTF-8 text"):
            Keyring.load(folder.keyring_path)

    def test_of_a_file_that_is_not_toml_names_the_position_and_not_the_value(
        self, folder: Folder, merchant_key: RSAPrivateKey
    ) -> None:
        key = private_text(merchant_key)
        sentence = folder.refusal(a_client(f"1 = {key}"))
        assert "is not TOML" in sentence
        assert "line 4" in sentence
        assert key[:20] not in sentence

    @pytest.mark.parametrize("text", ["", "clients = 1", "[clients]"])
    def test_of_no_clients_says_what_to_add(self, folder: Folder, text: str) -> None:
        assert folder.refusal(text).startswith("names no client; add a table [clients.ID]")

    @pytest.mark.parametrize("client_id", ["Käufer", "a b", ""])
    def test_of_a_client_id_that_no_header_carries_says_so(self, folder: Folder, client_id: str) -> None:
        sentence = folder.refusal(f'[clients."{client_id}"]')
        assert sentence.startswith(f"client {client_id!a} has an id that no header can carry;")

    def test_of_a_client_that_is_no_table_shows_how_to_write_one(self, folder: Folder) -> None:
        sentence = folder.refusal("[clients]\nA = 1")
        assert sentence == "client A is not a table; write [clients.A] and its settings below."

    def test_of_an_unknown_setting_lists_the_known_ones(self, folder: Folder) -> None:
        sentence = folder.refusal('[clients.A]\nflow = "direct"')
        assert sentence.startswith("client A has an unknown setting flow;")
        assert "default_flow, merchant_private_key, alipay_public_keys" in sentence
        assert folder.refusal("keys = 1").startswith("has an unknown setting keys;")

    def test_of_a_key_pasted_where_a_name_belongs_does_not_show_it(
        self, folder: Folder, merchant_key: RSAPrivateKey
    ) -> None:
        key = private_text(merchant_key)
        for text in (f'[clients.A]\n"{key}" = 1', f'[clients."{key}"]', a_client(f'"{key}" = "1"')):
            sentence = folder.refusal(text)
            assert f"({len(key)} characters)" in sentence
            assert key[:20] not in sentence

    @pytest.mark.parametrize("flow", ['"auto-debit"', '"AUTO_DEBIT"', "1", '["direct"]'])
    def test_of_an_unknown_flow_names_the_two(self, folder: Folder, flow: str) -> None:
        sentence = folder.refusal(f"[clients.A]\ndefault_flow = {flow}")
        assert sentence == "client A has a default_flow that does not exist; write auto_debit or direct."

    @pytest.mark.parametrize("keys", ["", "alipay_public_keys = 1", "[clients.A.alipay_public_keys]"])
    def test_of_a_client_without_alipays_key_says_where_to_find_it(self, folder: Folder, keys: str) -> None:
        sentence = folder.refusal(f"[clients.A]\n{keys}")
        assert sentence.startswith("client A has no table alipay_public_keys, so nothing sent to it could be verified;")
        assert "Antom Dashboard" in sentence

    @pytest.mark.parametrize("version", ["00", "01", "v1", "-1", "1234567890", '"²"'])
    def test_of_a_version_that_keyversion_cannot_name_says_how_to_number(self, folder: Folder, version: str) -> None:
        sentence = folder.refusal(a_client(f'{version} = "x"'))
        assert "which is no version; number the keys 1, 2, 3 as keyVersion does." in sentence

    @pytest.mark.parametrize("value", ["1", '""', '"  "', "{}"])
    def test_of_a_key_that_is_no_text_shows_how_to_write_one(self, folder: Folder, value: str) -> None:
        sentence = folder.refusal(a_client(f"1 = {value}"))
        assert sentence.startswith(f"Alipay public key 1 of client {CLIENT_ID} is not a text;")

    def test_of_an_empty_list_of_keys_says_what_belongs_there(self, folder: Folder) -> None:
        sentence = folder.refusal(a_client("1 = []"))
        assert sentence.startswith(f"Alipay public key 1 of client {CLIENT_ID} is an empty list; copy the Antom public")

    def test_of_a_key_in_a_list_says_which_it_is(self, folder: Folder, alipay_key: RSAPrivateKey) -> None:
        sentence = folder.refusal(a_client(f'1 = ["{public_text(alipay_key)}", "nonsense"]'))
        assert sentence.startswith(f"Alipay public key 1 of client {CLIENT_ID} (2 of 2) holds no key")

    def test_of_the_merchants_own_public_key_in_a_list_too(
        self, folder: Folder, alipay_key: RSAPrivateKey, merchant_key: RSAPrivateKey
    ) -> None:
        keys = f'1 = ["{public_text(alipay_key)}", "{public_text(merchant_key)}"]'
        sentence = folder.refusal(a_client(keys, f'merchant_private_key = "{private_text(merchant_key)}"'))
        assert "(2 of 2) is the merchant's own public key" in sentence

    def test_of_a_missing_key_file_names_it(self, folder: Folder) -> None:
        sentence = folder.refusal(a_client('1 = "file:alipay-1.pem"'))
        assert f"is in a file that does not exist, {folder.keyring_path.parent / 'alipay-1.pem'};" in sentence

    @pytest.mark.parametrize(
        ("name", "reason"), [(".", "Is a directory"), ("a\\u0000b", "no file has such a name")], ids=["folder", "NUL"]
    )
    def test_of_a_key_file_that_cannot_be_read_says_why(self, folder: Folder, name: str, reason: str) -> None:
        sentence = folder.refusal(a_client(f'1 = "file:{name}"'))
        assert f"which cannot be read ({reason}); name a file the service's user may read." in sentence

    def test_of_the_merchants_own_public_key_says_which_to_copy(
        self, folder: Folder, merchant_key: RSAPrivateKey
    ) -> None:
        sentence = folder.refusal(
            a_client(f'1 = "{public_text(merchant_key)}"', f'merchant_private_key = "{private_text(merchant_key)}"')
        )
        assert sentence == (
            f"Alipay public key 1 of client {CLIENT_ID} is the merchant's own public key, the other half of "
            "merchant_private_key, not Alipay's; copy the Antom public key that Antom Dashboard shows under "
            "Developer > Key configuration."
        )

    def test_of_a_private_key_in_the_public_place_does_not_show_it(
        self, folder: Folder, merchant_key: RSAPrivateKey
    ) -> None:
        key = private_text(merchant_key)
        sentence = folder.refusal(a_client(f'1 = "{key}"'))
        assert sentence.startswith(f"Alipay public key 1 of client {CLIENT_ID} is a private key where a public one")
        assert key[:20] not in sentence

    def test_of_a_public_key_in_the_private_place_names_the_setting(
        self, folder: Folder, alipay_key: RSAPrivateKey
    ) -> None:
        key = public_text(alipay_key)
        sentence = folder.refusal(a_client(f'1 = "{key}"', f'merchant_private_key = "{key}"'))
        assert sentence.startswith(f"merchant_private_key of client {CLIENT_ID} is a public key where a private one")
