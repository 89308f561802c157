"""Send one event to one endpoint: one signed HTTP request (Standard Webhooks 1.0), bounded in time and size.

An endpoint may be slow, broken or hostile. Whatever it does, the answer is a value, with a sentence that says what went
wrong.
"""

import re
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from http import HTTPStatus
from http.client import HTTPException, RemoteDisconnected

from standardwebhooks import Webhook
from urllib3 import BaseHTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util import parse_url

from app.events.addresses import is_link_local
from app.events.endpoints import Endpoint

#: From the first look-up of the name to the last byte of the answer.
SECONDS_MAX = 10.0
#: Beyond this an answer is not read: its connection is closed.
ANSWER_BYTES_MAX = 16 * 1024
#: What is kept of it: a sentence or two, or the beginning of an error page.
_KEPT_BYTES = 2 * 1024
#: Of one name some addresses may be out of reach; one that drops packets is not to take all the time there is.
_ADDRESS_SECONDS_MAX = 4.0
#: How often somebody looks which requests are over their time.
_LOOK_SECONDS = 0.2

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


class _LinkLocalError(OSError):
    """The name of an endpoint leads to an address that none may have."""


class _Connecting:
    """How connections are made: to no link-local address, and all addresses of a name within one time."""

    #: By the monotonic clock: when the request that this connection serves is over its time.
    ends_at: float

    _dns_host: str
    port: int

    def _new_conn(self) -> socket.socket:
        found = socket.getaddrinfo(self._dns_host.strip("[]"), self.port, type=socket.SOCK_STREAM)
        if any(is_link_local(str(address[0])) for *_, address in found):
            raise _LinkLocalError
        trouble: OSError = TimeoutError()
        for family, kind, protocol, _, address in found:
            left = self.ends_at - time.monotonic()
            if left <= 0:
                break
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(min(left, _ADDRESS_SECONDS_MAX))
                sock.connect(address)
            except OSError as error:
                sock.close()
                trouble = error
            else:
                sock.settimeout(max(self.ends_at - time.monotonic(), 0.001))
                return sock
        raise trouble


class _PlainConnection(_Connecting, HTTPConnection):
    pass


class _TlsConnection(_Connecting, HTTPSConnection):
    pass


_Connection = _PlainConnection | _TlsConnection


@cache
def _tls() -> ssl.SSLContext:
    # Reading the certificates of the system takes tens of milliseconds, so all connections share them.
    return ssl.create_default_context()


