"""A sandbox is made once, whole, and never over something else."""

import stat
from pathlib import Path

import pytest

from app.alipay.keyring import Keyring, load_private_key
from app.simulator.keys import MERCHANT_KEY_NAME, SANDBOX_CLIENT_ID, SIMULATOR_KEY_NAME, KeysExistError, make_sandbox


def test_keyring_introduces_the_simulator_and_the_merchant(keyring_path: Path) -> None:
    client = Keyring.load(keyring_path).client(SANDBOX_CLIENT_ID)
    simulator = load_private_key(keyring_path.with_name(SIMULATOR_KEY_NAME).read_bytes())
    merchant = load_private_key(keyring_path.with_name(MERCHANT_KEY_NAME).read_bytes())
    assert client.keys_of_version(1)[0] == simulator.public_key()
    assert client.merchant_private_key is not None
    assert client.merchant_private_key.public_key() == merchant.public_key()
    assert simulator.public_key() != merchant.public_key()


def test_private_keys_are_for_their_owner_only(keyring_path: Path) -> None:
    for name in (SIMULATOR_KEY_NAME, MERCHANT_KEY_NAME):
        assert stat.S_IMODE(keyring_path.with_name(name).stat().st_mode) == 0o600


def test_a_sandbox_is_three_files_and_leaves_no_other_behind(tmp_path: Path) -> None:
    make_sandbox(tmp_path / "keyring.toml")
    assert {path.name for path in tmp_path.iterdir()} == {"keyring.toml", SIMULATOR_KEY_NAME, MERCHANT_KEY_NAME}


@pytest.mark.parametrize("name", ["keyring.toml", SIMULATOR_KEY_NAME, MERCHANT_KEY_NAME])
def test_existing_files_are_not_overwritten_and_none_is_added(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(KeysExistError, match=f"{name} exists.*--dir"):
        make_sandbox(tmp_path / "keyring.toml")
    assert (tmp_path / name).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("client_id", ["SANDBOX-2", "5Y.1", 'a"b\\c', "#"])
def test_keyring_names_any_client_that_a_header_can_carry(tmp_path: Path, client_id: str) -> None:
    make_sandbox(tmp_path / "new" / "keyring.toml", client_id=client_id)
    assert set(Keyring.load(tmp_path / "new" / "keyring.toml").clients) == {client_id}
