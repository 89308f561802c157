"""Two keyrings have one digest where they say the same, and two where they do not."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from app.alipay.keyring import Keyring
from app.alipay.keyring_digest import keyring_digest
from tests.builders import CLIENT_ID
from tests.unit.alipay.key_text import private_text, public_text

GATEWAY = "https://gateway.example"


@pytest.fixture
def folder(
    tmp_path: Path, alipay_key: RSAPrivateKey, newer_alipay_key: RSAPrivateKey, merchant_key: RSAPrivateKey
) -> Path:
    """Key files, for keyrings to name."""
    (tmp_path / "old.pem").write_text(public_text(alipay_key, Encoding.PEM))
    (tmp_path / "new.pem").write_text(public_text(newer_alipay_key, Encoding.PEM))
    (tmp_path / "merchant.pem").write_text(private_text(merchant_key, Encoding.PEM))
    return tmp_path


def digest(folder: Path, settings: str = "", *, keys: str = '1 = "file:old.pem"', client: str = CLIENT_ID) -> str:
    path = folder / "keyring.toml"
    path.write_text(f"[clients.{client}]\n{settings}\n[clients.{client}.alipay_public_keys]\n{keys}\n")
    return keyring_digest(Keyring.load(path))


def test_a_digest_says_what_is_in_the_keyring_and_not_how_it_is_written(
    folder: Path, alipay_key: RSAPrivateKey
) -> None:
    assert digest(folder) == digest(folder, 'default_flow = "auto_debit"', keys=f'1 = "{public_text(alipay_key)}"')
    assert digest(folder, keys='1 = ["file:old.pem", "file:new.pem"]\n2 = "file:new.pem"') == digest(
        folder, keys='2 = "file:new.pem"\n1 = ["file:new.pem", "file:old.pem"]'
    )


def test_every_setting_makes_another_digest(folder: Path) -> None:
    own = 'merchant_private_key = "file:merchant.pem"\n'
    digests = [
        digest(folder),
        digest(folder, client=f"{CLIENT_ID}2"),
        digest(folder, 'default_flow = "direct"'),
        digest(folder, keys='2 = "file:old.pem"'),
        digest(folder, keys='1 = "file:new.pem"'),
        digest(folder, keys='1 = "file:old.pem"\n2 = "file:new.pem"'),
        digest(folder, own),
        digest(folder, f'{own}gateway = "{GATEWAY}"'),
        digest(folder, f'{own}gateway = "{GATEWAY}:8443"'),
        digest(folder, f'{own}gateway = "{GATEWAY}"\nexchange = false'),
        digest(folder, f'{own}gateway = "{GATEWAY}"\nrefresh = false'),
    ]
    assert len(set(digests)) == len(digests)


def test_a_digest_is_short_enough_to_be_compared_by_eye(folder: Path) -> None:
    assert len(digest(folder)) == len("0123456789abcdef")
    assert int(digest(folder), 16) >= 0
