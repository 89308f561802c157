"""POST over HTTP, bounded in everything: time, size, addresses; the outcome is a value, and never an exception.

The other side may be slow, broken or hostile. urllib3's own pools repeat requests, follow redirects, use proxies of
the environment, and begin their timeout anew with each byte; none of that here.
"""

import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPException, RemoteDisconnected
from ipaddress import ip_address
from math import inf
from typing import Any

from urllib3 import BaseHTTPResponse, HTTPHeaderDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util import parse_url

#: Of one name some addresses may be out of reach; one that drops packets is not to take all the time there is.
_ADDRESS_SECONDS_MAX = 4.0
#: How often the watchdog looks which requests are over their time.
_LOOK_SECONDS = 0.2
#: A socket's timeout of 0 means that it does not block.
_TIMEOUT_SECONDS_MIN = 0.001

#: What stands in the way of a request, of the network or of the other side.
_TROUBLE = (OSError, HTTPException, HTTPError, ValueError)

# It warns of headers that it cannot read, and quotes them and the URL: both may hold a secret.
logging.getLogger("urllib3.connection").disabled = True


class AddressRefusedError(OSError):
    """An address is none that may be called. The message is a sentence."""


def allow_every_address(_address: str) -> None:
    """Check nothing."""


@dataclass(frozen=True, slots=True)
class HttpResult:
    """How one request ended. The body is a beginning, if the error says so."""

    #: None where there was no answer.
    status: int | None
    #: Whether any of it may have been read by the other side.
    is_sent: bool
    headers: HTTPHeaderDict = field(repr=False)
    body: bytes = field(repr=False)
    #: Why there is no answer, or not the whole of it, in a sentence that names nothing of the URL and of the answer.
    error: str | None
    milliseconds: int


def post(
    pool: "ConnectionPool",
    target: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    seconds_max: float,
    body_bytes_max: int,
    connect_seconds_max: float = inf,
    is_repeatable: bool,
) -> HttpResult:
    """Send one request, and return what came of it. Redirects are not followed.

    The seconds are all there is, from the look-up of the name to the last byte of the answer; a connection that is not
    ready in its own time is given up. The answer's body is read up to so many bytes. A repeatable request is sent once
    more, over a new connection, where a kept one was closed before an answer; any other is written once at the most.
    """
    started = time.monotonic()
    exchange = _Exchange(pool, target, body, headers, body_bytes_max=body_bytes_max, ends_at=started + seconds_max)
    error: str | None = None
    try:
        exchange.run(connect_seconds_max=connect_seconds_max, is_repeatable=is_repeatable)
    except _TROUBLE as trouble:
        late = f"There was no answer within {seconds_max:g} seconds."
        error = late if exchange.is_late else _sentence(trouble)
    milliseconds = round((time.monotonic() - started) * 1000)
    return HttpResult(
        exchange.status,
        exchange.is_sent,
        exchange.headers,
        bytes(exchange.answer),
        error or exchange.body_error,
        milliseconds,
    )


# --- connections -----------------------------------------------------------------------------------------------------


class _Connecting:
    """How connections are made: to no address that is refused, and all addresses of a name within one time."""

    #: By the monotonic clock: when the connection must be ready.
    ends_at: float
    #: Raises `AddressRefusedError`.
    check_address: Callable[[str], None]

    _dns_host: str
    port: int

    def _new_conn(self) -> socket.socket:
        found = _resolved(self._dns_host.strip("[]"), self.port, ends_at=self.ends_at)
        for *_, address in found:
            self.check_address(str(address[0]))
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
                # A handshake of TLS takes that for all of its time, however it drips.
                sock.settimeout(_left(self.ends_at))
                return sock
        raise trouble


class _PlainConnection(_Connecting, HTTPConnection):
    pass


class _TlsConnection(_Connecting, HTTPSConnection):
    pass


_Connection = _PlainConnection | _TlsConnection


