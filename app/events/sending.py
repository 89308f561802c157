"""Send one event to one endpoint: one signed HTTP request (Standard Webhooks 1.0), bounded in time and size.

An endpoint may be slow, broken or hostile. Whatever it does, the answer is a value, with a sentence that says what went
wrong.
"""

import re
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from http import HTTPStatus

from standardwebhooks import Webhook
from urllib3.util import parse_url

from app.bounded_http import AddressRefusedError, ConnectionPool, post
from app.events.addresses import is_link_local
from app.events.endpoints import Endpoint

#: From the first look-up of the name to the last byte of the answer.
SECONDS_MAX = 10.0
#: Beyond this an answer is not read: its connection is closed.
ANSWER_BYTES_MAX = 16 * 1024
#: What is kept of it: a sentence or two, or the beginning of an error page.
_KEPT_BYTES = 2 * 1024

#: What a database takes as text only in part, and a terminal obeys.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_RETRY_AFTER = re.compile(r"[0-9]+")
#: More seconds than that, some thirty years, are no less of an outage.
_RETRY_AFTER_SECONDS_MAX = 999_999_999


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request."""

    #: Empty where nobody answered.
    http_status: int | None
    #: Why it failed, in a sentence; empty where it did not.
    error: str | None
    #: The beginning of what was answered.
    answer: str | None
    #: For how long the endpoint asks to be left alone.
    retry_after: timedelta | None
    milliseconds: int

    @property
    def is_delivered(self) -> bool:
        """Whether the endpoint has taken the event."""
        return self.error is None


class Pool(ConnectionPool):
    """The connections to one endpoint, kept for its next requests. Safe to share between threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(
            endpoint.url,
            check_address=_refuse_link_local,
            tls=None if endpoint.ca is None else _vouched_for_by(endpoint.ca),
        )
        self.target = parse_url(endpoint.url).request_uri


@cache
def _vouched_for_by(ca: str) -> ssl.SSLContext:
    """Trust these certificates alone, also one that no authority has made."""
    context = ssl.create_default_context(cadata=ca)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _refuse_link_local(address: str) -> None:
    if is_link_local(address):
        sentence = "Its address is link-local, and such are refused."
        raise AddressRefusedError(sentence)


def send(
    endpoint: Endpoint,
    body: str,
    event_id: str,
    *,
    pool: Pool | None = None,
    seconds_max: float = SECONDS_MAX,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Answer:
    """Tell an endpoint of an event, and say what came of it. Never raises on account of what the endpoint does.

    With a pool its connections are used, and kept.
    """
    with ExitStack() as stack:
        if pool is None:
            pool = Pool(endpoint)
            stack.callback(pool.close)
        # It is sent until the endpoint has it, so that once more does no harm.
        result = post(
            pool,
            pool.target,
            body.encode(),
            _headers(endpoint, body, event_id, clock()),
            seconds_max=seconds_max,
            body_bytes_max=ANSWER_BYTES_MAX,
            is_repeatable=True,
        )
    # With a status the endpoint has said what matters, whatever becomes of the rest of its answer.
    error = result.error if result.status is None else _refusal(result.status)
    return Answer(
        result.status,
        error,
        _kept(result.body) if result.body else None,
        None if error is None else _retry_after(result.headers.get("Retry-After"), now=clock()),
        result.milliseconds,
    )


def _headers(endpoint: Endpoint, body: str, event_id: str, at: datetime) -> dict[str, str]:
    # A time in another zone would be signed as if it were in UTC, and bytes as the text b'…'.
    at = at.astimezone(UTC)
    signatures = [Webhook(secret.reveal()).sign(event_id, at, body) for secret in endpoint.secrets]
    return {
        "Content-Type": "application/json",
        "User-Agent": "notifyauth",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _refusal(status: int) -> str | None:
    """Say in a sentence that a status is no success, if it is none."""
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return None
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return f"It answered {status}, and redirects are not followed."
    return f"It answered {status}."


def _kept(answer: bytes) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", answer[:_KEPT_BYTES].decode("utf-8", "replace"))


def _retry_after(value: str | None, *, now: datetime) -> timedelta | None:
    """Read `Retry-After`: seconds, or an HTTP date (RFC 9110 §10.2.3); what is neither says nothing."""
    if value is None:
        return None
    if _RETRY_AFTER.fullmatch(value.strip()):
        digits = value.strip().lstrip("0")
        # More digits than the bound has are a larger number, and Python reads none of thousands.
        is_larger = len(digits) > len(str(_RETRY_AFTER_SECONDS_MAX))
        return timedelta(seconds=_RETRY_AFTER_SECONDS_MAX if is_larger else int(digits or "0"))
    try:
        at = parsedate_to_datetime(value)
    except (TypeError, ValueError, OverflowError):
        return None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return max(at - now, timedelta(0))
