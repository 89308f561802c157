"""Wait for every request to be whole before a thread takes it, so that a slow client costs a socket and no thread.

Granian speaks RSGI, an event loop's interface, to this file, and this file speaks WSGI to the application: the loop
reads the body within a bounded time, a thread answers, and whoever would only wait is refused at once. An answer that
is not known yet is waited for by no thread: whoever comes to know it sends it.
"""

import asyncio
import logging
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from io import BytesIO
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from wsgiref.types import WSGIApplication, WSGIEnvironment

from app.alipay.delivery import BODY_BYTES_MAX
from app.logs import failure
from app.server.connections import Connections

if TYPE_CHECKING:
    from granian.rsgi import HTTPProtocol, Scope  # type: ignore[attr-defined] # it does not say that it exports both

_log = logging.getLogger(__name__)

#: Where the application finds the status with which it is to refuse a request, unread and with nothing done.
REJECT_STATUS = "notifyauth.refusal"
#: Where it finds when the request was whole, by the clock of `time.perf_counter`: waiting for a thread takes time too.
RECEIVED = "notifyauth.received"

#: A request line and headers. Those of a notification have a kilobyte, and what a proxy adds another one or two.
HEAD_BYTES_MAX = 64 * 1024
#: A notification is a kilobyte. Whoever needs longer than this to send one is not Alipay.
BODY_SECONDS_MAX = 10
#: Each piece is a turn of the loop, some 25 microseconds: 65,000 pieces of a byte would keep it for two seconds. With
#: this many, pieces of a quarter of a kilobyte make up the largest body, and a proxy passes on four or more.
BODY_CHUNKS_MAX = 256
#: Requests that wait for a thread, for each thread. More would be answered after their senders have given up.
WAITING_PER_THREAD_MAX = 16
#: What a request may wait for a thread before it is refused unread: behind a stuck database a queue hardly moves.
WAITING_SECONDS_MAX = 3

#: Whatever still goes on in a thread when the server ends has nobody left to answer.
_END_SECONDS_MAX = 5

#: What every request is told (PEP 3333).
_SAME_FOR_ALL: WSGIEnvironment = {
    "SCRIPT_NAME": "",
    "wsgi.version": (1, 0),
    "wsgi.errors": sys.stderr,
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
    "wsgi.input_terminated": True,
}

Response = tuple[int, list[tuple[str, str]], bytes]


class Deferred(ABC):
    """What an application returns whose answer is not known yet. Whoever just reads it, as any server may, waits."""

    @abstractmethod
    def add_done_callback(self, tell: Callable[[], None]) -> None:
        """Call this once the answer can be read without waiting: now, or later and from any thread."""

    @abstractmethod
    def __iter__(self) -> Iterator[bytes]:
        """Wait until the answer is known, and read it."""


@dataclass(slots=True)
class _ResponseQueue:
    """Takes answers from threads to the loop, which is woken once for all that are there.

    Waking it is a system call, and those who shared a transaction are answered one right after the other.
    """

    _answers: "deque[tuple[asyncio.Future[Response], Response]]" = field(default_factory=deque)
    #: Whether the loop was woken and has not begun to empty this since.
    _is_woken: bool = False

    def put(self, answered: "asyncio.Future[Response]", response: Response) -> None:
        """Hand over an answer, from any thread."""
        # In this order: the loop lowers the flag and then looks. If the flag is still up here, it has yet to look, and
        # will find this answer. Two threads that both find it down wake the loop once too often, which does no harm.
        self._answers.append((answered, response))
        if not self._is_woken:
            self._is_woken = True
            # A loop that has ended has nobody left to answer.
            with suppress(RuntimeError):
                answered.get_loop().call_soon_threadsafe(self._empty)

    def _empty(self) -> None:
        self._is_woken = False
        while self._answers:
            answered, response = self._answers.popleft()
            # The sender may have given up in the meantime.
            if not answered.done():
                answered.set_result(response)


@dataclass(slots=True)
class _Task:
    """A request that is whole, and what its sender waits on."""

    environ: WSGIEnvironment
    answered: "asyncio.Future[Response]"
    since: float = field(default_factory=time.monotonic)

    def waited(self) -> float:
        """Say for how many seconds it has been waiting."""
        return time.monotonic() - self.since


