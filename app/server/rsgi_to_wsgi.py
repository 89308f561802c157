"""The bridge between granian's event loop (RSGI) and the application (WSGI).

The loop reads each body within bounds of time, size and pieces, and only then calls the application: in a thread, or on
the loop itself for paths that never block. So a slow client costs a socket and no thread. A deferred response costs no
thread either: the thread that resolves it hands it to the loop.
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
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from http import HTTPStatus
from io import BytesIO
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from wsgiref.types import WSGIApplication, WSGIEnvironment

from app.limits import BODY_SECONDS_MAX, THREAD_WAIT_SECONDS_MAX, WAITING_PER_THREAD_MAX
from app.logs import failure
from app.server.connections import Connections

if TYPE_CHECKING:
    from granian.rsgi import HTTPProtocol, Scope  # type: ignore[attr-defined] # it does not say that it exports both

_log = logging.getLogger(__name__)

#: Key of the WSGI environment: with which status the application is to refuse a request, unread and with nothing done.
REJECT_STATUS = "notifyauth.refusal"
#: Key of the WSGI environment: when the request was whole, by `time.perf_counter`. Waiting for a thread takes time too.
RECEIVED = "notifyauth.received"

#: A request line and headers. Those of a notification have a kilobyte, and what a proxy adds another one or two.
HEAD_BYTES_MAX = 64 * 1024
#: Each piece is a turn of the loop, some 25 microseconds: 65,000 pieces of a byte would keep it for two seconds. With
#: this many, pieces of a quarter of a kilobyte make up the largest body, and a proxy passes on four or more.
BODY_CHUNKS_MAX = 256

#: A thread that still works this long after the server has ended has no client left.
_END_SECONDS_MAX = 5

#: A length of more digits is larger than any body, and takes no time to read.
_LENGTH_DIGITS_MAX = 18

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
    """What an application returns for a response that is not known yet.

    A server that knows nothing of this iterates over it, as over any other response, and so waits.
    """

    @abstractmethod
    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call this once the response can be read without waiting: now, or later and from any thread."""

    @abstractmethod
    def __iter__(self) -> Iterator[bytes]:
        """Wait until the response is known, and read it."""

    #: Whether to tell it when its client goes away. Watching a client costs, and most responses are soon known.
    is_for_client_only: bool = False

    def leave(self) -> None:  # noqa: B027 -- most have nothing to do then
        """Take note that the client has gone away: the response is not read any more."""


@dataclass(slots=True)
class _ResponseQueue:
    """Hands responses from threads to the loop, which is woken once for all that are queued.

    Waking it is a system call, and the responses to one batch come one right after the other.
    """

    _responses: "deque[tuple[asyncio.Future[Response], Response]]" = field(default_factory=deque)
    #: Whether the loop was woken and has not begun to empty this since.
    _is_woken: bool = False

    def put(self, future: "asyncio.Future[Response]", response: Response) -> None:
        """Hand over a response, from any thread."""
        # In this order: the loop lowers the flag and then looks. If the flag is still up here, it has yet to look, and
        # will find this response. Two threads that both find it down wake the loop once too often, which does no harm.
        self._responses.append((future, response))
        if not self._is_woken:
            self._is_woken = True
            # A loop that has ended has no client left.
            with suppress(RuntimeError):
                future.get_loop().call_soon_threadsafe(self._empty)

    def _empty(self) -> None:
        self._is_woken = False
        while self._responses:
            future, response = self._responses.popleft()
            # The client may have gone away by now.
            if not future.done():
                future.set_result(response)


@dataclass(slots=True)
class _Task:
    """A request that is whole, on its way to a thread."""

    environ: WSGIEnvironment
    respond: Callable[[Response], None]
    watch: Callable[[Deferred], object]
    since: float = field(default_factory=time.monotonic)

    def waited(self) -> float:
        """Say for how many seconds it has been waiting."""
        return time.monotonic() - self.since


def _never(_path: str) -> bool:
    return False


def _nothing() -> None:
    pass


