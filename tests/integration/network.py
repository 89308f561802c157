"""A network between the service and its database, on which everything happens that happens on networks."""

import asyncio
import random
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import URL, make_url

T = TypeVar("T")

_DEFAULT_PORT = 5432


@dataclass
class Network:
    """Carries bytes between a port of its own and a PostgreSQL server, well or badly."""

    #: Where the server is reached over this network.
    url: str
    _loop: asyncio.AbstractEventLoop
    _server: URL
    _port: int
    _host: str = "127.0.0.1"
    #: Seconds that every piece of data takes.
    _delay: float = 0
    #: How many answers to a COMMIT are still to be lost, with their connections.
    _answers_to_lose: int = 0
    #: How probable it is that a piece of data is the last one of its connection.
    _breakage: float = 0
    #: How many connections that has broken.
    _broken: int = 0
    #: Whether the server's answers come as noise.
    _is_noisy: bool = False
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _listener: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _chance: random.Random = field(default_factory=lambda: random.Random(1))

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Carry nothing, though connections stand and new ones are taken."""
        self._loop.call_soon_threadsafe(self._open.clear)
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._open.set)

    @contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Carry everything, each piece after this long."""
        self._delay = seconds
        try:
            yield
        finally:
            self._delay = 0

    @contextmanager
    def noisy(self) -> Iterator[None]:
        """Carry noise in place of what the server says."""
        self._is_noisy = True
        try:
            yield
        finally:
            self._is_noisy = False

    @contextmanager
    def breaking(self, probability: float) -> Iterator[None]:
        """Break connections in the middle of whatever they carry, one at least."""
        self._breakage, self._broken = probability, 0
        try:
            yield
            assert self._broken > 0
        finally:
            self._breakage = 0

    @contextmanager
    def losing_answers_to_commits(self, number: int) -> Iterator[None]:
        """Carry the next few commits to the server, and break their connections once it has answered."""
        self._answers_to_lose = number
        try:
            yield
            assert self._answers_to_lose == 0
        finally:
            self._answers_to_lose = 0

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Refuse new connections, and break those that stand."""
        self.run(self.close())
        try:
            yield
        finally:
            self.run(self.listen())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the network's own thread, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def listen(self) -> None:
        self._open.set()
        self._listener = await asyncio.start_server(self._carry_both_ways, self._host, self._port)

    async def close(self) -> None:
        assert self._listener is not None
        self._listener.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _carry_both_ways(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await self._reach_server()
        pair = {writer, far_writer}
        self._writers |= pair
        try:
            await asyncio.gather(
                self._carry(reader, far_writer, pair), self._carry(far_reader, writer, pair, is_answer=True)
            )
        finally:
            self._writers -= pair

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pair: set[asyncio.StreamWriter],
        *,
        is_answer: bool = False,
    ) -> None:
        try:
            while data := await reader.read(65536):
                await asyncio.sleep(self._delay)
                await self._open.wait()
                if self._chance.random() < self._breakage:
                    self._broken += 1
                    break
                # What the server says of a COMMIT that is done.
                if self._answers_to_lose and b"C\x00\x00\x00\x0bCOMMIT\x00" in data:
                    self._answers_to_lose -= 1
                    break
                writer.write(self._chance.randbytes(len(data)) if is_answer and self._is_noisy else data)
        except OSError:
            pass
        for each in pair:
            each.transport.abort()

    async def _reach_server(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = self._server.port or _DEFAULT_PORT
        folder = self._server.query.get("host")
        if isinstance(folder, str):
            return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port}")
        return await asyncio.open_connection(self._server.host or "127.0.0.1", port)


@contextmanager
def a_network_to(server_url: str, port: int, *, host: str = "127.0.0.1") -> Iterator[Network]:
    """Lay a network from a port of this machine to the server of this URL."""
    server = make_url(server_url)
    url = server.set(host=host, port=port, query={}).render_as_string(hide_password=False)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    network = Network(url, loop, server, port, host)
    network.run(network.listen())
    try:
        yield network
    finally:
        network.run(network.close())
        network.run(_all_done())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _all_done() -> None:
    """Return once nothing runs in this thread any more."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for each in others:
        each.cancel()
    await asyncio.gather(*others, return_exceptions=True)
