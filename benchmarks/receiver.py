"""An endpoint of the merchant's, in a process of its own: it takes every webhook at once, and notes when each came.

It verifies nothing: what it computed would be missing from the service on the same machine.
"""

import asyncio
import json
import signal
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from typing_extensions import override

_ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
_HEAD_END = b"\r\n\r\n"
#: A code lives a minute from when it was received; the event says when it ends.
_CODE_LIFETIME = timedelta(minutes=1)
_MS = 1000


@dataclass(slots=True)
class Received:
    """What has come since the last time somebody asked."""

    count: int = 0
    #: From when the service had received a code to when this endpoint was called, in milliseconds.
    code_ms: list[float] = field(default_factory=list)


class WebhookReceiver:
    """The other process."""

    def __init__(self) -> None:
        self._pipe, theirs = get_context("spawn").Pipe()
        self._process = get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.port: int = self._pipe.recv()

    def take(self) -> Received:
        """Give what has come since the last time, and forget it."""
        self._pipe.send(None)
        received = self._pipe.recv()
        assert isinstance(received, Received)
        return received

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_listen(pipe))


async def _listen(pipe: Connection) -> None:
    received = [Received()]

    def answer() -> None:
        pipe.recv()
        pipe.send(received.pop())
        received.append(Received())

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Hook(received), "127.0.0.1", 0)
    loop.add_reader(pipe.fileno(), answer)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


class _Hook(asyncio.Protocol):
    """One connection of the service's."""

    def __init__(self, received: list[Received]) -> None:
        self._received = received
        self._data = b""
        self._transport: asyncio.Transport

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    @override
    def data_received(self, data: bytes) -> None:
        self._data += data
        while (request := self._next()) is not None:
            self._note(json.loads(request))
            self._transport.write(_ANSWER)

    def _next(self) -> bytes | None:
        """Cut the next body off what has come, once it is whole."""
        head, separator, rest = self._data.partition(_HEAD_END)
        if not separator:
            return None
        length = next(
            int(line.partition(b":")[2]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        if len(rest) < length:
            return None
        self._data = rest[length:]
        return rest[:length]

    def _note(self, event: dict[str, dict[str, str]]) -> None:
        now = time.time()
        received = self._received[0]
        received.count += 1
        if expires_at := event["data"].get("expiresAt"):
            came_at = datetime.fromisoformat(expires_at) - _CODE_LIFETIME
            received.code_ms.append((now - came_at.timestamp()) * _MS)
