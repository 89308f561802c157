"""The words for what can happen to a delivery between its sender and us. Programs rely on them."""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Change(StrEnum):
    """One mistake or change, seen from the sender to us: a query that is lost was signed and did not arrive."""

    # Which key signed.
    OWN_KEY = "own_key"
    OTHER_CLIENT_KEY = "other_client_key"
    OTHER_VERSION = "other_version"
    UNKNOWN_KEY = "unknown_key"
    SANDBOX_AND_PRODUCTION_SWAPPED = "sandbox_and_production_swapped"
    # How it signed, and what became of the headers.
    DIGEST_SHA1 = "digest_sha1"
    DIGEST_MD5 = "digest_md5"
    DIGEST_SHA512 = "digest_sha512"
    PSS = "pss"
    PLUS_BECAME_BLANK = "plus_became_blank"
    ESCAPED_TWICE = "escaped_twice"
    #: Another form of the signature's bytes than base64: base64url, hex, base64 in lines.
    BASE64URL = "base64url"
    TRUNCATED = "truncated"
    #: A header, or a part of the signature header, is not there once and as documented.
    MISSING_HEADER = "missing_header"
    # The path.
    PREFIX_STRIPPED = "prefix_stripped"
    PREFIX_ADDED = "prefix_added"
    TRAILING_SLASH = "trailing_slash"
    DOUBLE_SLASH = "double_slash"
    PERCENT_ENCODING = "percent_encoding"
    QUERY_LOST = "query_lost"
    QUERY_ADDED = "query_added"
    QUERY_REORDERED = "query_reordered"
    WHOLE_URL = "whole_url"
    OTHER_METHOD = "other_method"
    # The time and the client.
    TIME_REFORMATTED = "time_reformatted"
    OTHER_CLIENT_ID = "other_client_id"
    # The body.
    JSON_REWRITTEN = "json_rewritten"
    NON_ASCII_ESCAPED = "non_ascii_escaped"
    SLASH_ESCAPED = "slash_escaped"
    FINAL_NEWLINE = "final_newline"
    LINE_ENDS = "line_ends"
    BYTE_ORDER_MARK = "byte_order_mark"
    CHARSET = "charset"
    BASE64_BODY = "base64_body"
    COMPRESSED = "compressed"
    FIELD_ADDED = "field_added"
    EMPTY_BODY = "empty_body"


class Alternative(NamedTuple, Generic[T]):
    """What may have been signed in the place of what arrived, and which changes that would mean."""

    value: T
    changes: tuple[Change, ...] = ()


def in_order(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Give each change once, in the order in which they are defined."""
    found = frozenset(changes)
    return tuple(change for change in Change if change in found)


def distinct(arrived: T, alternatives: Iterable[Alternative[T]]) -> Iterator[Alternative[T]]:
    """Leave out what arrived, and each value that an earlier alternative has: the earlier one names it better."""
    seen = {arrived}
    for alternative in alternatives:
        if alternative.value not in seen:
            seen.add(alternative.value)
            yield alternative
