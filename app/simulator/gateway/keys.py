"""The keys of a pretend gateway: for each client the key that signs answers and the key that callers sign with."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from app.alipay.keyring import DEFAULT_FLOW, Client, Keyring


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What the gateway knows of one client: the service's keyring, seen from the other side."""

    client_id: str
    #: Signs answers and notifications.
    alipay_key: RSAPrivateKey = field(repr=False)
    #: Under which version the service knows the public half of it.
    key_version: int
    #: Verifies calls.
    merchant_key: RSAPublicKey = field(repr=False)


def client_keys(keyring: Keyring, alipay_key: RSAPrivateKey) -> Mapping[str, ClientKeys]:
    """Give the keys of every client that a gateway with this private key can serve.

    A client is left out if the service could not verify an answer to it, or if nobody signs calls for it.
    """
    return {
        client_id: ClientKeys(client_id, alipay_key, version, client.merchant_private_key.public_key())
        for client_id, client in keyring.clients.items()
        for version in _versions(client, alipay_key)
        if client.merchant_private_key is not None
    }


def why_left_out(client: Client) -> str:
    """Say why a client is not among those of `client_keys`."""
    if client.merchant_private_key is None:
        return "it has no merchant_private_key, so nobody can sign a call for it"
    return "none of its Alipay public keys belongs to the private key of this gateway"


def callers(keys: Mapping[str, ClientKeys]) -> Keyring:
    """Make the keyring with which calls are verified as notifications are at the other end."""
    return Keyring(
        {each.client_id: Client(each.client_id, DEFAULT_FLOW, {1: (each.merchant_key,)}) for each in keys.values()}
    )


def _versions(client: Client, alipay_key: RSAPrivateKey) -> list[int]:
    """Give the newest version under which the client has the public half, in a list; an empty one if there is none."""
    public_key = alipay_key.public_key()
    return [max(found)] if (found := [v for v, keys in client.alipay_public_keys.items() if public_key in keys]) else []