@dataclass
class RsgiToWsgi:
    """What granian calls for every request, on its event loop."""

    application: WSGIApplication
    threads: int
    #: Paths that wait for nothing, and so need not wait for a thread either.
    inline_paths: frozenset[str] = frozenset()
    #: Told of every request, so that it can tell an idle connection from one whose head does not end.
    connections: Connections | None = None
    #: Whether every answer ends its connection, so that none is open when the server stops.
    is_draining: bool = False
    _outbox: _ResponseQueue = field(default_factory=_ResponseQueue)
    #: `None` ends a thread.
    _works: "SimpleQueue[_Task | None]" = field(default_factory=SimpleQueue)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number in range(self.threads):
            thread = threading.Thread(target=self._work, name=f"request-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def drain(self) -> None:
        """End each connection with its next answer."""
        self.is_draining = True

    def __rsgi_del__(self, _loop: asyncio.AbstractEventLoop) -> None:
        """End the threads: one that runs on while the interpreter ends can take the process down with it."""
        for _ in self._threads:
            self._works.put(None)
        deadline = time.monotonic() + _END_SECONDS_MAX
        for thread in self._threads:
            thread.join(max(0, deadline - time.monotonic()))

    async def __call__(self, scope: "Scope", protocol: "HTTPProtocol") -> None:
        """Answer one request."""
        if self.connections is None:
            await self._answer(scope, protocol)
            return
        self.connections.request_begins(scope.client)
        try:
            await self._answer(scope, protocol)
        finally:
            self.connections.request_ends(scope.client)

    async def _answer(self, scope: "Scope", protocol: "HTTPProtocol") -> None:
        environ = _environ(scope)
        try:
            _require_short_head(environ)
            async with asyncio.timeout(BODY_SECONDS_MAX):
                environ["wsgi.input"] = BytesIO(await _body(environ, protocol))
        except _RefusedError as refused:
            response = self._refused(environ, refused.status)
        except TimeoutError:
            response = self._refused(environ, HTTPStatus.REQUEST_TIMEOUT)
        else:
            inline_paths = scope.path in self.inline_paths
            response = _call(self.application, environ) if inline_paths else await self._answered(environ)
        status, headers, body = response
        if self.is_draining:
            headers = [*headers, ("Connection", "close")]
        protocol.response_bytes(status, headers, body)

    async def _answered(self, environ: WSGIEnvironment) -> Response:
        if self._works.qsize() >= self.threads * WAITING_PER_THREAD_MAX:
            return self._refused(environ, HTTPStatus.SERVICE_UNAVAILABLE)
        environ[RECEIVED] = time.perf_counter()
        work = _Task(environ, asyncio.get_running_loop().create_future())
        self._works.put(work)
        return await work.answered

    def _refused(self, environ: WSGIEnvironment, status: HTTPStatus) -> Response:
        """Let the application say it in its own words. It touches nothing for that, so the loop can do it itself."""
        status_code, headers, body = _call(
            self.application, environ | {REJECT_STATUS: status, "wsgi.input": BytesIO(), "CONTENT_LENGTH": "0"}
        )
        # What else comes over this connection would be the rest of a body.
        return status_code, [*headers, ("Connection", "close")], body

    def _work(self) -> None:
        while (work := self._works.get()) is not None:
            tell = partial(self._outbox.put, work.answered)
            if work.waited() > WAITING_SECONDS_MAX:
                tell(self._refused(work.environ, HTTPStatus.SERVICE_UNAVAILABLE))
            else:
                # Where the answer is not known yet, the thread is free: of those requests there may be one for each
                # connection, whose number the server bounds.
                _call_and_tell(self.application, work.environ, tell)


class _RefusedError(Exception):
    """A request is not read to its end: it would cost more than any may."""

    def __init__(self, status: HTTPStatus) -> None:
        self.status = status


async def _body(environ: WSGIEnvironment, protocol: "HTTPProtocol") -> bytes:
    """Read the body, or so much of it that whoever reads on sees that it is too large.

    Where the client went away the body ends, as if that were all: its announced length tells. Raises `_RefusedError`
    where it comes in too many pieces.
    """
    announced = announced_length(environ)
    if announced is not None and announced > BODY_BYTES_MAX:
        return b""
    # Waiting to be told that there is no more would cost another turn of the loop.
    enough = BODY_BYTES_MAX + 1 if announced is None else announced
    pieces: list[bytes] = []
    length = 0
    async for chunk in protocol:
        pieces.append(chunk)
        length += len(chunk)
        if length >= enough:
            break
        if len(pieces) >= BODY_CHUNKS_MAX:
            raise _RefusedError(HTTPStatus.BAD_REQUEST)
    return b"".join(pieces)


def announced_length(environ: WSGIEnvironment) -> int | None:
    """Return what Content-Length says, zeros in front or not (RFC 9110, 8.6), or `None` without one that is a number.

    A number of more digits than any body here has is as good as the first that is too large, and takes no time to read.
    """
    announced = environ.get("CONTENT_LENGTH", "")
    if not (announced.isascii() and announced.isdigit()):
        return None
    digits = announced.lstrip("0") or "0"
    return int(digits) if len(digits) <= len(str(BODY_BYTES_MAX)) else BODY_BYTES_MAX + 1


def _environ(scope: "Scope") -> WSGIEnvironment:
    """Describe a request as PEP 3333 has it. A header's name with an underscore would pass for one with a hyphen."""
    host, _, port = scope.server.rpartition(":")
    environ = _SAME_FOR_ALL | {
        "REQUEST_METHOD": scope.method,
        "PATH_INFO": scope.path.encode().decode("latin-1"),
        "QUERY_STRING": scope.query_string.encode().decode("latin-1"),
        "REMOTE_ADDR": scope.client.rpartition(":")[0].strip("[]"),
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "wsgi.url_scheme": scope.scheme,
    }
    for name, value in scope.headers.items():
        if "_" in name:
            continue
        key = name.upper().replace("-", "_")
        key = key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}"
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ


