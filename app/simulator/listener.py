"""A pretend endpoint: takes webhooks, verifies each, and says which of them a receiver would drop.

It can be told to answer as a receiver in trouble does, so that one sees what the service makes of that.
"""

import base64
import binascii
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from standardwebhooks import Webhook, WebhookVerificationError
from typing_extensions import override

_SECRET_PREFIX = "whsec_"  # noqa: S105 -- what every secret begins with
#: What Standard Webhooks recommends: from 24 to 64.
_SECRET_BYTES = 32
#: An event has some hundreds.
_BODY_BYTES_MAX = 65_536
#: A client that says nothing for so long is gone.
_IDLE_SECONDS_MAX = 120


class UnusableSecretError(Exception):
    """A secret is not as Standard Webhooks writes one."""

    def __init__(self) -> None:
        super().__init__("A secret is whsec_ and base64 behind it, such as one that flask simulator listen makes.")


def new_secret() -> str:
    """Make a secret, as `endpoints.toml` takes it."""
    return _SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


@dataclass(frozen=True, slots=True)
class Answers:
    """How an endpoint answers what it has verified."""

    #: A status other than 2xx, or `None` to take everything.
    status: int | None = None
    #: How many requests are answered so, after which all are taken; `None` for all.
    times: int | None = None
    #: How long it thinks before each answer.
    delay_seconds: float = 0
    #: Where a redirect leads.
    location: str | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that came, and what a receiver makes of it."""

    webhook_id: str | None
    #: What it tells, once it is verified.
    event: Mapping[str, Any]
    #: Why it does not verify.
    problem: str | None
    #: Why a receiver that takes it does nothing more with it.
    dropped: str | None
    #: What it is answered with.
    status: int

    @property
    def is_taken(self) -> bool:
        """Whether the answer says that it need not come again."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


@dataclass(slots=True)
class Receiver:
    """Decides about webhooks as a receiver should: verify, drop a repeat, drop what is older than what is known."""

    webhook: Webhook
    answers: Answers
    _answered: int = 0
    _ids: set[str] = field(default_factory=set)
    #: The highest sequence that came of each authorization.
    _sequences: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def with_secret(cls, secret: str, answers: Answers) -> Self:
        """Make one that knows a secret. Raises `UnusableSecretError`."""
        try:
            if not secret.startswith(_SECRET_PREFIX):
                raise UnusableSecretError
            key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
        except binascii.Error:
            raise UnusableSecretError from None
        if not key:
            raise UnusableSecretError
        return cls(Webhook(key), answers)

    def receive(self, headers: Mapping[str, str], body: bytes) -> Arrival:
        """Verify a request and decide about it. One that is not taken leaves nothing behind: it comes again."""
        webhook_id = headers.get("webhook-id")
        with self._lock:
            try:
                event = self.webhook.verify(body, dict(headers))
            except (WebhookVerificationError, ValueError, RecursionError) as error:
                said = str(error) if isinstance(error, WebhookVerificationError) else "It is not as the standard says"
                return Arrival(webhook_id, {}, said, None, HTTPStatus.UNAUTHORIZED)
            if not isinstance(event, dict) or not isinstance(data := event.get("data"), dict):
                return Arrival(webhook_id, {}, "What is signed is no event", None, HTTPStatus.BAD_REQUEST)
            dropped = self._why_dropped(str(webhook_id), data)
            arrival = Arrival(webhook_id, event, None, dropped, self._status())
            if arrival.is_taken:
                self._remember(str(webhook_id), data)
            return arrival

    def _why_dropped(self, webhook_id: str, data: Mapping[str, Any]) -> str | None:
        if webhook_id in self._ids:
            return "a repeat: this webhook-id was taken before"
        known, sequence = self._sequences.get(str(data.get("authorizationId"))), data.get("sequence")
        if isinstance(sequence, int) and known is not None and sequence < known:
            return f"late: sequence {known} of this authorization was taken before"
        return None

    def _remember(self, webhook_id: str, data: Mapping[str, Any]) -> None:
        self._ids.add(webhook_id)
        authorization_id, sequence = str(data.get("authorizationId")), data.get("sequence")
        if isinstance(sequence, int):
            self._sequences[authorization_id] = max(sequence, self._sequences.get(authorization_id, 0))

    def _status(self) -> int:
        self._answered += 1
        is_over = self.answers.times is not None and self._answered > self.answers.times
        return HTTPStatus.OK if self.answers.status is None or is_over else self.answers.status


class Listener:
    """Listens on the loopback and hands each request to a receiver."""

    def __init__(self, receiver: Receiver, on_arrival: Callable[[Arrival], None], *, port: int) -> None:
        """Begin to listen; port 0 is any that is free. Raises `OSError` where another program does already."""
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.receiver = receiver
        self._server.on_arrival = on_arrival
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def listen(self) -> None:
        """Take requests until it is closed."""
        self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stop, from another thread than the one that listens, or once that has been interrupted."""
        self._server.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    receiver: Receiver
    on_arrival: Callable[[Arrival], None]
    #: A request that is kept waiting holds nobody up at the end.
    daemon_threads = True
    block_on_close = False

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS_MAX
    # An answer goes out in one packet, or the next request waits for a delayed acknowledgement of TCP's.
    wbufsize = -1

    def do_POST(self) -> None:
        """Take a webhook."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _BODY_BYTES_MAX:
            self.close_connection = True
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        arrival = self.server.receiver.receive(headers, self.rfile.read(int(length)))
        self.server.on_arrival(arrival)
        answers = self.server.receiver.answers
        if answers.delay_seconds:
            time.sleep(answers.delay_seconds)
        self._answer(arrival.status, answers.location, said=arrival.problem)

    def _answer(self, status: int, location: str | None = None, *, said: str | None = None) -> None:
        body = json.dumps({"problem": said}).encode() if said else b""
        self.send_response(status)
        if location is not None and status // 100 == HTTPStatus.FOUND // 100:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what arrives is told to the listener."""
