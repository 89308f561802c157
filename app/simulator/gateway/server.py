"""The HTTP side of a pretend gateway: calls under /ams, pages for users, and the control of faults.

It listens on the loopback only, and a page of another site in the same browser cannot use it: the Host must be ours
(against DNS rebinding), and a form or a control that comes from another origin is refused.
"""

import json
import select
import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from typing_extensions import override

from app.alipay.delivery import BODY_BYTES_MAX, Delivery
from app.simulator.gateway.answers import Answer, Sending
from app.simulator.gateway.pages import Page

#: A client that says nothing for so long is gone.
_IDLE_SECONDS_MAX = 120
#: No caller waits longer for an answer that does not come.
_HANGING_SECONDS_MAX = 60
_DRIPS_PER_SECOND = 3
_ENDLESS_PIECE = b" " * 4096
_HOSTS = {"127.0.0.1", "localhost"}
_FORM_FIELDS_MAX = 16
#: So much of a body that is too large is read, so that its sender hears why it is refused.
_PASSED_OVER_BYTES_MAX = 1024 * 1024


class Site(Protocol):
    """What a gateway answers with, given what was asked."""

    def call(self, delivery: Delivery, *, content_type: str, base_url: str) -> Answer:
        """Answer a call; `base_url` is where the browser finds this gateway."""

    def before_waiting(self, answer: Answer) -> None:
        """Do what comes before an answer, and before the time that it takes."""

    def before_writing(self, answer: Answer) -> None:
        """Do what comes last before an answer is written."""

    def after_writing(self, answer: Answer, *, whole: bool) -> None:
        """Do what comes after an answer, which may not have been written whole."""

    def show(self, path: str, query: Mapping[str, str], *, base_url: str) -> Page:
        """Answer a browser that looks."""

    def submit(self, path: str, form: Mapping[str, str]) -> Page:
        """Answer a browser that sends a form."""

    def control(self, method: str, path: str, body: bytes) -> tuple[int, Any] | None:
        """Answer a program: a status and JSON; `None` where the path is none of this kind."""


