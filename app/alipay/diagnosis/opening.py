"""Open a signature: which of the keys at hand made it, and over which digest.

An RSA signature is decrypted by the public key, and only the right key leaves the padding of PKCS #1 v1.5 with a
DigestInfo in it (RFC 8017, 9.2), or that of PSS (9.1). So both are certain before anything is known of the content.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from app.alipay.diagnosis.changes import Change
from app.alipay.diagnosis.keys import KeyAtHand
from app.alipay.diagnosis.signature_header import Reading

#: To open a signature takes 15 µs for PKCS #1 v1.5, so that every key is tried, and 130 µs for PSS, which Alipay never
#: uses.
_KEYS_MAX_FOR_PSS = 500

#: What stands before the digest in a DigestInfo (RFC 8017, 9.2, note 1).
_DIGEST_INFOS = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha1": bytes.fromhex("3021300906052b0e03021a05000414"),
    "md5": bytes.fromhex("3020300c06082a864886f70d020505000410"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
_CHANGE_BY_DIGEST = {
    "sha1": Change.DIGEST_SHA1,
    "md5": Change.DIGEST_MD5,
    "sha512": Change.DIGEST_SHA512,
}
_PSS_DIGESTS = ("sha256", "sha512", "sha1")
_PSS_TRAILER = 0xBC
#: This many zeros do not stand at the beginning of a PSS block by chance.
_CERTAIN_ZEROS = 8


@dataclass(frozen=True, slots=True)
class Opened:
    """A signature that one of the keys at hand made."""

    reading: Reading
    #: The key, under each of its names.
    names: tuple[KeyAtHand, ...]
    #: The digest that was signed; `None` where it is none of those that are known here.
    digest: str | None
    changes: frozenset[Change]
    #: Says whether this is the content that was signed.
    fits: Callable[[bytes], bool]
    #: Whether the padding alone proves the key; otherwise only a content that fits does.
    is_certain: bool = True


def open_signature(readings: Sequence[Reading], keys: Sequence[KeyAtHand]) -> Opened | None:
    """Open a signature under the key that made it, if that is at hand."""
    by_modulus: dict[int, list[KeyAtHand]] = {}
    for key in keys:
        by_modulus.setdefault(key.public_key.public_numbers().n, []).append(key)
    distinct_keys = [(names[0].public_key, tuple(names)) for names in by_modulus.values()]
    for reading in readings:
        for public_key, names in distinct_keys:
            if (opened := _opened_by_pkcs1(reading, public_key, names)) is not None:
                return opened
    by_pss = [
        opened
        for reading in readings
        for public_key, names in distinct_keys[:_KEYS_MAX_FOR_PSS]
        for opened in _opened_by_pss(reading, public_key, names)
    ]
    return max(by_pss, key=lambda opened: opened.is_certain, default=None)


def _opened_by_pkcs1(reading: Reading, public_key: RSAPublicKey, names: tuple[KeyAtHand, ...]) -> Opened | None:
    try:
        signed = public_key.recover_data_from_signature(reading.signature, padding.PKCS1v15(), None)
    except (InvalidSignature, ValueError):
        return None
    for digest, digest_info in _DIGEST_INFOS.items():
        if signed.startswith(digest_info) and len(signed) == len(digest_info) + _size_of(digest):
            changes = reading.changes | {_CHANGE_BY_DIGEST[digest]} if digest in _CHANGE_BY_DIGEST else reading.changes
            return Opened(reading, names, digest, changes, _fits_digest(digest, signed[len(digest_info) :]))
    return Opened(reading, names, None, reading.changes, lambda _: False)


def _fits_digest(digest: str, value: bytes) -> Callable[[bytes], bool]:
    hash_of = getattr(hashlib, digest)
    return lambda content: hash_of(content, usedforsecurity=False).digest() == value


def _size_of(digest: str) -> int:
    return hashlib.new(digest, usedforsecurity=False).digest_size


def _opened_by_pss(reading: Reading, public_key: RSAPublicKey, names: tuple[KeyAtHand, ...]) -> Iterator[Opened]:
    """Undo EMSA-PSS (RFC 8017, 9.1.2), with the mask of the same digest, or of SHA-1, which is Java's default."""
    numbers = public_key.public_numbers()
    value = int.from_bytes(reading.signature)
    if len(reading.signature) != (public_key.key_size + 7) // 8 or value >= numbers.n:
        return
    length = (public_key.key_size + 6) // 8
    unused_bits = 8 * length - (public_key.key_size - 1)
    encoded = pow(value, numbers.e, numbers.n)
    if encoded % 256 != _PSS_TRAILER or encoded.bit_length() > public_key.key_size - 1:
        return
    block = encoded.to_bytes(length)
    for digest in _PSS_DIGESTS:
        size = _size_of(digest)
        masked, hashed = block[: -size - 1], block[-size - 1 : -1]
        for mask_digest in dict.fromkeys((digest, "sha1")):
            mask = _mask(hashed, len(masked), mask_digest)
            unmasked = bytes(left ^ right for left, right in zip(masked, mask, strict=True))
            unmasked = bytes([unmasked[0] & (0xFF >> unused_bits)]) + unmasked[1:]
            salted = unmasked.lstrip(b"\0")
            if salted[:1] == b"\1":
                changes = reading.changes | {Change.PSS}
                if digest in _CHANGE_BY_DIGEST:
                    changes |= {_CHANGE_BY_DIGEST[digest]}
                is_certain = len(unmasked) - len(salted) >= _CERTAIN_ZEROS
                yield Opened(reading, names, digest, changes, _fits_pss(digest, salted[1:], hashed), is_certain)


def _mask(seed: bytes, length: int, digest: str) -> bytes:
    """Stretch a seed to a mask: MGF1 (RFC 8017, B.2.1)."""
    blocks = -(-length // _size_of(digest))
    stretched = (
        hashlib.new(digest, seed + counter.to_bytes(4), usedforsecurity=False).digest() for counter in range(blocks)
    )
    return b"".join(stretched)[:length]


def _fits_pss(digest: str, salt: bytes, hashed: bytes) -> Callable[[bytes], bool]:
    hash_of = getattr(hashlib, digest)

    def fits(content: bytes) -> bool:
        message = hash_of(content, usedforsecurity=False).digest()
        return bool(hash_of(bytes(8) + message + salt, usedforsecurity=False).digest() == hashed)

    return fits
