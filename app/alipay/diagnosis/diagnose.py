"""Diagnose a signature: why it does not verify, and what has to change so that it does.

Which key signed, and over which digest, is read out of the signature itself; what was signed is found by hashing. So
every finding is proved, and none makes anything accepted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.alipay.delivery import Delivery
from app.alipay.diagnosis.bodies import Bodies
from app.alipay.diagnosis.changes import Change, in_order
from app.alipay.diagnosis.keys import KeyAtHand, keyring_of, signer_among
from app.alipay.diagnosis.opening import Opened, open_signature
from app.alipay.diagnosis.remedies import Facts, remedy_of
from app.alipay.diagnosis.request_lines import KnownPaths, request_lines
from app.alipay.diagnosis.search import Found, Search, content_of
from app.alipay.diagnosis.signature_header import SignatureHeader, read_signature_header
from app.alipay.diagnosis.stamps import stamps
from app.alipay.signature import NotAuthenticError, verify

#: How many bytes a signature by an RSA key of one of the usual sizes has; of another length it is cut off.
_SIGNATURE_BYTES = (128, 256, 384, 512, 1024, 2048)
#: A shorter one is no signature.
_TRUNCATED_BYTES_MIN = 32


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is certain about a delivery and its signature."""

    verifies: bool
    #: The key that signed, if it is at hand.
    key: KeyAtHand | None
    #: The digest that was signed, if that key is.
    digest: str | None
    #: The smallest set of changes after which the signature verifies; what is certain of it where nothing does.
    changes: tuple[Change, ...]
    remedy: str
    #: What we verify, and what was signed, if it was found.
    ours: bytes = field(repr=False)
    signed: bytes | None = field(repr=False)
    #: What stands before the body in each, and so where it begins.
    ours_head_bytes: int
    signed_head_bytes: int
    #: How many contents were hashed.
    tried: int
    #: What is wrong with the headers, in words; may be empty.
    header_problem: str

    @property
    def is_explained(self) -> bool:
        """Whether it is known which changes make it verify."""
        return self.signed is not None

    def document(self) -> dict[str, object]:
        """Say it for programs."""
        key = self.key and {
            "client": self.key.client_id,
            "version": self.key.version,
            "fingerprint": self.key.fingerprint,
        }
        return {
            "verifies": self.verifies,
            "key": key,
            "digest": self.digest,
            "changes": [str(change) for change in self.changes],
            "remedy": self.remedy,
        }


def diagnose(
    delivery: Delivery,
    keys: Sequence[KeyAtHand],
    *,
    headers: Mapping[str, str] | None = None,
    paths: Sequence[str] = (),
    registered_url: str = "",
) -> Diagnosis:
    """Say whether a delivery verifies, and find the smallest set of changes after which it would.

    `headers` are all those of the request, by lower-case name, `paths` those of the settings, and `registered_url` is
    what Alipay was told to call. At most `search.CANDIDATES_MAX` contents are tried. Never raises, whatever the bytes.
    """
    refusal = _refusal(delivery, keys)
    verifies = refusal is None
    headers = headers or {}
    header = read_signature_header(delivery.signature)
    # Those of the client that is named come first.
    opened = open_signature(header.readings, sorted(keys, key=lambda key: key.client_id != delivery.client_id))
    search = _search(delivery, opened, keys, KnownPaths(tuple(paths), registered_url, headers), headers)
    found = None if opened is None else search.find(opened.fits)
    if opened is not None and not opened.is_certain and found is None:
        opened = None
    header_problem = _header_problem(delivery, header, opened, refusal)
    signer, changes = _changes(delivery, keys, header, opened, found, header_problem)
    changes = () if verifies else changes
    facts = Facts(
        client_id=delivery.client_id,
        signer=signer,
        uri=delivery.uri,
        signed_uri=found.line[1] if found else None,
        signed_client_id=found.stamp[0] if found else None,
        signed_time=found.stamp[1] if found else None,
        key_version=header.key_version,
        header_problem=header_problem,
        knows_client=any(key.client_id == delivery.client_id for key in keys),
        same_key_as=_same_key_as(delivery.client_id, keys),
        is_whole=bool(delivery.client_id and delivery.request_time),
    )
    is_explained = found is not None or _needs_no_content(opened, changes)
    ours = content_of(search.line, search.stamp, delivery.body)
    return Diagnosis(
        verifies=verifies,
        key=signer,
        digest=opened.digest if opened else None,
        changes=changes,
        remedy=remedy_of(verifies, is_explained, changes, facts),
        ours=ours,
        signed=found.content if found else None,
        ours_head_bytes=len(ours) - len(delivery.body),
        signed_head_bytes=len(found.content) - len(found.body) if found else 0,
        tried=search.tried,
        header_problem=header_problem,
    )