class Server(ThreadingHTTPServer):
    """Listens on the loopback, with a thread for each connection."""

    daemon_threads = True
    block_on_close = False
    #: A life is a handful of connections, and a hundred may begin in the same second.
    request_queue_size = 1024

    def __init__(self, site: Site, *, port: int) -> None:
        """Begin to listen; port 0 is any that is free. Raises `OSError` where another program does already."""
        self.site = site
        #: Set once the gateway is closed: what hangs lets go.
        self.is_closing = threading.Event()
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away; any other error is a fault of ours, and is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS_MAX
    # An answer goes out in one packet, or the next request waits for a delayed acknowledgement of TCP's.
    wbufsize = -1
    server_version = "notifyauth-simulator"
    sys_version = ""

    def do_GET(self) -> None:
        """Show a page, or answer a program."""
        self._serve(self._read_body())

    def do_POST(self) -> None:
        """Take a call, a form, or what a program wants."""
        self.do_GET()

    def do_DELETE(self) -> None:
        """Do what a program wants."""
        self.do_GET()

    def _serve(self, body: bytes | None) -> None:
        if body is None:
            return
        if self.path.startswith("/ams/"):
            self._call(body)
            return
        address = urlsplit(self.path)
        path = address.path
        if not self._is_from_here():
            self._write(HTTPStatus.FORBIDDEN, {"Content-Type": "text/plain"}, b"This is asked from another site.\n")
            return
        answered = self.server.site.control(self.command, path, body) if self._may_control() else None
        if answered is not None:
            status, document = answered
            shown = json.dumps(document, indent=1).encode() + b"\n"
            self._write(status, {"Content-Type": "application/json", "Cache-Control": "no-store"}, shown)
        elif self.command == "GET":
            self._show(self.server.site.show(path, _fields(address.query), base_url=self.server.url))
        elif self.command == "POST":
            self._show(self.server.site.submit(path, _fields(body.decode("latin-1"))))
        else:
            self._write(HTTPStatus.METHOD_NOT_ALLOWED, {}, b"")

    def _read_body(self) -> bytes | None:
        """Read the body, bounded; `None` if it was refused."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal() or len(length) > len(str(BODY_BYTES_MAX)):
            length = str(BODY_BYTES_MAX + 1)
        if int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            # Who still sends when a connection is closed sees a reset, and not the answer.
            self.rfile.read(
                min(int(length), _PASSED_OVER_BYTES_MAX) if self.headers.get("Content-Length") == length else 0
            )
            self._write(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"Connection": "close"}, b"")
            return None
        return self.rfile.read(int(length))

    # --- a browser ---

    def _is_from_here(self) -> bool:
        """Say whether a request was meant for this gateway by a page of this gateway, or by no page at all."""
        port = self.server.server_port
        ours = {f"{host}:{port}" for host in _HOSTS} | (_HOSTS if port == 80 else set())  # noqa: PLR2004 -- HTTP's own
        origin = self.headers.get("Origin")
        return self.headers.get("Host") in ours and (origin is None or origin.removeprefix("http://") in ours)

    def _may_control(self) -> bool:
        """Say whether this may be a program: a page of another site cannot send JSON without asking first."""
        content_type = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return self.command != "POST" or content_type == "application/json"

    def _show(self, page: Page) -> None:
        headers = {"Content-Type": "text/html; charset=UTF-8", **page.headers}
        self._write(page.status, headers, page.html.encode("utf-8", "replace"))

    # --- a call ---

    def _call(self, body: bytes) -> None:
        site = self.server.site
        delivery = Delivery(
            method=self.command,
            uri=self.path,
            client_id=_header(self.headers.get_all("client-id")),
            request_time=_header(self.headers.get_all("request-time")),
            signature=_header(self.headers.get_all("signature")),
            body=body,
        )
        answer = site.call(delivery, content_type=self.headers.get("Content-Type", ""), base_url=self.server.url)
        whole = False
        try:
            site.before_waiting(answer)
            if answer.delay_seconds:
                self.server.is_closing.wait(answer.delay_seconds)
            site.before_writing(answer)
            whole = self._send(answer)
        finally:
            site.after_writing(answer, whole=whole)

    def _send(self, answer: Answer) -> bool:
        """Write an answer as it is to be written, and say whether all of it was."""
        match answer.sending:
            case Sending.WHOLE:
                self._write(answer.status, answer.headers, answer.body)
                return True
            case Sending.SILENT:
                self._hang()
            case Sending.DRIP:
                self._write_head(answer.status, {**answer.headers, "Content-Length": str(len(answer.body))})
                self._repeat((answer.body[at : at + 1] for at in range(len(answer.body))), 1 / _DRIPS_PER_SECOND)
            case Sending.ENDLESS:
                self._write_head(answer.status, {**answer.headers, "Transfer-Encoding": "chunked"})
                piece = b"%x\r\n%s\r\n" % (len(_ENDLESS_PIECE), _ENDLESS_PIECE)
                self._repeat(iter(lambda: piece, b""), 0.01)
            case Sending.CUT:
                pass
        self._cut()
        return False

    def _repeat(self, pieces: Iterable[bytes], pause: float) -> None:
        """Write piece after piece until the caller has gone, which ends the call at that moment."""
        deadline = time.monotonic() + _HANGING_SECONDS_MAX
        for piece in pieces:
            if self._has_gone(pause) or time.monotonic() > deadline or self.server.is_closing.is_set():
                return
            self.wfile.write(piece)
            self.wfile.flush()

    def _hang(self) -> None:
        """Say nothing until the caller has gone."""
        deadline = time.monotonic() + _HANGING_SECONDS_MAX
        while time.monotonic() < deadline and not self.server.is_closing.is_set() and not self._has_gone(0.1):
            pass

    def _has_gone(self, seconds: float) -> bool:
        """Wait so long, or until the caller closes the connection."""
        return bool(select.select([self.connection], [], [], seconds)[0])

    def _cut(self) -> None:
        """Cut the connection so that the caller sees a reset, not an end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.connection.close()

    # --- both ---

    def _write(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self._write_head(status, {**headers, "Content-Length": str(len(body))})
        self.wfile.write(body)
        self.wfile.flush()

    def _write_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what happens is told to the ledger."""


def _header(values: list[str] | None) -> str:
    """Join a repeated header, as servers do (RFC 9110, 5.3)."""
    return ",".join(values or [])


def _fields(text: str) -> dict[str, str]:
    """Read the fields of a form or a query; what cannot be read has none. Of a repeated field the first counts."""
    try:
        fields = parse_qs(text, max_num_fields=_FORM_FIELDS_MAX)
    except ValueError:
        return {}
    return {name: values[0] for name, values in fields.items()}
