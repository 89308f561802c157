"""The keys at hand: those that a keyring believes, and the merchant's own, which sign by mistake."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from app.alipay.diagnosis.changes import Change
from app.alipay.keyring import DEFAULT_FLOW, Client, Keyring, fingerprint

SANDBOX_PREFIX = "SANDBOX_"


@dataclass(frozen=True, slots=True)
class KeyAtHand:
    """A public key, and whose it is: Alipay's of one version for one client, or that client's own."""

    client_id: str
    #: `None` for the merchant's own.
    version: int | None
    public_key: RSAPublicKey

    @property
    def is_own(self) -> bool:
        """Whether it is the merchant's own key, which signs answers and calls, never notifications."""
        return self.version is None

    @property
    def fingerprint(self) -> str:
        """Its fingerprint, as `flask keys show` prints it."""
        return fingerprint(self.public_key)


def keys_at_hand(keyring: Keyring) -> tuple[KeyAtHand, ...]:
    """List every key of a keyring, and the public halves of the merchant's own."""
    alipays = [
        KeyAtHand(client.client_id, version, key)
        for client in keyring.clients.values()
        for version, keys in client.alipay_public_keys.items()
        for key in keys
    ]
    own = [
        KeyAtHand(client.client_id, None, client.merchant_private_key.public_key())
        for client in keyring.clients.values()
        if client.merchant_private_key is not None
    ]
    return (*alipays, *own)


def keyring_of(keys: Iterable[KeyAtHand]) -> Keyring:
    """Put Alipay's keys into a keyring again, to verify by."""
    by_client: dict[str, dict[int, tuple[RSAPublicKey, ...]]] = {}
    for key in keys:
        if key.version is not None:
            versions = by_client.setdefault(key.client_id, {})
            versions[key.version] = (*versions.get(key.version, ()), key.public_key)
    return Keyring({client_id: Client(client_id, DEFAULT_FLOW, keys) for client_id, keys in by_client.items()})


def is_sandbox(client_id: str) -> bool:
    """Say whether a client id is one of the sandbox."""
    return client_id.startswith(SANDBOX_PREFIX)


def signer_among(
    names: Sequence[KeyAtHand], *, keys: Sequence[KeyAtHand], client_id: str, signed_client_id: str, version: int | None
) -> tuple[KeyAtHand, Change | None]:
    """Say under which of its names the key that signed is to be reported, and what is wrong with that.

    A key may be in a keyring several times; the name that needs the smallest change counts. `version` is the header's,
    `None` for the newest.
    """

    def judged(name: KeyAtHand) -> Change | None:
        if name.is_own:
            return Change.OWN_KEY
        if name.client_id == signed_client_id:
            return None if name.version == _meant(version, name.client_id, keys) else Change.OTHER_VERSION
        if is_sandbox(name.client_id) is not is_sandbox(client_id):
            return Change.SANDBOX_AND_PRODUCTION_SWAPPED
        return Change.OTHER_CLIENT_KEY

    ranks = (None, Change.OWN_KEY, Change.OTHER_VERSION, Change.SANDBOX_AND_PRODUCTION_SWAPPED, Change.OTHER_CLIENT_KEY)
    best = min(names, key=lambda name: ranks.index(judged(name)))
    return best, judged(best)


def _meant(version: int | None, client_id: str, keys: Sequence[KeyAtHand]) -> int | None:
    if version is not None:
        return version
    return max((key.version for key in keys if key.client_id == client_id and key.version is not None), default=None)