def _same_key_as(client_id: str, keys: Sequence[KeyAtHand]) -> str:
    """Name another client of the keyring that has a key of this one; nothing if there is none."""
    of_this = {key.fingerprint for key in keys if key.client_id == client_id and not key.is_own}
    others = (key for key in keys if key.client_id != client_id and not key.is_own)
    return next((key.client_id for key in others if key.fingerprint in of_this), "")


def _refusal(delivery: Delivery, keys: Sequence[KeyAtHand]) -> NotAuthenticError | None:
    try:
        verify(delivery, keyring_of(keys))
    except NotAuthenticError as refusal:
        return refusal
    return None


def _search(
    delivery: Delivery,
    opened: Opened | None,
    keys: Sequence[KeyAtHand],
    known: KnownPaths,
    headers: Mapping[str, str],
) -> Search:
    """List what may have been signed in the place of what arrived. Nothing is listed that cannot be compared."""
    line, stamp = (delivery.method, delivery.uri), (delivery.client_id, delivery.request_time)
    if opened is None or opened.digest is None:
        return Search(line, (), stamp, (), Bodies(delivery.body), delivery.body)
    # Who signed most likely signed for its own client.
    client_ids = list(dict.fromkeys(key.client_id for key in (*opened.names, *keys)))
    return Search(
        line,
        list(request_lines(*line, known)),
        stamp,
        list(stamps(*stamp, client_ids=client_ids, headers=headers)),
        Bodies(delivery.body),
        delivery.body,
    )


def _header_problem(
    delivery: Delivery, header: SignatureHeader, opened: Opened | None, refusal: NotAuthenticError | None
) -> str:
    """Say what is wrong with the headers, apart from the signature's own value."""
    stamp = {"client-id": delivery.client_id, "request-time": delivery.request_time}
    missing = [name for name, value in stamp.items() if not value]
    if missing:
        return f"the header {' and '.join(missing)} is missing"
    if header.problem:
        return header.problem
    if header.names_another_algorithm and (opened is None or opened.digest == "sha256"):
        return "the signature header names another algorithm than RSA256"
    for name, value in stamp.items():
        first, comma, second = value.partition(",")
        if comma and first == second.strip():
            return f"the header {name} was sent twice"
    # Too long, or with a control character: such a delivery is refused before its signature is looked at.
    return "" if refusal is None else str(refusal.facts.get("problem", ""))


def _changes(
    delivery: Delivery,
    keys: Sequence[KeyAtHand],
    header: SignatureHeader,
    opened: Opened | None,
    found: Found | None,
    header_problem: str,
) -> tuple[KeyAtHand | None, tuple[Change, ...]]:
    """Put together what is certain: of the headers, of the key and of the content."""
    changes = {Change.MISSING_HEADER} if header_problem else set()
    if opened is None:
        return None, in_order(changes | _of_an_unopened(header, keys))
    signer, key_change = signer_among(
        opened.names,
        keys=keys,
        client_id=delivery.client_id,
        signed_client_id=found.stamp[0] if found else delivery.client_id,
        version=header.key_version,
    )
    if key_change is not None:
        changes.add(key_change)
    changes |= opened.changes
    if found is not None:
        changes |= set(found.changes)
    elif not delivery.body:
        # It was signed with one, or the search would have ended at once.
        changes.add(Change.EMPTY_BODY)
    return signer, in_order(changes)


def _of_an_unopened(header: SignatureHeader, keys: Sequence[KeyAtHand]) -> set[Change]:
    """Say what can be said of a signature that no key at hand made."""
    readings = [each for each in header.readings if len(each.signature) >= _TRUNCATED_BYTES_MIN]
    if not readings:
        return set()
    whole = {*_SIGNATURE_BYTES, *((key.public_key.key_size + 7) // 8 for key in keys)}
    for reading in readings:
        if len(reading.signature) in whole:
            return {*reading.changes, Change.UNKNOWN_KEY}
    return {*readings[0].changes, Change.TRUNCATED} if len(readings[0].signature) < max(whole) else set()


def _needs_no_content(opened: Opened | None, changes: tuple[Change, ...]) -> bool:
    """Say whether the remedy stands without knowing what was signed: as long as the key is unknown, nothing does."""
    return opened is None and bool(changes)
