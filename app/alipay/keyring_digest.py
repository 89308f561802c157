"""The digest of a keyring: equal on two machines where their keyrings say the same, however the files are written."""

import hashlib
import json
from dataclasses import asdict

from app.alipay.keyring import Client, Keyring, fingerprint

#: Sixty-four bits: two keyrings of one operator never share a digest, and a person can compare it by eye.
_DIGEST_CHARACTERS = 16


def keyring_digest(keyring: Keyring) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of all that a keyring says.

    Nothing secret goes into it: of the merchant's private key only the fingerprint of its public half.
    """
    said = {client_id: _said(client) for client_id, client in keyring.clients.items()}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:_DIGEST_CHARACTERS]


def _said(client: Client) -> dict[str, object]:
    own = client.merchant_private_key
    return {
        "default_flow": client.default_flow,
        # Any key of a version may have signed, so their order says nothing.
        "alipay_public_keys": {
            version: sorted({fingerprint(key) for key in keys}) for version, keys in client.alipay_public_keys.items()
        },
        "merchant_public_key": None if own is None else fingerprint(own.public_key()),
        "gateway": None if client.gateway is None else asdict(client.gateway),
    }