def _require_short_head(environ: WSGIEnvironment) -> None:
    """Refuse a head that the server let pass because it came in one piece. Raises `_RefusedError`."""
    if sum(len(value) for value in environ.values() if isinstance(value, str)) > HEAD_BYTES_MAX:
        raise _RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)


def _call(application: WSGIApplication, environ: WSGIEnvironment) -> Response:
    """Have the application answer here and now."""
    call = _Call(environ)
    return call.read(call.begin(application))


def _call_and_tell(application: WSGIApplication, environ: WSGIEnvironment, tell: Callable[[Response], None]) -> None:
    """Have the application answer, now or later."""
    call = _Call(environ)
    pieces = call.begin(application)
    try:
        if isinstance(pieces, Deferred):
            pieces.add_done_callback(lambda: tell(call.read(pieces)))
            return
    except BaseException as error:  # noqa: BLE001 -- as below
        pieces = call.fail(error)
    tell(call.read(pieces))


class _Call:
    """One call of the application, of which a response comes whatever happens.

    A thread that ended would never be missed until all have.
    """

    def __init__(self, environ: WSGIEnvironment) -> None:
        self._environ = environ
        self._started: list[Any] = []

    def begin(self, application: WSGIApplication) -> Iterable[bytes]:
        """Return the pieces of its answer."""
        try:
            return application(self._environ, self._start)
        except BaseException as error:  # noqa: BLE001 -- a panic of a library too: its sender is told, the thread goes on
            return self.fail(error)

    def read(self, pieces: Iterable[bytes]) -> Response:
        """Read an answer to its end."""
        try:
            try:
                body = b"".join(pieces)
            finally:
                if hasattr(pieces, "close"):
                    pieces.close()
            status, headers = self._started
        except BaseException as error:  # noqa: BLE001 -- as above
            body = b"".join(self.fail(error))
            status, headers = self._started
        return status, headers, body

    def fail(self, error: BaseException) -> list[bytes]:
        """Answer in place of the application."""
        _log.error("request failed", extra={"path": self._environ["PATH_INFO"], **failure(error)})
        self._start("500", [("Content-Type", "text/plain")])
        return [b"The service failed. Its log says where."]

    def _start(self, status: str, headers: list[tuple[str, str]], _: object = None) -> Any:  # noqa: ANN401 -- nobody writes
        self._started = [int(status.partition(" ")[0]), headers]
