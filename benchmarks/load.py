"""Send prepared requests over connections that stay open, from a process of its own, as cheaply as Python can.

Each connection sends its next request when the answer to the last has come. Whatever the client computed would be
missing from the server on the same machine, so an answer is only compared with those that are known to be right.
"""

import pickle
import selectors
import socket
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

from app.alipay.acknowledgement import is_acknowledgement

#: A server that lets one request wait for longer than this hangs.
_SILENCE_SECONDS_MAX = 60
_OK = b"HTTP/1.1 200"
_MICROSECONDS = 1_000_000


class ServerSilentError(Exception):
    """The server stopped answering."""

    def __init__(self) -> None:
        super().__init__(f"The server has not answered for {_SILENCE_SECONDS_MAX} seconds.")


@dataclass(frozen=True, slots=True)
class Script:
    """What is sent: requests, and the numbers of those that each connection sends, one after another."""

    requests: list[bytes]
    lanes: list[list[int]]

    def save(self, path: Path) -> None:
        """Write it to where the client will read it."""
        path.write_bytes(pickle.dumps((self.requests, self.lanes)))

    @classmethod
    def load(cls, path: Path) -> "Script":
        """Read what `save` has written."""
        return cls(*pickle.loads(path.read_bytes()))  # noqa: S301 -- written by this very run


@dataclass(slots=True)
class Sent:
    """What came back while the client was sending."""

    seconds: float = 0
    #: One for each acknowledgement, repeated ones included, in microseconds.
    latencies: "array[int]" = field(default_factory=lambda: array("L"))
    #: The numbers of what was acknowledged, a number as often as it was.
    acknowledged: "array[int]" = field(default_factory=lambda: array("L"))
    #: Everything else that came back, by status line, or by what broke.
    refused: Counter[str] = field(default_factory=Counter)
    #: Whether there was nothing left to send before the time was over.
    ran_out: bool = False


class LoadClient:
    """The other process, which has the script loaded and its connections ready."""

    def __init__(self, script: Path, port: int, *, endless: bool = False) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, script, port, endless), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def send(self, seconds: float) -> Sent:
        """Send for so long, go on where the last call ended, and return when nothing is in flight any more.

        Raises `ServerSilentError`.
        """
        self._pipe.send(seconds)
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Sent)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, script_path: Path, port: int, endless: bool) -> None:  # noqa: FBT001 -- passed on by multiprocessing
    script = Script.load(script_path)
    known_answers: set[bytes] = set()
    lanes = [
        _Lane(script.requests, cycle(lane) if endless else iter(lane), port, known_answers) for lane in script.lanes
    ]
    pipe.send("ready")
    while True:
        try:
            seconds = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(_send(lanes, seconds))
        except Exception as error:  # noqa: BLE001 -- the other side raises it
            pipe.send(error)


def _send(lanes: list["_Lane"], seconds: float) -> Sent:
    sent = Sent()
    with selectors.DefaultSelector() as selector:
        started = time.perf_counter()
        deadline = started + seconds
        busy = 0
        for lane in lanes:
            if lane.send_next():
                selector.register(lane.socket, selectors.EVENT_READ, lane)
                busy += 1
        while busy:
            events = selector.select(_SILENCE_SECONDS_MAX)
            if not events:
                raise ServerSilentError
            for key, _ in events:
                lane = key.data
                if not lane.receive(sent):
                    continue
                before = lane.socket
                if time.perf_counter() < deadline and lane.send_next():
                    if lane.socket is not before:
                        selector.unregister(before)
                        before.close()
                        selector.register(lane.socket, selectors.EVENT_READ, lane)
                else:
                    selector.unregister(before)
                    busy -= 1
        sent.seconds = time.perf_counter() - started
    sent.ran_out = sent.seconds < seconds
    return sent


class _Lane:
    """One connection, with what it has to send."""

    def __init__(self, requests: list[bytes], numbers: Iterator[int], port: int, known_answers: set[bytes]) -> None:
        self._requests = requests
        self._numbers = numbers
        self._port = port
        #: Bodies that are the acknowledgement, however a server spaces it.
        self._known_answers = known_answers
        self._number = 0
        self._sent_at = 0.0
        self._received = b""
        self._is_broken = False
        self.socket = self._connect()

    def send_next(self) -> bool:
        """Send the next request, over a new connection if the server has closed the last one; or say it is over."""
        number = next(self._numbers, None)
        if number is None:
            return False
        if self._is_broken:
            self.socket = self._connect()
            self._is_broken = False
        self._number = number
        self._received = b""
        self._sent_at = time.perf_counter()
        try:
            self.socket.sendall(self._requests[number])
        except OSError:
            # What is sent to a closed connection is answered by its end.
            self._is_broken = True
        return True

    def receive(self, sent: Sent) -> bool:
        """Take what has come, and say whether that was the whole answer."""
        try:
            received = self.socket.recv(65536)
        except OSError:
            received = b""
        if not received:
            self._is_broken = True
            sent.refused["connection closed"] += 1
            return True
        answer = self._received = self._received + received
        head, _, body = answer.partition(b"\r\n\r\n")
        if not (body in self._known_answers and head.startswith(_OK)):
            if not _is_whole(head, body):
                return False
            if not (head.startswith(_OK) and is_acknowledgement(200, body)):
                sent.refused[head.split(b"\r\n", 1)[0].decode("latin-1")] += 1
                return True
            self._known_answers.add(body)
        sent.latencies.append(int((time.perf_counter() - self._sent_at) * _MICROSECONDS))
        sent.acknowledged.append(self._number)
        return True

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=_SILENCE_SECONDS_MAX)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def _is_whole(head: bytes, body: bytes) -> bool:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return False
