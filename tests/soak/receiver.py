"""An endpoint of the merchant's: it verifies each webhook and takes it, or does whatever else an endpoint may do."""

import base64
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from standardwebhooks import Webhook
from typing_extensions import override

#: What it does with a request:
Manner = Literal[
    "take",  # and say so
    "refuse",
    "hang",  # until it is told something else, without an answer
    "drop",  # the connection, though it has taken what came: a lie
    "deny",  # with 500 that it has taken what it has: a lie, too
    "babble",  # something that is no HTTP
    "redirect",
]
_STATUS = {"take": 204, "refuse": 503, "deny": 500, "redirect": 302}
_HANGS_SECONDS_MAX = 15


@dataclass(frozen=True)
class Taken:
    """A webhook that was verified and taken."""

    webhook_id: str
    document: Mapping[str, Any]
    at: datetime
    #: Whether the service was told so.
    is_admitted: bool


@dataclass
class Receiver:
    """One endpoint, with a secret of its own. Its manner may change at any moment."""

    name: str
    secret: str = field(default_factory=lambda: "whsec_" + base64.b64encode(os.urandom(32)).decode())
    manner: Manner = "take"
    taken: list[Taken] = field(default_factory=list)
    #: What must not come: requests whose signature is wrong, and bodies, for whoever looks for secrets.
    wrong: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}/hooks/{self.name}"

    @property
    def table(self) -> str:
        """Its part of endpoints.toml."""
        return f'[endpoints.{self.name}]\nurl = "{self.url}"\nsecrets = ["{self.secret}"]\n'

    @contextmanager
    def listening(self) -> Iterator["Receiver"]:
        """Listen until the end of the block."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:
                    # The sender was killed in the middle of it.
                    self.close_connection = True
                    return
                receiver._handle(self, body)

            @override
            def log_message(self, format: str, *arguments: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            @override
            def handle_error(self, request: Any, client_address: Any) -> None:
                # Whoever sent it is gone.
                pass

        with Server(("127.0.0.1", 0), Handler) as server:
            self._server = server
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            try:
                yield self
            finally:
                self.manner = "refuse"
                server.shutdown()

    def _handle(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        manner = self.manner
        self.bodies.append(body)
        if manner == "hang":
            over_at = time.monotonic() + _HANGS_SECONDS_MAX
            while self.manner == "hang" and time.monotonic() < over_at:
                time.sleep(0.02)
            manner = "refuse"
        if manner in {"take", "drop", "deny"}:
            try:
                document = Webhook(self.secret).verify(body, dict(request.headers.items()))
            except Exception as error:  # noqa: BLE001 -- whatever it is, it is to be seen
                self.wrong.append(f"{self.name} was sent what does not verify: {error!r}, {len(body)} bytes")
            else:
                webhook_id = str(request.headers["webhook-id"])
                self.taken.append(Taken(webhook_id, document, datetime.now(UTC), is_admitted=manner == "take"))
        if manner in {"drop", "babble"}:
            if manner == "babble":
                request.wfile.write(b"taken, thank you\r\n\r\n")
            request.close_connection = True
            return
        request.send_response(_STATUS[manner])
        if manner == "redirect":
            request.send_header("Location", f"{self.url}/elsewhere")
        request.send_header("Content-Length", "0")
        request.end_headers()


def write_endpoints(path: Path, *receivers: Receiver) -> Path:
    """Write an endpoints.toml that names these."""
    path.write_text("\n".join(each.table for each in receivers))
    return path
