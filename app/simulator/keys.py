"""Make the keys of a sandbox: the simulator's, the merchant's, and the keyring with which the service knows them."""

import json
import os
import re
import tempfile
from base64 import b64encode
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

SANDBOX_CLIENT_ID = "SANDBOX_5Y00000000000000"

#: Where the pretend Alipay keeps the private key that the real one never shows.
SIMULATOR_KEY_NAME = "simulator.pem"
MERCHANT_KEY_NAME = "merchant.pem"

#: What Alipay uses.
_KEY_BITS = 2048
_PUBLIC_EXPONENT = 65537

_KEYRING = """\
# A sandbox: anyone with {simulator_key} can sign as Alipay. Never use it in production.
[clients.{client_id}]
default_flow = "auto_debit"
merchant_private_key = "file:{merchant_key}"
{gateway}
[clients.{client_id}.alipay_public_keys]
1 = "{alipay_public_key}"
"""


class KeysExistError(Exception):
    """A file that would be written is there already. It is left alone, and so is everything else."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} exists, and keys are never overwritten. Make them in another folder with --dir, "
            "or move the old ones away first."
        )


def make_sandbox(keyring_path: Path, *, client_id: str = SANDBOX_CLIENT_ID, gateway: str | None = None) -> None:
    """Make both pairs, and write the keyring with the two private keys beside it.

    The keyring is written last: where it is, all of it is. With a gateway the service makes the calls of the client
    itself, to that address.

    Raises `KeysExistError` if one of the three files exists. Nothing that exists is changed.
    """
    simulator_path = keyring_path.with_name(SIMULATOR_KEY_NAME)
    merchant_path = keyring_path.with_name(MERCHANT_KEY_NAME)
    for path in (keyring_path, simulator_path, merchant_path):
        if path.exists():
            raise KeysExistError(path)
    alipay_key = rsa.generate_private_key(_PUBLIC_EXPONENT, _KEY_BITS)
    merchant_key = rsa.generate_private_key(_PUBLIC_EXPONENT, _KEY_BITS)
    keyring = _KEYRING.format(
        client_id=_toml_key(client_id),
        simulator_key=SIMULATOR_KEY_NAME,
        merchant_key=MERCHANT_KEY_NAME,
        alipay_public_key=_public_text(alipay_key),
        gateway="" if gateway is None else f"gateway = {json.dumps(gateway)}\n",
    )
    # It will hold private keys, and often the vault key too.
    keyring_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_once(simulator_path, _private_pem(alipay_key))
    _write_once(merchant_path, _private_pem(merchant_key))
    _write_once(keyring_path, keyring.encode())


def is_gateway_url(url: str) -> bool:
    """Say whether an address can be that of a gateway: one of an origin, and in the clear only on this machine."""
    try:
        address = urlsplit(url)
        has_rest = bool(address.path.strip("/") or address.query or address.fragment or address.username)
        is_private = address.scheme == "https" or (
            address.scheme == "http" and address.hostname in {"127.0.0.1", "localhost", "::1"}
        )
    except ValueError:
        return False
    return bool(address.hostname) and is_private and not has_rest and url.isascii() and url.isprintable()


def _toml_key(name: str) -> str:
    """Write a name as a key of TOML: bare where that is allowed, else quoted, as in JSON."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _public_text(key: rsa.RSAPrivateKey) -> str:
    """Give the public half as Alipay shows it: base64 of SubjectPublicKeyInfo DER, without PEM lines."""
    return b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def _private_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write_once(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, readable by its owner only, and never over another."""
    # A temporary file is private from the start; a link to it appears whole, and refuses to replace.
    with tempfile.NamedTemporaryFile(dir=path.parent) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        try:
            path.hardlink_to(file.name)
        except FileExistsError:
            raise KeysExistError(path) from None
