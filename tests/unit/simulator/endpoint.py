"""A receiver on the loopback that answers what a test tells it to, and remembers what it was sent."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from typing_extensions import override

from app.alipay.acknowledgement import ACKNOWLEDGEMENT
from app.alipay.delivery import Delivery

#: An answer is a status and a body; ``None`` is an outage: the connection breaks without a word.
Answered = tuple[int, bytes] | None

ACKNOWLEDGED: Answered = (200, ACKNOWLEDGEMENT)
OUTAGE: Answered = None


@dataclass
class Endpoint:
    """What to answer, one after the other and the last for ever, and what has arrived."""

    url: str = ""
    answers: list[Answered] = field(default_factory=lambda: [ACKNOWLEDGED])
    deliveries: list[Delivery] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)

    def receive(self, delivery: Delivery, connection: object) -> Answered:
        self.deliveries.append(delivery)
        self.connections.add(connection)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def running_endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # An answer goes out in one packet, or the next request waits for a delayed acknowledgement of TCP's.
        wbufsize = -1

        def do_POST(self) -> None:
            delivery = Delivery(
                method=self.command,
                uri=self.path,
                client_id=self.headers.get("client-id", ""),
                request_time=self.headers.get("request-time", ""),
                signature=self.headers.get("signature", ""),
                body=self.rfile.read(int(self.headers["Content-Length"])),
            )
            answer = endpoint.receive(delivery, self.client_address)
            if answer is None:
                self.close_connection = True
                return
            status, body = answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        @override
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        endpoint.url = f"http://127.0.0.1:{server.server_port}/alipay/notifyAuthorization"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield endpoint
        finally:
            server.shutdown()
            thread.join()