@dataclass
class RsgiToWsgi:
    """What granian calls for every request, on its event loop."""

    application: WSGIApplication
    threads: int
    _: KW_ONLY
    #: Of a larger body no more is read than shows that it is too large.
    body_bytes_max: int
    #: Says whether the application never blocks for this path, so that the loop itself calls it. There are no more such
    #: requests at once than connections.
    is_inline: Callable[[str], bool] = _never
    #: Told of every request, so that it can tell an idle connection from one whose head does not end.
    connections: Connections | None = None
    #: Whether every response ends its connection, so that none is open when the server stops.
    is_draining: bool = False
    #: Told when the worker begins to drain, in a signal handler: those whose response may take long are to get one.
    on_drain: Callable[[], None] = _nothing
    _watches: set[asyncio.Task[None]] = field(default_factory=set)
    _responses: _ResponseQueue = field(default_factory=_ResponseQueue)
    #: `None` ends a thread.
    _tasks: "SimpleQueue[_Task | None]" = field(default_factory=SimpleQueue)
    _threads: list[threading.Thread] = field(default_factory=list)
    _serving_callback: Callable[[], None] = _nothing

    def __post_init__(self) -> None:
        for number in range(self.threads):
            thread = threading.Thread(target=self._run_tasks, name=f"request-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def drain(self) -> None:
        """End each connection with its next response."""
        self.is_draining = True
        self.on_drain()

    def add_serving_callback(self, callback: Callable[[], None], /) -> None:
        """Have this called once the loop runs and the server listens."""
        self._serving_callback = callback

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take note of the loop, which runs once granian listens."""
        loop.call_soon(self._serving_callback)

    def __rsgi_del__(self, _loop: asyncio.AbstractEventLoop) -> None:
        """End the threads: one that runs on while the interpreter ends can take the process down with it."""
        for _ in self._threads:
            self._tasks.put(None)
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
                environ["wsgi.input"] = BytesIO(await _body(environ, protocol, self.body_bytes_max))
        except _RejectedError as rejected:
            response = self._reject(environ, rejected.status)
        except TimeoutError:
            response = self._reject(environ, HTTPStatus.REQUEST_TIMEOUT)
        else:
            response = await self._call_application(environ, protocol, is_inline=self.is_inline(scope.path))
        status, headers, body = response
        if self.is_draining:
            headers = [*headers, ("Connection", "close")]
        protocol.response_bytes(status, headers, body)

    async def _call_application(
        self, environ: WSGIEnvironment, protocol: "HTTPProtocol", *, is_inline: bool
    ) -> Response:
        if not is_inline and self._tasks.qsize() >= self.threads * WAITING_PER_THREAD_MAX:
            return self._reject(environ, HTTPStatus.SERVICE_UNAVAILABLE)
        environ[RECEIVED] = time.perf_counter()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Response] = loop.create_future()
        respond = partial(self._responses.put, future)

        def watch(body: Deferred) -> None:
            loop.call_soon_threadsafe(self._watch, protocol, future, body)

        if is_inline:
            _call_and_respond(self.application, environ, respond, watch)
        else:
            self._tasks.put(_Task(environ, respond, watch))
        return await future

    def _watch(self, protocol: "HTTPProtocol", future: "asyncio.Future[Response]", body: Deferred) -> None:
        """Watch a client while its response is not known."""
        task = asyncio.ensure_future(_leave_with_client(protocol, future, body))
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)

    def _reject(self, environ: WSGIEnvironment, status: HTTPStatus) -> Response:
        """Let the application refuse in its own words. It touches nothing for that, so the loop can call it."""
        status_code, headers, body = _call(
            self.application, environ | {REJECT_STATUS: status, "wsgi.input": BytesIO(), "CONTENT_LENGTH": "0"}
        )
        # What else comes over this connection would be the rest of a body.
        return status_code, [*headers, ("Connection", "close")], body

    def _run_tasks(self) -> None:
        while (task := self._tasks.get()) is not None:
            if task.waited() > THREAD_WAIT_SECONDS_MAX:
                task.respond(self._reject(task.environ, HTTPStatus.SERVICE_UNAVAILABLE))
            else:
                _call_and_respond(self.application, task.environ, task.respond, task.watch)


class _RejectedError(Exception):
    """A request is not read to its end: that would cost more than any may."""

    def __init__(self, status: HTTPStatus) -> None:
        self.status = status


async def _body(environ: WSGIEnvironment, protocol: "HTTPProtocol", bytes_max: int) -> bytes:
    """Read the body, or so much of it that the application sees that it is too large.

    Where the client went away the body ends, as if that were all: its announced length tells. Raises `_RejectedError`
    where it comes in too many pieces.
    """
    announced = announced_length(environ)
    if announced is not None and announced > bytes_max:
        return b""
    # Waiting to be told that there is no more would cost another turn of the loop.
    enough = bytes_max + 1 if announced is None else announced
    pieces: list[bytes] = []
    length = 0
    async for chunk in protocol:
        pieces.append(chunk)
        length += len(chunk)
        if length >= enough:
            break
        if len(pieces) >= BODY_CHUNKS_MAX:
            raise _RejectedError(HTTPStatus.BAD_REQUEST)
    return b"".join(pieces)


def announced_length(environ: WSGIEnvironment) -> int | None:
    """Return what Content-Length says, zeros in front or not (RFC 9110, 8.6), or `None` without one that is a number.

    A number of very many digits is cut to a number that is larger than any body.
    """
    announced = environ.get("CONTENT_LENGTH", "")
    if not (announced.isascii() and announced.isdigit()):
        return None
    digits = announced.lstrip("0") or "0"
    return int(digits) if len(digits) <= _LENGTH_DIGITS_MAX else 10**_LENGTH_DIGITS_MAX


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
    """Refuse a head that the server let pass because it came in one piece. Raises `_RejectedError`."""
    if sum(len(value) for value in environ.values() if isinstance(value, str)) > HEAD_BYTES_MAX:
        raise _RejectedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)


def _call(application: WSGIApplication, environ: WSGIEnvironment) -> Response:
    """Call the application, and read its response here and now."""
    call = _Call(environ)
    return call.read(call.begin(application))


async def _leave_with_client(protocol: "HTTPProtocol", future: "asyncio.Future[Response]", body: Deferred) -> None:
    """Tell a response that is not known yet when its client goes away, and end the request."""
    gone = asyncio.ensure_future(_disconnected(protocol))
    either: set[asyncio.Future[Any]] = {gone, future}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if future.done():
        gone.cancel()
        return
    body.leave()
    # Nobody reads it.
    future.set_result((HTTPStatus.SERVICE_UNAVAILABLE, [], b""))


async def _disconnected(protocol: "HTTPProtocol") -> None:
    await protocol.client_disconnect()


def _call_and_respond(
    application: WSGIApplication,
    environ: WSGIEnvironment,
    respond: Callable[[Response], None],
    watch: Callable[[Deferred], object],
) -> None:
    """Call the application, and hand over its response, now or once it is known."""
    call = _Call(environ)
    body = call.begin(application)
    try:
        if isinstance(body, Deferred):
            if body.is_for_client_only:
                watch(body)
            body.add_done_callback(lambda: respond(call.read(body)))
            return
    except BaseException as error:  # noqa: BLE001 -- as below
        body = call.fail(error)
    respond(call.read(body))


class _Call:
    """One call of the application, which has a response even where the application raises.

    Else the client would wait for ever, and the thread would be gone.
    """

    def __init__(self, environ: WSGIEnvironment) -> None:
        self._environ = environ
        self._started: list[Any] = []

    def begin(self, application: WSGIApplication) -> Iterable[bytes]:
        """Return its body, which need not be known yet."""
        try:
            return application(self._environ, self._start)
        except BaseException as error:  # noqa: BLE001 -- a panic of a library too: the client is told, the thread goes on
            return self.fail(error)

    def read(self, body: Iterable[bytes]) -> Response:
        """Read the body to its end."""
        try:
            try:
                whole = b"".join(body)
            finally:
                if hasattr(body, "close"):
                    body.close()
            status, headers = self._started
        except BaseException as error:  # noqa: BLE001 -- as above
            whole = b"".join(self.fail(error))
            status, headers = self._started
        return status, headers, whole

    def fail(self, error: BaseException) -> list[bytes]:
        """Respond in place of the application."""
        _log.error("request failed", extra={"path": self._environ["PATH_INFO"], **failure(error)})
        self._start("500", [("Content-Type", "text/plain")])
        return [b"The service failed. Its log says where."]

    def _start(self, status: str, headers: list[tuple[str, str]], _: object = None) -> Any:  # noqa: ANN401 -- nobody writes
        self._started = [int(status.partition(" ")[0]), headers]