class Pool:
    """The connections to one endpoint, kept for its next requests. Safe to share between threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        url = parse_url(endpoint.url)
        self._is_tls = url.scheme == "https"
        self._host = url.host or ""
        self._port = url.port
        self.target = url.request_uri
        self._idle: deque[_Connection] = deque()

    def take(self) -> _Connection:
        """Return a connection that is open, if there is one, or a new one."""
        with suppress(IndexError):
            while True:
                # The one that was used last is the least likely to be closed by the other side.
                connection = self._idle.pop()
                if connection.is_connected:
                    return connection
                connection.close()
        return self.new()

    def new(self) -> _Connection:
        """Return a connection that is not open yet."""
        if self._is_tls:
            return _TlsConnection(self._host, self._port, ssl_context=_tls())
        return _PlainConnection(self._host, self._port)

    def give_back(self, connection: _Connection) -> None:
        """Keep a connection for the next request."""
        self._idle.append(connection)

    def close(self) -> None:
        """Close what is kept."""
        with suppress(IndexError):
            while True:
                self._idle.pop().close()


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
    started = time.monotonic()
    with ExitStack() as stack:
        if pool is None:
            pool = Pool(endpoint)
            stack.callback(pool.close)
        exchange = _Exchange(pool, _headers(endpoint, body, event_id, clock()), body.encode(), started + seconds_max)
        error: str | None = None
        try:
            exchange.run()
        except (OSError, HTTPException, HTTPError, ValueError) as trouble:
            # With a status the endpoint has said what matters, whatever becomes of the rest of its answer.
            if exchange.status is None:
                late = f"There was no answer within {seconds_max:g} seconds."
                error = late if exchange.is_late else _sentence(trouble)
    if exchange.status is not None:
        error = _refusal(exchange.status)
    return Answer(
        exchange.status,
        error,
        _kept(bytes(exchange.answer)) if exchange.answer else None,
        None if error is None else _retry_after(exchange.retry_after, now=clock()),
        round((time.monotonic() - started) * 1000),
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


class _Exchange:
    """One request and its answer, as far as it came."""

    def __init__(self, pool: Pool, headers: dict[str, str], body: bytes, ends_at: float) -> None:
        self._pool = pool
        self._headers = headers
        self._body = body
        self._ends_at = ends_at
        self.status: int | None = None
        self.retry_after: str | None = None
        self.answer = bytearray()

    @property
    def is_late(self) -> bool:
        """Whether its time is over."""
        return time.monotonic() >= self._ends_at

    def run(self) -> None:
        """Send, and read the answer. Raises what stands in the way."""
        connection = self._pool.take()
        was_open = connection.is_connected
        try:
            self._run(connection)
        except (RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            # An endpoint may close a connection that it has not used for a while at the moment in which it is used.
            if not was_open or self.status is not None or self.is_late:
                raise
            self._run(self._pool.new())

    def _run(self, connection: _Connection) -> None:
        connection.ends_at = self._ends_at
        is_reusable = False
        try:
            if connection.sock is None:
                connection.timeout = max(self._ends_at - time.monotonic(), 0.001)
                connection.connect()
            sock: socket.socket = connection.sock
            sock.settimeout(max(self._ends_at - time.monotonic(), 0.001))
            with _cut_at(sock, self._ends_at):
                connection.request("POST", self._pool.target, self._body, self._headers, preload_content=False)
                response = connection.getresponse()
                if self.is_late:
                    # Where it was cut, the head ends as if that were all of it.
                    response.close()
                    raise TimeoutError
                self.status = response.status
                self.retry_after = response.headers.get("Retry-After")
                is_reusable = self._read(response) and connection.sock is not None
        finally:
            if is_reusable:
                self._pool.give_back(connection)
            else:
                connection.close()

    def _read(self, response: BaseHTTPResponse) -> bool:
        """Read the rest of an answer, and say whether that was all of it."""
        with suppress(OSError, HTTPException, HTTPError, ValueError):
            try:
                while len(self.answer) < ANSWER_BYTES_MAX:
                    piece = response.read1(ANSWER_BYTES_MAX - len(self.answer), decode_content=False)
                    if not piece:
                        return True
                    self.answer += piece
            finally:
                response.close()
        return False


# --- time ------------------------------------------------------------------------------------------------------------


class _Watchdog:
    """Cuts connections at the end of their time: each byte of an answer that drips would otherwise begin it anew."""

    def __init__(self) -> None:
        self._cut_at: dict[socket.socket, float] = {}
        self._is_any = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def watch(self, sock: socket.socket, at: float) -> None:
        """Cut a connection at this time, unless it is let go before."""
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
                thread.start()
                self._thread = thread
            self._cut_at[sock] = at
            self._is_any.set()

    def let_go(self, sock: socket.socket) -> None:
        """Leave a connection alone from now on."""
        with self._lock:
            del self._cut_at[sock]
            if not self._cut_at:
                self._is_any.clear()

    def _run(self) -> None:
        while True:
            self._is_any.wait()
            time.sleep(_LOOK_SECONDS)
            now = time.monotonic()
            # Under the lock: a socket that is let go may be closed, and its descriptor belong to another one.
            with self._lock:
                for sock in [each for each, at in self._cut_at.items() if at <= now]:
                    with suppress(OSError):
                        # That of TLS would say goodbye first, and take from its reader what it reads with.
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)


_watchdog = _Watchdog()


@contextmanager
def _cut_at(sock: socket.socket, at: float) -> Iterator[None]:
    _watchdog.watch(sock, at)
    try:
        yield
    finally:
        _watchdog.let_go(sock)


# --- what came of it, for people -------------------------------------------------------------------------------------


#: What a person is told of an error, by its class; the first that fits.
_SENTENCES: Sequence[tuple[type[BaseException] | tuple[type[BaseException], ...], str]] = (
    (_LinkLocalError, "Its address is link-local, and such are refused."),
    ((socket.gaierror, UnicodeError), "Its name cannot be resolved."),
    (ssl.SSLCertVerificationError, "Its certificate cannot be verified: {0.verify_message}."),
    (ssl.SSLError, "TLS failed: {0.reason}."),
    (ConnectionRefusedError, "It refused the connection."),
    (TimeoutError, "No connection could be made in time."),
    ((RemoteDisconnected, ConnectionResetError, BrokenPipeError), "It closed the connection without an answer."),
    (OSError, "It cannot be reached: {0.strerror}."),
    (Exception, "What it answered is not HTTP."),
)


def _sentence(error: Exception) -> str:
    """Say why there is no answer. Nothing of the URL is named, which may hold a secret."""
    cause = _cause(error)
    return next(sentence for classes, sentence in _SENTENCES if isinstance(cause, classes)).format(cause)


def _cause(error: BaseException) -> BaseException:
    """Return what urllib3 has wrapped."""
    while isinstance(error, HTTPError):
        inner = next((each for each in error.args if isinstance(each, BaseException)), error.__cause__)
        if inner is None:
            break
        error = inner
    return error


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
