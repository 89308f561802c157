"""Send prepared requests over connections that stay open, from a process of its own, as cheaply as Python can.

Each connection sends its next request when the answer to the last has come, or when it is due. Whatever the client
computed would be missing from the server on the same machine, so an answer is only compared with those that are known
to be right.
"""

import pickle
import selectors
import signal
import socket
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
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
    #: So many were due and not sent, for all connections waited for answers.
    unsent: int = 0


class LoadClient:
    """The other process, which has the script loaded and its connections ready.

    With a rate, so many requests are due a second, whether the server keeps up or not.
    """

    def __init__(self, script: Path, port: int, *, rate: float | None = None, endless: bool = False) -> None:
        context = get_context("spawn")
        self._rate = rate
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, script, port, endless), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def send(self, seconds: float) -> Sent:
        """Send for so long, go on where the last call ended, and return when nothing is in flight any more.

        Raises `ServerSilentError`.
        """
        self._pipe.send((seconds, self._rate))
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
        if error is not None:
            # It may be in the middle of sending.
            self._process.terminate()
        self._process.join()


def _serve(pipe: Connection, script_path: Path, port: int, endless: bool) -> None:  # noqa: FBT001 -- passed on by multiprocessing
    # An interrupt of the bench reaches this process too, which has only to end when the bench does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    script = Script.load(script_path)
    known_answers: set[bytes] = set()
    orders = [cycle(lane) if endless else iter(lane) for lane in script.lanes]
    lanes = [_Lane(script.requests, order, port, known_answers) for order in orders]
    pipe.send("ready")
    while True:
        try:
            seconds, rate = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(_send(lanes, seconds, rate))
        except Exception as error:  # noqa: BLE001 -- the other side raises it
            pipe.send(error)


def _send(lanes: list["_Lane"], seconds: float, rate: float | None) -> Sent:
    sent = Sent()
    pause = 1 / rate if rate else 0.0
    idle = deque(lanes)
    busy = 0
    with selectors.DefaultSelector() as selector:
        for lane in lanes:
            lane.register(selector)
        started = due = time.perf_counter()
        deadline = started + seconds
        while True:
            now = time.perf_counter()
            while idle and due <= now < deadline:
                lane = idle.popleft()
                # The wait for a free connection counts: a sender would wait for it too.
                if lane.send_next(selector, due if pause else now):
                    busy += 1
                    due += pause
            if not busy and (now >= deadline or not idle):
                break
            timeout = due - now if idle and now < deadline else _SILENCE_SECONDS_MAX
            events = selector.select(timeout)
            if not events and timeout == _SILENCE_SECONDS_MAX:
                raise ServerSilentError
            for key, _ in events:
                lane = key.data
                if lane.receive(selector, sent):
                    idle.append(lane)
                    busy -= 1
        sent.seconds = time.perf_counter() - started
    sent.ran_out = sent.seconds < seconds
    if rate and not sent.ran_out:
        sent.unsent = int(max(0.0, deadline - due) * rate)
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
        self._due = 0.0
        self._received = b""
        self._is_waiting = False
        self._socket: socket.socket | None = self._connected()

    def register(self, selector: selectors.BaseSelector) -> None:
        """Let the selector watch the connection, if there is one."""
        if self._socket is not None:
            selector.register(self._socket, selectors.EVENT_READ, self)

    def send_next(self, selector: selectors.BaseSelector, due: float) -> bool:
        """Send the next request, over a new connection if the server has closed the last one; or say it is over."""
        number = next(self._numbers, None)
        if number is None:
            return False
        if self._socket is None:
            self._socket = self._connected()
            self.register(selector)
        self._number = number
        self._received = b""
        self._due = due
        self._is_waiting = True
        # What is sent to a closed connection is answered by its end.
        with suppress(OSError):
            self._socket.sendall(self._requests[number])
        return True

    def receive(self, selector: selectors.BaseSelector, sent: Sent) -> bool:
        """Take what has come, and say whether that was the whole of an answer."""
        assert self._socket is not None
        try:
            received = self._socket.recv(65536)
        except OSError:
            received = b""
        if not received:
            selector.unregister(self._socket)
            self._socket.close()
            self._socket = None
            # A server may close a connection that is idle.
            sent.refused.update(["connection closed"] if self._is_waiting else [])
            return self._stop_waiting()
        answer = self._received = self._received + received
        head, _, body = answer.partition(b"\r\n\r\n")
        if not (body in self._known_answers and head.startswith(_OK)):
            if not _is_whole(head, body):
                return False
            if not (head.startswith(_OK) and is_acknowledgement(200, body)):
                sent.refused[head.split(b"\r\n", 1)[0].decode("latin-1")] += 1
                return self._stop_waiting()
            self._known_answers.add(body)
        sent.latencies.append(int((time.perf_counter() - self._due) * _MICROSECONDS))
        sent.acknowledged.append(self._number)
        return self._stop_waiting()

    def _stop_waiting(self) -> bool:
        """Say whether anything was waited for, until now."""
        was_waiting, self._is_waiting = self._is_waiting, False
        return was_waiting

    def _connected(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=_SILENCE_SECONDS_MAX)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def _is_whole(head: bytes, body: bytes) -> bool:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return False
