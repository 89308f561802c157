"""The vault: encrypts (seals) secrets at rest, and finds them again by blind indexes.

A sealed value is AES-256-GCM under the first of a list of keys and opens under any of them, so a new key can be put
first at any time. Its row and column are authenticated with each value: a value copied elsewhere does not open. What
must be found by value is indexed blind, by HMAC-SHA-256 under one index key that never changes.
"""

import hashlib
import hmac
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

#: How a sealed value is laid out; a later layout takes another number and this one stays readable.
_LAYOUT = b"\x01"
#: Long enough that two keys of one operator never share an id.
_KEY_ID_BYTES = 8
#: What GCM is specified for. Random nonces stay safe for 2**32 values a key: 40 years at 3 a second.
_NONCE_BYTES = 12
_HEAD_BYTES = len(_LAYOUT) + _KEY_ID_BYTES
#: As many bytes as the hash has: HMAC gains nothing from more.
INDEX_KEY_BYTES = 32
#: Where the index key itself lies sealed, under a vault key like everything else.
INDEX_KEY_COLUMN = "index_key.sealed_key"


class VaultError(Exception):
    """A sealed value does not open. Says nothing of its content."""


class UnknownVaultKeyError(VaultError):
    """A value was sealed under a key that is not in `FLASK_VAULT_KEYS`."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        super().__init__(f"A value was sealed under vault key {key_id}, which FLASK_VAULT_KEYS does not hold.")


class SealBrokenError(VaultError):
    """A sealed value was changed, or moved here from another row."""

    def __init__(self, column: str) -> None:
        self.column = column
        super().__init__(f"A sealed value in {column} was changed or belongs to another row.")


class Sealer:
    """Seals under the first key, opens under any."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        self._first_id = _key_id(keys[0])

    @property
    def key_ids(self) -> list[str]:
        """The ids of the keys, the sealing one first; they say nothing of the keys."""
        return [key_id.hex() for key_id in self._ciphers]

    def seal(self, plain: bytes, *, column: str, row_key: bytes) -> bytes:
        """Seal `plain` for one column, `table.column`, of one row."""
        head = _LAYOUT + self._first_id
        nonce = os.urandom(_NONCE_BYTES)
        return head + nonce + self._ciphers[self._first_id].encrypt(nonce, plain, _associated(head, column, row_key))

    def open(self, sealed: bytes, *, column: str, row_key: bytes) -> bytes:
        """Open what was sealed for this column of this row.

        Raises `UnknownVaultKeyError` where it was sealed under a key that is not there, and `SealBrokenError` where it
        was changed or sealed for another column.
        """
        head, nonce, box = (
            sealed[:_HEAD_BYTES],
            sealed[_HEAD_BYTES:][:_NONCE_BYTES],
            sealed[_HEAD_BYTES + _NONCE_BYTES :],
        )
        if not head.startswith(_LAYOUT) or len(nonce) < _NONCE_BYTES:
            raise SealBrokenError(column)
        cipher = self._ciphers.get(head[len(_LAYOUT) :])
        if cipher is None:
            raise UnknownVaultKeyError(head[len(_LAYOUT) :].hex())
        try:
            return cipher.decrypt(nonce, box, _associated(head, column, row_key))
        except InvalidTag:
            raise SealBrokenError(column) from None

    @property
    def sealing_prefix(self) -> bytes:
        """How every value begins that is sealed under the first key."""
        return _LAYOUT + self._first_id


class Vault:
    """Seals, opens and indexes the secrets of one database."""

    def __init__(self, sealer: Sealer, index_key: bytes) -> None:
        self.sealer = sealer
        self._index_key = index_key

    def seal(self, plain: str | bytes, *, column: str, row_key: bytes) -> bytes:
        """Seal a text, or the bytes of a body, for one column of one row."""
        # A sender's text may hold a lone surrogate, which strict UTF-8 refuses.
        encoded = plain.encode("utf-8", "surrogatepass") if isinstance(plain, str) else plain
        return self.sealer.seal(encoded, column=column, row_key=row_key)

    def open_text(self, sealed: bytes, *, column: str, row_key: bytes) -> str:
        """Open a sealed text.

        Raises `VaultError` where it does not open.
        """
        return self.sealer.open(sealed, column=column, row_key=row_key).decode("utf-8", "surrogatepass")

    def open_bytes(self, sealed: bytes, *, column: str, row_key: bytes) -> bytes:
        """Open sealed bytes.

        Raises `VaultError` where they do not open.
        """
        return self.sealer.open(sealed, column=column, row_key=row_key)

    def blind_index(self, kind: str, *parts: str | bytes) -> bytes:
        """Make 32 bytes that are the same for the same parts, and tell nothing of them without the index key.

        Every part goes in with its length, so that `("ab", "c")` and `("a", "bc")` differ.
        """
        return hmac.digest(self._index_key, _framed(kind, *parts), hashlib.sha256)


def new_index_key() -> bytes:
    """Make the key of all blind indexes of a new database."""
    return os.urandom(INDEX_KEY_BYTES)


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"notifyauth vault key id\x00" + key).digest()[:_KEY_ID_BYTES]


def _associated(head: bytes, column: str, row_key: bytes) -> bytes:
    return head + _framed(column, row_key)


def _framed(*parts: str | bytes) -> bytes:
    encoded = (part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part for part in parts)
    return b"".join(len(part).to_bytes(4) + part for part in encoded)
