"""Read a signature header leniently: every signature that it may have carried, and what happened to it on the way."""

import base64
import re
from dataclasses import dataclass
from urllib.parse import unquote

from app.alipay.diagnosis.changes import Change
from app.alipay.signature import ALGORITHM

#: Four times as much as `verify` reads: a header that was escaped twice and doubled.
_CHARACTERS_MAX = 16 * 1024
#: A doubled header has two; more are no mistake of a proxy.
_VALUES_MAX = 4
_ESCAPINGS_MAX = 4
#: The smallest key in use, of 1024 bits, makes signatures of 128 bytes; hex writes each in two characters.
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}){128,}")

_PARTS = ("algorithm", "keyVersion", "signature")
_PART = re.compile(r"\b(?P<name>algorithm|keyversion|signature)\s*=\s*\"?(?P<value>[^,;\"]*)", re.IGNORECASE)
_BARE_SIGNATURE = re.compile(r"[A-Za-z0-9+/=_% -]{128,}")
_VERSION = re.compile(r"[0-9]{1,9}")
_HALF_ESCAPE = re.compile(r"%[0-9A-Fa-f]?$")
_FROM_BASE64URL = str.maketrans("-_", "+/")


@dataclass(frozen=True, slots=True)
class Reading:
    """Bytes that may be the signature, and the changes under which they are."""

    signature: bytes
    changes: frozenset[Change]


@dataclass(frozen=True, slots=True)
class SignatureHeader:
    """What a signature header says, however it is written."""

    readings: tuple[Reading, ...]
    key_version: int | None
    #: What is wrong with its parts, for people; empty where they are as documented.
    problem: str
    #: As it stands in the header.
    algorithm: str

    @property
    def names_another_algorithm(self) -> bool:
        """Whether an algorithm is named, and not the only one that is believed."""
        return bool(self.algorithm) and self.algorithm.upper() != ALGORITHM


def read_signature_header(header: str) -> SignatureHeader:
    """Read a header of any length and any form. Nothing that is found in it is believed."""
    header = header[:_CHARACTERS_MAX]
    escaped: frozenset[Change] = frozenset()
    if "=" not in header.partition("%")[0] and "%3d" in header.lower():
        header, escaped = unquote(header, "latin-1"), frozenset({Change.ESCAPED_TWICE})
    found = [(match["name"].lower(), match["value"]) for match in _PART.finditer(header)]
    values = [value for name, value in found if name == "signature"]
    if not found and _BARE_SIGNATURE.fullmatch(header):
        values = [header]
    versions = [value.strip() for name, value in found if name == "keyversion"]
    algorithms = [value.strip() for name, value in found if name == "algorithm"]
    readings = [
        Reading(reading.signature, reading.changes | escaped)
        for value in dict.fromkeys(values[:_VALUES_MAX])
        for reading in _readings(value)
    ]
    return SignatureHeader(
        readings=tuple(readings),
        key_version=int(versions[0]) if versions and _VERSION.fullmatch(versions[0]) else None,
        problem=_problem(header),
        algorithm=algorithms[0] if algorithms else "",
    )


def _problem(header: str) -> str:
    """Say how the parts differ from those that are documented; nothing where only the values may be wrong."""
    if not header:
        return "the signature header is missing"
    parts = [part.strip(" \t").partition("=") for part in header.split(",")]
    names = [name for name, _, _ in parts]
    values = {name: value for name, _, value in parts}
    repeated = [name for name in _PARTS if names.count(name) > 1]
    if repeated:
        return f"the signature header names {repeated[0]} {names.count(repeated[0])} times, as when it was sent twice"
    absent = [name for name in ("algorithm", "signature") if name not in names]
    if absent:
        return f"the signature header has no part {absent[0]}=…"
    if any(name not in _PARTS for name in names):
        return "the signature header has a part that is none of algorithm, keyVersion and signature"
    if not _VERSION.fullmatch(values.get("keyVersion", "1")):
        return "the keyVersion of the signature header is not a number"
    return "the signature stands in quotes" if values["signature"].startswith('"') else ""


def _readings(value: str) -> list[Reading]:
    """Undo what was done to a signature on its way; the first reading is the one that changes least."""
    changes: set[Change] = set()
    text = value
    for escapings in range(_ESCAPINGS_MAX):
        if (unescaped := unquote(text, "latin-1")) == text:
            break
        text = unescaped
        if escapings > 0:
            changes.add(Change.ESCAPED_TWICE)
    if _HALF_ESCAPE.search(text):
        text = _HALF_ESCAPE.sub("", text)
        changes.add(Change.TRUNCATED)
    in_one_line = "".join(text.splitlines())
    if in_one_line != text:
        changes.add(Change.BASE64URL)
    readings: list[Reading | None] = []
    if _HEX.fullmatch(in_one_line):
        readings.append(Reading(bytes.fromhex(in_one_line), frozenset(changes | {Change.BASE64URL})))
    # A blank at either end may have been a plus, or somebody's neatness.
    spellings = dict.fromkeys([in_one_line.strip(" "), in_one_line])
    readings += [_base64_reading(spelling, frozenset(changes)) for spelling in spellings]
    return [reading for reading in readings if reading is not None]


def _base64_reading(text: str, changes: frozenset[Change]) -> Reading | None:
    if " " in text:
        text, changes = text.replace(" ", "+"), changes | {Change.PLUS_BECAME_BLANK}
    if "-" in text or "_" in text:
        text, changes = text.translate(_FROM_BASE64URL), changes | {Change.BASE64URL}
    digits = text.rstrip("=")
    whole = digits[: len(digits) - 1] if len(digits) % 4 == 1 else digits
    padded = whole + "=" * (-len(whole) % 4)
    try:
        signature = base64.b64decode(padded, validate=True)
    except ValueError:
        return None
    if len(padded) > len(text) and Change.BASE64URL not in changes:
        changes |= {Change.TRUNCATED}
    elif base64.b64encode(signature).decode() != text and Change.BASE64URL not in changes:
        # Too much padding, or stray bits in the last character.
        changes |= {Change.BASE64URL if whole == digits else Change.TRUNCATED}
    return Reading(signature, changes)