def _resolved(host: str, port: int, *, ends_at: float) -> list[tuple[Any, ...]]:
    """Look up the addresses of a host. A look-up cannot be interrupted, so another thread makes it."""
    if _is_address(host):
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    found: Future[list[tuple[Any, ...]]] = Future()

    def look_up() -> None:
        try:
            found.set_result(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except Exception as error:  # noqa: BLE001 -- raised where it is waited for
            found.set_exception(error)

    threading.Thread(target=look_up, name="resolver", daemon=True).start()
    return found.result(max(ends_at - time.monotonic(), 0))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@cache
def _tls() -> ssl.SSLContext:
    # Reading the certificates of the system takes tens of milliseconds, so all connections share them.
    return ssl.create_default_context()


class ConnectionPool:
    """The connections to one host, kept for its next requests. Safe to share between threads.

    So many are kept idle, and each for so many seconds: what stands between may forget an idle one without a word.
    """

    def __init__(
        self,
        url: str,
        *,
        check_address: Callable[[str], None] = allow_every_address,
        idle_max: int | None = None,
        idle_seconds_max: float = inf,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parsed = parse_url(url)
        self._is_tls = parsed.scheme == "https"
        self._host = parsed.host or ""
        self._port = parsed.port
        self._check_address = check_address
        self._idle_max = idle_max
        self._idle_seconds_max = idle_seconds_max
        self._tls = tls
        self._idle: deque[tuple[_Connection, float]] = deque()

    def take(self) -> _Connection:
        """Return a connection that is open, if there is one, or a new one."""
        with suppress(IndexError):
            while True:
                # The one that was used last is the least likely to be closed by the other side.
                connection, idle_since = self._idle.pop()
                if time.monotonic() - idle_since <= self._idle_seconds_max and connection.is_connected:
                    return connection
                connection.close()
        return self.new()

    def new(self) -> _Connection:
        """Return a connection that is not open yet."""
        connection: _Connection
        if self._is_tls:
            connection = _TlsConnection(self._host, self._port, ssl_context=self._tls or _tls())
        else:
            connection = _PlainConnection(self._host, self._port)
        connection.check_address = self._check_address
        return connection

    def give_back(self, connection: _Connection) -> None:
        """Keep a connection for the next request."""
        self._idle.append((connection, time.monotonic()))
        if self._idle_max is not None and len(self._idle) > self._idle_max:
            with suppress(IndexError):
                self._idle.popleft()[0].close()

    def close(self) -> None:
        """Close what is kept."""
        with suppress(IndexError):
            while True:
                self._idle.pop()[0].close()


# --- one request -----------------------------------------------------------------------------------------------------


class _Exchange:
    """One request and its answer, as far as it came."""

    def __init__(
        self,
        pool: ConnectionPool,
        target: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        body_bytes_max: int,
        ends_at: float,
    ) -> None:
        self._pool = pool
        self._target = target
        self._body = body
        self._request_headers = headers
        self._body_bytes_max = body_bytes_max
        self._ends_at = ends_at
        self.is_sent = False
        self.status: int | None = None
        self.headers = HTTPHeaderDict()
        self.answer = bytearray()
        self.body_error: str | None = None

    @property
    def is_late(self) -> bool:
        """Whether its time is over."""
        return time.monotonic() >= self._ends_at

    def run(self, *, connect_seconds_max: float, is_repeatable: bool) -> None:
        """Send, and read the answer. Raises what stands in the way."""
        connection = self._pool.take()
        was_open = connection.is_connected
        try:
            self._run(connection, connect_seconds_max)
        except (RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            # The other side may close a connection that it has not used for a while in the moment in which it is used.
            if not (is_repeatable and was_open) or self.status is not None or self.is_late:
                raise
            self._run(self._pool.new(), connect_seconds_max)

    def _run(self, connection: _Connection, connect_seconds_max: float) -> None:
        is_reusable = False
        try:
            if connection.sock is None:
                self._connect(connection, connect_seconds_max)
            sock: socket.socket = connection.sock
            connection.timeout = _left(self._ends_at)
            with _cut_at(sock, self._ends_at):
                self.is_sent = True
                connection.request("POST", self._target, self._body, self._request_headers, preload_content=False)
                response = connection.getresponse()
                if self.is_late:
                    # Where it was cut, the head ends as if that were all of it.
                    response.close()
                    raise TimeoutError
                self.status = response.status
                self.headers = response.headers
                self.body_error = self._read(response)
                is_reusable = self.body_error is None and connection.sock is not None
        finally:
            if is_reusable:
                self._pool.give_back(connection)
            else:
                connection.close()

    def _connect(self, connection: _Connection, seconds_max: float) -> None:
        connection.ends_at = min(self._ends_at, time.monotonic() + seconds_max)
        connection.timeout = _left(connection.ends_at)
        try:
            connection.connect()
        except _TROUBLE:
            if time.monotonic() >= connection.ends_at:
                raise TimeoutError from None
            raise
        # Nothing is sent after its time, whatever the look-up and the handshake took.
        if self.is_late:
            raise TimeoutError

    def _read(self, response: BaseHTTPResponse) -> str | None:
        """Read the body, and say why that is not all of it, if it is not."""
        try:
            while len(self.answer) <= self._body_bytes_max:
                piece = response.read1(self._body_bytes_max + 1 - len(self.answer), decode_content=False)
                if not piece:
                    # Where it was cut, a body without a length ends as if that were all of it.
                    return "Its answer was not complete in time." if self.is_late else None
                self.answer += piece
        except _TROUBLE:
            return (
                "Its answer was not complete in time." if self.is_late else "Its answer ended before it was complete."
            )
        finally:
            response.close()
        del self.answer[self._body_bytes_max :]
        return f"Its answer is larger than {self._body_bytes_max} bytes."


# --- time ------------------------------------------------------------------------------------------------------------


def _left(ends_at: float) -> float:
    return max(ends_at - time.monotonic(), _TIMEOUT_SECONDS_MIN)


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


# --- why there is no answer, for people ------------------------------------------------------------------------------


#: What a person is told of an error, by its class; the first that fits.
_SENTENCES: Sequence[tuple[type[BaseException] | tuple[type[BaseException], ...], str]] = (
    (AddressRefusedError, "{0}"),
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
