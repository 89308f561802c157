"""Count what goes to and fro between a server and PostgreSQL, from in between.

Statements are counted by what the database says is completed, round trips by how often the conversation turns: what
is sent together, as a pipeline or as one statement that does the work of several, costs one.
"""

import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import NamedTuple

from sqlalchemy import URL, make_url

#: The name of a socket in a folder that a client library looks for.
_PORT = 5432
_SOCKET = f".s.PGSQL.{_PORT}"
_HEAD_BYTES = 5
_COMPLETED = ord("C")


class Traffic(NamedTuple):
    """What one notification costs on average."""

    statements: float
    round_trips: float
    commits: float


class Tap:
    """What has gone through so far, of all connections."""

    def __init__(self) -> None:
        self.statements = self.round_trips = self.commits = 0
        self._lock = threading.Lock()

    def add(self, *, statements: int = 0, round_trips: int = 0, commits: int = 0) -> None:
        """Count."""
        with self._lock:
            self.statements += statements
            self.round_trips += round_trips
            self.commits += commits

    def per(self, earlier: "Snapshot", count: int) -> Traffic:
        """Give what each of so many cost since then."""
        statements, round_trips, commits = (now - then for now, then in zip(self.snapshot(), earlier, strict=True))
        return Traffic(statements / count, round_trips / count, commits / count)

    def snapshot(self) -> "Snapshot":
        """Give all three numbers as they are now."""
        with self._lock:
            return self.statements, self.round_trips, self.commits


Snapshot = tuple[int, int, int]


@contextmanager
def tapped(url: str) -> Iterator[tuple[str, Tap]]:
    """Listen in between, and give the URL to connect to instead."""
    tap = Tap()
    target = make_url(url)
    with tempfile.TemporaryDirectory(prefix="tap-") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(Path(folder) / _SOCKET))
        listener.listen(128)
        threading.Thread(target=_accept, args=(listener, target, tap), daemon=True).start()
        # What is encrypted cannot be read from in between.
        query = {**target.query, "host": folder, "port": str(_PORT), "sslmode": "disable", "gssencmode": "disable"}
        tapped_url = target.set(host=None, port=None, query=query)
        try:
            yield tapped_url.render_as_string(hide_password=False), tap
        finally:
            # Closing alone does not wake who waits in accept.
            listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, target: URL, tap: Tap) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_relay, args=(client, _connected(target), tap), daemon=True).start()


def _connected(target: URL) -> socket.socket:
    folder = target.query.get("host")
    if isinstance(folder, str) and folder.startswith("/"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(Path(folder) / f".s.PGSQL.{target.query.get('port', _PORT)}"))
        return connection
    return socket.create_connection((target.host or "127.0.0.1", target.port or _PORT))


def _relay(client: socket.socket, server: socket.socket, tap: Tap) -> None:
    """Pass on what comes until one side hangs up."""
    answers = _Answers(tap)
    with client, server, DefaultSelector() as selector, suppress(OSError):
        selector.register(client, EVENT_READ)
        selector.register(server, EVENT_READ)
        asked = False
        while True:
            for key, _ in selector.select():
                source = client if key.fileobj is client else server
                received = source.recv(65536)
                if not received:
                    return
                if source is client:
                    server.sendall(received)
                    asked = True
                else:
                    tap.add(round_trips=int(asked))
                    asked = False
                    answers.read(received)
                    client.sendall(received)


class _Answers:
    """Reads the messages of the server, however they are cut into pieces (PostgreSQL's "Message Formats")."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._left = b""

    def read(self, received: bytes) -> None:
        """Count what is completed."""
        data = self._left + received
        while len(data) >= _HEAD_BYTES:
            length = 1 + int.from_bytes(data[1:_HEAD_BYTES])
            if len(data) < length:
                break
            if data[0] == _COMPLETED:
                self._tap.add(statements=1, commits=int(data[_HEAD_BYTES:].startswith(b"COMMIT\x00")))
            data = data[length:]
        self._left = data
