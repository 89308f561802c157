"""The server's door outlives whatever the application does, and refuses what it has no room for."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from app.rsgi import REFUSAL, WAITING_PER_THREAD_MAX, Door

SCOPE: Any = SimpleNamespace(
    server="127.0.0.1:8000", client="127.0.0.1:9", method="POST", path="/", query_string="", scheme="http"
)
SCOPE.http_version, SCOPE.headers = "1.1", {"content-length": "1"}


@dataclass
class Protocol:
    """One connection of granian's."""

    statuses: list[int] = field(default_factory=list)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"x"

    def response_bytes(self, status: int, _headers: object, _body: bytes) -> None:
        self.statuses.append(status)


async def ask(door: Door, path: str = "/") -> int:
    protocol: Any = Protocol()
    scope: Any = SimpleNamespace(**vars(SCOPE) | {"path": path})
    await asyncio.wait_for(door(scope, protocol), timeout=10)
    (status,) = protocol.statuses
    return int(status)


class Panic(BaseException):
    """What a library written in Rust raises when it breaks."""


def test_a_thread_outlives_whatever_the_application_raises() -> None:
    def application(_environ: WSGIEnvironment, _start: StartResponse) -> Iterable[bytes]:
        raise Panic

    async def ask_three_times() -> list[int]:
        door = Door(application, threads=1)
        return [await ask(door) for _ in range(3)]

    assert asyncio.run(ask_three_times()) == [500, 500, 500]


def test_past_a_bounded_queue_the_application_is_only_asked_to_refuse() -> None:
    is_over = threading.Event()
    refused: list[int] = []

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        status = environ.get(REFUSAL)
        if status is None:
            is_over.wait(timeout=10)
        else:
            refused.append(status)
        start(f"{status or 200} …", [])
        return [b""]

    async def crowd() -> list[int]:
        door = Door(application, threads=1)
        callers = [asyncio.create_task(ask(door)) for _ in range(WAITING_PER_THREAD_MAX + 10)]
        # Whoever finds the queue full is answered while the one thread is still at its first request.
        while len(refused) < 9:  # noqa: ASYNC110 -- what is waited for happens in this very loop
            await asyncio.sleep(0.01)
        is_over.set()
        return list(await asyncio.gather(*callers))

    statuses = asyncio.run(asyncio.wait_for(crowd(), timeout=20))
    assert set(statuses) == {200, 503}
    assert 9 <= statuses.count(503) <= 10


def test_a_path_that_waits_for_nothing_does_not_wait_for_a_thread() -> None:
    is_over = threading.Event()

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/healthz":
            is_over.wait(timeout=10)
        start("200 OK", [])
        return [b""]

    async def ask_while_every_thread_waits() -> list[int]:
        door = Door(application, threads=1, at_once=frozenset({"/healthz"}))
        stuck = asyncio.create_task(ask(door))
        await asyncio.sleep(0.05)
        alive = await ask(door, "/healthz")
        assert not stuck.done()
        is_over.set()
        return [alive, await stuck]

    assert asyncio.run(ask_while_every_thread_waits()) == [200, 200]


def test_the_threads_end_with_the_server() -> None:
    def application(_environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        start("200 OK", [])
        return [b""]

    async def serve_and_end() -> None:
        before = threading.active_count()
        door = Door(application, threads=3)
        assert await ask(door) == 200
        door.__rsgi_del__(asyncio.get_running_loop())
        assert threading.active_count() == before

    asyncio.run(serve_and_end())
