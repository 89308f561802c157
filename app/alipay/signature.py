r"""Verify a signature of Alipay's over the exact bytes, before a word of them is read; sign as Alipay does.

What is signed is `METHOD URI\n<client-id>.<request-time>.<body>`, by SHA-256 and RSASSA-PKCS1-v1_5 (Antom's "Sign a
request and verify the signature"). Alipay's Python SDK lets the signature choose the digest, decodes base64 leniently
and ignores the key version; none of that here.
"""

import base64
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args
from urllib.parse import quote, unquote_to_bytes

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from app.alipay.delivery import Delivery
from app.alipay.keyring import Client, KeyNotFoundError, Keyring, UnknownClientError

ALGORITHM = "RSA256"

#: Twice the longest shape in use. Nothing escapes the dots between the signed parts, so a request-time without a bound
#: could swallow the beginning of a genuine body and leave the rest, still verified, as one that Alipay never sent.
REQUEST_TIME_CHARACTERS_MAX = 64
#: Room for a signature by a key of 16384 bits, or of 4096 with every character percent-encoded, and for the names of
#: its parts. To read one takes time and memory that grow with it, so a longer one is refused unread.
SIGNATURE_CHARACTERS_MAX = 4096

_PARTS = frozenset({"algorithm", "keyVersion", "signature"})
#: Bounded, since `int` takes quadratic time, and ASCII only, since it reads any script's digits, and underscores.
_KEY_VERSION = re.compile(r"[0-9]{1,9}")
_NAMED_KEY_VERSION = re.compile(r"keyVersion=([0-9]{1,9})(?![0-9])")
_BASE64_OR_PERCENT = re.compile(r"(?:[A-Za-z0-9+/=]|%[0-9A-Fa-f]{2})+")
_UNSENDABLE = re.compile(r"[^\x20-\x7e\x80-\xff]")
#: Fourteen digits reach the year 5138; with fifteen a number could be beyond what a datetime holds.
_EPOCH_MILLISECONDS = re.compile(r"[0-9]{1,14}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


#: Which of the checks failed.
Cause = Literal["unknown_client", "unknown_key", "header", "algorithm", "base64", "mismatch", "stale"]
CAUSES: tuple[Cause, ...] = get_args(Cause)


class NotAuthenticError(Exception):
    """A delivery, or an answer, that Alipay cannot be shown to have sent. Nothing of it may be stored.

    `result_code` is what the answer says; `cause` is a short label that tells operators which of the checks failed, and
    `facts` are what the check knows of it, for the log: words and numbers of ours, nothing that the sender wrote.
    """

    def __init__(self, cause: Cause, result_code: str = "INVALID_SIGNATURE", **facts: str | int) -> None:
        super().__init__(f"The delivery is not authentic ({cause}).")
        self.cause: Cause = cause
        self.result_code = result_code
        self.facts = facts


class UnsendableTextError(ValueError):
    """A text to be signed holds a control character, or one that is not a byte, so it cannot be an HTTP header."""

    def __init__(self) -> None:
        super().__init__("An HTTP header cannot carry a control character or one beyond Latin-1.")


def verify(delivery: Delivery, keyring: Keyring) -> None:
    """Return if the delivery was signed by a key that its client id and key version name, and raise otherwise.

    Raises `NotAuthenticError` and nothing else, whatever the headers hold.
    """
    try:
        client = keyring.client(delivery.client_id)
    except UnknownClientError:
        missing = _missing(delivery.client_id, delivery.request_time, delivery.signature)
        raise NotAuthenticError("unknown_client", "UNKNOWN_CLIENT", **missing) from None
    _verify(client, delivery.method, delivery.uri, delivery.request_time, delivery.signature, delivery.body)


def verify_answer(client: Client, *, uri: str, time: str, signature: str, body: bytes) -> None:
    """Return if an answer to a call of the client's was signed by Alipay's key, and raise otherwise.

    The URI is the path that was called, and the time that of the answer (protocol.md §4). Nothing in an answer names
    its request: that it belongs to the call that it came to is for TLS to prove. Raises `NotAuthenticError`.
    """
    _verify(client, "POST", uri, time, signature, body)


def _verify(client: Client, method: str, uri: str, time: str, signature: str, body: bytes) -> None:
    # First, as the cost of everything below grows with their length.
    if len(signature) > SIGNATURE_CHARACTERS_MAX:
        raise NotAuthenticError("header", problem=f"signature has more than {SIGNATURE_CHARACTERS_MAX} characters")
    if missing := _missing(client.client_id, time, signature):
        raise NotAuthenticError("header", **missing)
    if len(time) > REQUEST_TIME_CHARACTERS_MAX:
        problem = f"request-time has more than {REQUEST_TIME_CHARACTERS_MAX} characters"
        raise NotAuthenticError("header", problem=problem)
    key_version, signature_bytes = _read_header(signature)
    try:
        public_keys = client.keys_of_version(key_version)
    except KeyNotFoundError:
        known = ", ".join(map(str, sorted(client.alipay_public_keys)))
        raise NotAuthenticError("unknown_key", "KEY_NOT_FOUND", known_versions=known) from None
    try:
        signed = _signed_bytes(method, uri, client.client_id, time, body)
    except UnsendableTextError:
        raise NotAuthenticError("header", problem="the delivery has a control character") from None
    if not any(_is_signed_by(public_key, signature_bytes, signed) for public_key in public_keys):
        raise NotAuthenticError("mismatch")


def sign(
    private_key: RSAPrivateKey,
    *,
    method: str,
    uri: str,
    client_id: str,
    time: str,
    body: bytes,
    key_version: int | None = 1,
) -> str:
    """Return the whole value of a signature header, for a notification or, with a response's time and body, an answer.

    Without a key version the receiver takes the newest key it knows. Raises `UnsendableTextError`.
    """
    signed = _signed_bytes(method, uri, client_id, time, body)
    signature = private_key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    version = "" if key_version is None else f"keyVersion={key_version},"
    return f"algorithm={ALGORITHM},{version}signature={quote(base64.b64encode(signature), safe='')}"


@dataclass(frozen=True, slots=True)
class Proof:
    """What shows somebody else that Alipay signed a delivery: the key, the signature, and the bytes that it is over."""

    #: As the header names it; None stands for the newest key.
    key_version: int | None
    #: None where no key that the keyring has today verifies it: its key was taken out.
    public_key: RSAPublicKey | None
    signature: bytes
    signed: bytes


def prove(delivery: Delivery, keyring: Keyring) -> Proof:
    """Collect what proves a delivery that was verified when it came. Raises `NotAuthenticError` for any other header.

    A key that has moved to another version of the keyring since is found too.
    """
    key_version, signature = _read_header(delivery.signature)
    signed = _signed_bytes(delivery.method, delivery.uri, delivery.client_id, delivery.request_time, delivery.body)
    client = keyring.clients.get(delivery.client_id)
    keys = () if client is None else (key for each in client.alipay_public_keys.values() for key in each)
    public_key = next((each for each in keys if _is_signed_by(each, signature, signed)), None)
    return Proof(key_version, public_key, signature, signed)


def read_request_time(request_time: str) -> datetime | None:
    """Read a request-time as a time, in UTC; None where it is of no known form."""
    try:
        return _sent_at(request_time).astimezone(UTC)
    except (NotAuthenticError, OverflowError):
        return None


def check_freshness(delivery: Delivery, *, now: datetime, limit: timedelta) -> None:
    """Raise `NotAuthenticError` if the request-time lies further back than the limit, or cannot be read as a time.

    For verification the request-time is opaque, so this is done only where an operator has set a limit, at the price
    that a new form of request-time is refused. A time in the future is fresh: only Alipay could have signed it.
    """
    age = now - _sent_at(delivery.request_time)
    if age > limit:
        seconds, limit_seconds = int(age.total_seconds()), int(limit.total_seconds())
        raise NotAuthenticError("stale", age_seconds=seconds, limit_seconds=limit_seconds)


def named_key_version(signature: str) -> int | None:
    """Read the key version that a signature header names, however else it is broken, for a log."""
    found = _NAMED_KEY_VERSION.search(signature[:SIGNATURE_CHARACTERS_MAX])
    return None if found is None else int(found[1])


def _missing(client_id: str, time: str, signature: str) -> dict[str, str]:
    headers = {"client-id": client_id, "request-time": time, "signature": signature}
    missing = ", ".join(name for name, value in headers.items() if not value)
    return {"missing": missing} if missing else {}


def sent_at(request_time: str) -> datetime | None:
    """Read a request-time as a time, or give `None` where it is none that is known."""
    try:
        return _sent_at(request_time)
    except NotAuthenticError:
        return None


def _is_signed_by(public_key: RSAPublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        public_key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def _signed_bytes(method: str, uri: str, client_id: str, time: str, body: bytes) -> bytes:
    # The line feed is the construction's own: one in a header would let its parts trade places.
    if _UNSENDABLE.search(method + uri + client_id + time):
        raise UnsendableTextError
    # Texts of the wire hold bytes as Latin-1 characters (see Delivery), so this gives the very bytes that came.
    return f"{method} {uri}\n{client_id}.{time}.".encode("latin-1") + body


def _read_header(header: str) -> tuple[int | None, bytes]:
    """Return the key version, None if unnamed, and the signature.

    The three documented parts may stand in any order with blanks around the commas, each at most once: a header that
    was sent twice arrives joined by a comma, and is refused by that. A part of any other name is refused too, because
    passing over a misspelled keyVersion would silently select the newest key.
    """
    parts: dict[str, str] = {}
    for part in header.split(","):
        name, equals, value = part.strip(" \t").partition("=")
        if not equals or name not in _PARTS or name in parts:
            problem = f"the part {name} stands twice in signature" if name in parts else "signature has an unknown part"
            raise NotAuthenticError("header", problem=problem)
        parts[name] = value
    # It is always sent, and in either case; a header without it is not one that Alipay's documents describe.
    if parts.get("algorithm", "").upper() != ALGORITHM:
        raise NotAuthenticError("algorithm", **({} if "algorithm" in parts else {"missing": "algorithm in signature"}))
    key_version = parts.get("keyVersion")
    if key_version is not None and not _KEY_VERSION.fullmatch(key_version):
        raise NotAuthenticError("header", problem="keyVersion in signature is no number")
    if "signature" not in parts:
        raise NotAuthenticError("header", missing="signature in signature")
    return None if key_version is None else int(key_version), _signature_bytes(parts["signature"])


def _signature_bytes(value: str) -> bytes:
    """Undo percent-encoding, then standard base64, and accept only what the encoder itself would have written.

    Form-decoding would turn a bare + into a blank, and a lenient base64 decoder passes over garbage, and over stray
    bits in the last character, so that many headers would carry one signature.
    """
    if not _BASE64_OR_PERCENT.fullmatch(value):
        raise NotAuthenticError("base64")
    encoded = unquote_to_bytes(value)
    try:
        signature = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise NotAuthenticError("base64") from None
    if base64.b64encode(signature) != encoded:
        raise NotAuthenticError("base64")
    return signature


def _sent_at(request_time: str) -> datetime:
    """Read epoch milliseconds or ISO 8601 with an offset, as documents and SDKs write them."""
    if _EPOCH_MILLISECONDS.fullmatch(request_time):
        return _EPOCH + timedelta(milliseconds=int(request_time))
    try:
        sent_at = datetime.fromisoformat(request_time)
    except ValueError:
        raise NotAuthenticError("stale", problem="request-time is no time that is known") from None
    if sent_at.tzinfo is None:
        raise NotAuthenticError("stale", problem="request-time has no zone")
    return sent_at
