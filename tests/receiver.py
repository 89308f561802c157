"""A receiver of webhooks that a test runs: it keeps what comes, verifies it, and answers as the test likes."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook
from typing_extensions import override

from app.events.endpoints import Endpoint
from app.secret import Secret

SECRET = "whsec_" + "c2VjcmV0" * 5


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    #: By the monotonic clock.
    at: float

    def verified(self, secret: str = SECRET) -> Any:  # noqa: ANN401 -- JSON
        """The event, as the reference implementation of receivers reads it. Raises where the signature is wrong."""
        return Webhook(secret).verify(self.body, dict(self.headers))


#: Answers a request, or does not.
Behavior = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Takes one request after the other from a connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: "_Server"
    received: Received

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:
            # Its sender was killed in the middle of it.
            self.close_connection = True
            return
        self.received = Received(self.path, dict(self.headers.items()), body, time.monotonic())
        self.server.receiver.take(self)

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def say(self, raw: bytes) -> None:
        """Send bytes as they are, at once."""
        self.close_connection = True
        self.wfile.write(raw)
        self.wfile.flush()

    @override
    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    receiver: "Receiver"

    @override
    def handle_error(self, request: object, client_address: object) -> None:
        """A sender may hang up."""


def takes_it(handler: Handler) -> None:
    handler.answer(204)


def takes_it_after(event: threading.Event) -> Behavior:
    """Hang until something has happened, and not for longer than the sender waits."""

    def hang(handler: Handler) -> None:
        event.wait(10)
        handler.answer(204)

    return hang


def refuses(status: int = 500, body: bytes = b"no", **headers: str) -> Behavior:
    return lambda handler: handler.answer(
        status, body, {name.replace("_", "-"): text for name, text in headers.items()}
    )


@contextmanager
def a_drip(piece: bytes, *, head: bytes = b"") -> Iterator[Behavior]:
    """Answer with bytes that never end, a few at a time, until the end of the block."""
    over = threading.Event()

    def drip(handler: Handler) -> None:
        handler.say(head)
        while not over.wait(0.02):
            handler.say(piece)

    yield drip
    over.set()


@dataclass
class Receiver:
    """What has come, and how the next one is answered."""

    port: int
    behave: Behavior = takes_it
    scheme: str = "http"
    received: list[Received] = field(default_factory=list)
    #: The most requests that were there at one time.
    at_once: int = 0
    _inside: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hooks?shop=1"

    def endpoint(self, name: str = "shop", *, secrets: tuple[str, ...] = (SECRET,)) -> Endpoint:
        return Endpoint(name, self.url, tuple(map(Secret, secrets)), ("*",))

    def take(self, handler: Handler) -> None:
        with self._lock:
            self.received.append(handler.received)
            self._inside += 1
            self.at_once = max(self.at_once, self._inside)
        try:
            self.behave(handler)
        finally:
            with self._lock:
                self._inside -= 1

    def events(self) -> list[Any]:
        """What was received, verified, in order."""
        return [each.verified() for each in list(self.received)]

    def told(self) -> list[tuple[str, int]]:
        """Of which authorizations, by their authState, which moves were told, in order."""
        return [(each["data"]["authState"], each["data"]["sequence"]) for each in self.events()]

    def wait_for(self, number: int, *, seconds: float = 20) -> None:
        """Return once so many requests have come."""
        deadline = time.monotonic() + seconds
        while len(self.received) < number:
            assert time.monotonic() < deadline, f"{len(self.received)} of {number} came"
            time.sleep(0.01)


@contextmanager
def a_receiver(behave: Behavior = takes_it, *, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Receive until the end of the block."""
    server = _Server(("127.0.0.1", port), Handler)
    if tls is not None:
        # Each connection shakes hands in its own thread, when it is first read.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    receiver = server.receiver = Receiver(server.server_port, behave, "http" if tls is None else "https")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
