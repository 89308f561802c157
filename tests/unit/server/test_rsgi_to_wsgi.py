"""The bridge outlives whatever the application does, and refuses what it has no room for."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from typing_extensions import override

from app.limits import WAITING_PER_THREAD_MAX
from app.server.connections import Connections
from app.server.rsgi_to_wsgi import BODY_CHUNKS_MAX, REJECT_STATUS, Deferred, RsgiToWsgi

BODY_BYTES_MAX = 64 * 1024

SCOPE: Any = SimpleNamespace(
    server="127.0.0.1:8000", client="127.0.0.1:9", method="POST", path="/", query_string="", scheme="http"
)
SCOPE.http_version, SCOPE.headers = "1.1", {"content-length": "1"}


@dataclass
class Protocol:
    """One connection of granian's."""

    pieces: tuple[bytes, ...] = (b"x",)
    statuses: list[int] = field(default_factory=list)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece

    def response_bytes(self, status: int, _headers: object, _body: bytes) -> None:
        self.statuses.append(status)


async def ask(bridge: RsgiToWsgi, path: str = "/") -> int:
    protocol: Any = Protocol()
    scope: Any = SimpleNamespace(**vars(SCOPE) | {"path": path})
    await asyncio.wait_for(bridge(scope, protocol), timeout=10)
    (status,) = protocol.statuses
    return int(status)


class Panic(BaseException):
    """What a library written in Rust raises when it breaks."""


#: Enough for threads and the loop to come in each other's way.
NUMBER = 200


@dataclass
class LateBody(Deferred):
    """A body that is known once it is told to be."""

    start: StartResponse
    error: BaseException | None = None
    callbacks: list[Callable[[], None]] = field(default_factory=list)

    @override
    def add_done_callback(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    @override
    def __iter__(self) -> Iterator[bytes]:
        if self.error is not None:
            raise self.error
        self.start("200 OK", [])
        yield b"known"

    def become_known(self) -> None:
        self.callbacks[0]()


@dataclass
class LateApplication:
    """Responds at once, or, at "/late", when it is told to."""

    bodies: list[LateBody] = field(default_factory=list)
    error: BaseException | None = None

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/late":
            self.bodies.append(LateBody(start, self.error))
            return self.bodies[-1]
        start("200 OK", [])
        return [b""]

    async def has(self, number: int) -> None:
        """Return once so many wait for their responses."""
        while sum(bool(body.callbacks) for body in self.bodies) < number:  # noqa: ASYNC110 -- threads bring them
            await asyncio.sleep(0.001)


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often it was woken."""

    woken = 0

    @override
    def call_soon_threadsafe(self, *arguments: Any, **options: Any) -> asyncio.Handle:  # type: ignore[override] # passed on
        self.woken += 1
        return super().call_soon_threadsafe(*arguments, **options)


def test_a_deferred_response_keeps_no_thread() -> None:
    application = LateApplication()

    async def ask_beside() -> list[int]:
        bridge = RsgiToWsgi(application, threads=1, body_bytes_max=BODY_BYTES_MAX)
        late = [asyncio.create_task(ask(bridge, "/late")) for _ in range(2)]
        await application.has(2)
        beside = await ask(bridge)
        assert not any(each.done() for each in late)
        for body in application.bodies:
            threading.Thread(target=body.become_known).start()
        return [beside, *await asyncio.gather(*late)]

    assert asyncio.run(ask_beside()) == [200, 200, 200]


def test_many_responses_at_once_wake_the_loop_once() -> None:
    application = LateApplication()

    async def know_all_at_once() -> None:
        bridge, loop = RsgiToWsgi(application, threads=1, body_bytes_max=BODY_BYTES_MAX), asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        late = [asyncio.create_task(ask(bridge, "/late")) for _ in range(10)]
        await application.has(10)
        before = loop.woken
        # These lines keep the loop busy, as it may be when a thread does the same.
        for body in application.bodies:
            body.become_known()
        assert loop.woken == before + 1
        assert await asyncio.gather(*late) == [200] * 10
        # A response that comes after it has looked wakes it again.
        assert await ask(bridge) == 200

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(know_all_at_once())


def test_no_response_is_lost_between_threads_and_the_loop() -> None:
    application = LateApplication()

    async def come_and_go() -> list[int]:
        bridge = RsgiToWsgi(application, threads=4, body_bytes_max=BODY_BYTES_MAX)
        late = []
        for number in range(NUMBER):
            late.append(asyncio.create_task(ask(bridge, "/late")))
            await application.has(number + 1)
            threading.Thread(target=application.bodies[number].become_known).start()
        return await asyncio.gather(*late)

    async def in_time() -> list[int]:
        return await asyncio.wait_for(come_and_go(), timeout=30)

    assert asyncio.run(in_time()) == [200] * NUMBER


@pytest.mark.parametrize("error", [ValueError("broken"), Panic()])
def test_a_late_response_that_breaks_is_a_500(error: BaseException) -> None:
    application = LateApplication(error=error)

    async def ask_and_break() -> int:
        bridge = RsgiToWsgi(application, threads=1, body_bytes_max=BODY_BYTES_MAX)
        late = asyncio.create_task(ask(bridge, "/late"))
        await application.has(1)
        application.bodies[0].become_known()
        return await late

    assert asyncio.run(ask_and_break()) == 500


def test_a_response_after_the_client_went_away_harms_no_other() -> None:
    application = LateApplication()

    async def give_up() -> list[int]:
        bridge = RsgiToWsgi(application, threads=1, body_bytes_max=BODY_BYTES_MAX)
        late = [asyncio.create_task(ask(bridge, "/late")) for _ in range(2)]
        await application.has(2)
        late[0].cancel()
        await asyncio.wait(late[:1])
        for body in application.bodies:
            body.become_known()
        return [await late[1], await ask(bridge)]

    assert asyncio.run(give_up()) == [200, 200]


def test_a_response_after_the_loop_has_ended_is_dropped() -> None:
    application = LateApplication()

    async def end() -> None:
        bridge = RsgiToWsgi(application, threads=1, body_bytes_max=BODY_BYTES_MAX)
        late = asyncio.create_task(ask(bridge, "/late"))
        await application.has(1)
        bridge.__rsgi_del__(asyncio.get_running_loop())
        late.cancel()

    asyncio.run(end())
    application.bodies[0].become_known()


def test_a_thread_outlives_whatever_the_application_raises() -> None:
    def application(_environ: WSGIEnvironment, _start: StartResponse) -> Iterable[bytes]:
        raise Panic

    async def ask_three_times() -> list[int]:
        bridge = RsgiToWsgi(application, threads=1, body_bytes_max=BODY_BYTES_MAX)
        return [await ask(bridge) for _ in range(3)]

    assert asyncio.run(ask_three_times()) == [500, 500, 500]


def test_past_a_bounded_queue_the_application_is_only_asked_to_refuse() -> None:
    is_over = threading.Event()
    refused: list[int] = []

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        status = environ.get(REJECT_STATUS)
        if status is None:
            is_over.wait(timeout=10)
        else:
            refused.append(status)
        start(f"{status or 200} …", [])
        return [b""]

    async def crowd() -> list[int]:
        bridge = RsgiToWsgi(application, threads=1, body_bytes_max=BODY_BYTES_MAX)
        callers = [asyncio.create_task(ask(bridge)) for _ in range(WAITING_PER_THREAD_MAX + 10)]
        # Those that find the queue full are answered while the one thread is still at its first request.
        while len(refused) < 9:  # noqa: ASYNC110 -- what is waited for happens in this very loop
            await asyncio.sleep(0.01)
        is_over.set()
        return list(await asyncio.gather(*callers))

    statuses = asyncio.run(asyncio.wait_for(crowd(), timeout=20))
    assert set(statuses) == {200, 503}
    assert 9 <= statuses.count(503) <= 10


def test_an_inline_path_does_not_wait_for_a_thread() -> None:
    is_over = threading.Event()

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/healthz":
            is_over.wait(timeout=10)
        start("200 OK", [])
        return [b""]

    async def ask_while_every_thread_waits() -> list[int]:
        bridge = RsgiToWsgi(application, threads=1, is_inline="/healthz".__eq__, body_bytes_max=BODY_BYTES_MAX)
        stuck = asyncio.create_task(ask(bridge))
        await asyncio.sleep(0.05)
        alive = await ask(bridge, "/healthz")
        assert not stuck.done()
        is_over.set()
        return [alive, await stuck]

    assert asyncio.run(ask_while_every_thread_waits()) == [200, 200]


def test_an_inline_path_may_have_a_response_that_is_not_known() -> None:
    application = LateApplication()
    threads: list[threading.Thread] = []

    def note_thread(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        threads.append(threading.current_thread())
        return application(environ, start)

    async def ask_for_both() -> list[int]:
        bridge = RsgiToWsgi(note_thread, threads=1, body_bytes_max=BODY_BYTES_MAX, is_inline="/late".__eq__)
        late = [asyncio.create_task(ask(bridge, "/late")) for _ in range(2)]
        await application.has(2)
        # The loop is free.
        other = await ask(bridge)
        assert not any(each.done() for each in late)
        for body in application.bodies:
            threading.Thread(target=body.become_known).start()
        return [other, *await asyncio.gather(*late)]

    assert asyncio.run(ask_for_both()) == [200, 200, 200]
    assert [each is threading.main_thread() for each in threads] == [True, True, False]


def test_an_inline_path_that_breaks_is_a_500() -> None:
    def application(_environ: WSGIEnvironment, _start: StartResponse) -> Iterable[bytes]:
        raise Panic

    bridge = RsgiToWsgi(application, threads=1, body_bytes_max=BODY_BYTES_MAX, is_inline="/".__eq__)
    assert asyncio.run(ask(bridge)) == 500


def test_whether_a_path_is_inline_is_asked_anew_for_each_request() -> None:
    threads: list[threading.Thread] = []
    inline_paths: set[str] = set()

    def application(_environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        threads.append(threading.current_thread())
        start("200 OK", [])
        return [b""]

    async def ask_before_and_after() -> None:
        bridge = RsgiToWsgi(
            application, threads=1, body_bytes_max=BODY_BYTES_MAX, is_inline=lambda path: path in inline_paths
        )
        await ask(bridge)
        inline_paths.add("/")
        await ask(bridge)

    asyncio.run(ask_before_and_after())
    assert [each is threading.main_thread() for each in threads] == [False, True]


@pytest.mark.parametrize(("announced", "expected"), [(None, 11), ("11", 0), ("9" * 5000, 0), ("10", 10)])
def test_of_a_body_that_is_too_large_no_more_is_read_than_shows_that(announced: str | None, expected: int) -> None:
    taken: list[int] = []

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        taken.append(len(environ["wsgi.input"].read()))
        start("200 OK", [])
        return [b""]

    async def send() -> None:
        protocol: Any = Protocol((b"x",) * 20)
        headers = {} if announced is None else {"content-length": announced}
        scope: Any = SimpleNamespace(**vars(SCOPE) | {"headers": headers})
        await RsgiToWsgi(application, threads=1, body_bytes_max=10)(scope, protocol)

    asyncio.run(send())
    assert taken == [expected]


def test_the_server_is_said_to_serve_once_its_loop_runs() -> None:
    said: list[str] = []
    bridge = RsgiToWsgi(lambda _environ, _start: [b""], 1, body_bytes_max=BODY_BYTES_MAX)
    bridge.add_serving_callback(lambda: said.append("serving"))
    loop = asyncio.new_event_loop()
    bridge.__rsgi_init__(loop)
    assert said == []
    loop.run_until_complete(asyncio.sleep(0))
    assert said == ["serving"]
    bridge.__rsgi_del__(loop)
    loop.close()


def test_the_threads_end_with_the_server() -> None:
    def application(_environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        start("200 OK", [])
        return [b""]

    async def serve_and_end() -> None:
        before = set(threading.enumerate())
        bridge = RsgiToWsgi(application, threads=3, body_bytes_max=BODY_BYTES_MAX)
        assert await ask(bridge) == 200
        bridge.__rsgi_del__(asyncio.get_running_loop())
        assert set(threading.enumerate()) <= before

    asyncio.run(serve_and_end())


@pytest.mark.parametrize(("pieces", "expected"), [(BODY_CHUNKS_MAX - 1, 200), (65_000, 400)])
def test_a_body_in_very_many_pieces_is_refused_after_the_first_of_them(pieces: int, expected: int) -> None:
    taken: list[int] = []

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        taken.append(len(environ["wsgi.input"].read()))
        start(f"{environ.get(REJECT_STATUS, 200)} …", [])
        return [b""]

    async def send() -> int:
        protocol: Any = Protocol((b"x",) * pieces)
        scope: Any = SimpleNamespace(**vars(SCOPE) | {"headers": {}})
        await RsgiToWsgi(application, threads=1, body_bytes_max=BODY_BYTES_MAX)(scope, protocol)
        (status,) = protocol.statuses
        return int(status)

    assert asyncio.run(send()) == expected
    assert taken == [pieces if expected == 200 else 0]


def test_connections_are_told_of_every_request_and_of_its_end() -> None:
    told: list[tuple[str, str]] = []

    class Told(Connections):
        @override
        def request_begins(self, peer: str) -> None:
            told.append(("begins", peer))

        @override
        def request_ends(self, peer: str) -> None:
            told.append(("ends", peer))

    def application(_environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        told.append(("is answered", SCOPE.client))
        start("200 OK", [])
        return [b""]

    assert (
        asyncio.run(
            ask(RsgiToWsgi(application, threads=1, connections=Told(port=1, places=1), body_bytes_max=BODY_BYTES_MAX))
        )
        == 200
    )
    assert told == [("begins", SCOPE.client), ("is answered", SCOPE.client), ("ends", SCOPE.client)]


@dataclass
class LeavingProtocol(Protocol):
    """A connection whose client goes away when it is told to."""

    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def client_disconnect(self) -> None:
        await self.gone.wait()


@dataclass
class WaitingBody(LateBody):
    """A body that only its client has a use for."""

    is_for_client_only = True
    has_left: bool = False
    is_watched: threading.Event = field(default_factory=threading.Event)

    @override
    def add_done_callback(self, callback: Callable[[], None]) -> None:
        super().add_done_callback(callback)
        self.is_watched.set()

    @override
    def leave(self) -> None:
        self.has_left = True


def waiting_bridge(bodies: list[WaitingBody], begun: threading.Event) -> RsgiToWsgi:
    def application(_environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        bodies.append(WaitingBody(start))
        begun.set()
        return bodies[-1]

    return RsgiToWsgi(application, 1, body_bytes_max=BODY_BYTES_MAX)


def test_a_response_is_told_when_the_client_that_waits_for_it_goes_away() -> None:
    bodies: list[WaitingBody] = []
    begun = threading.Event()
    bridge = waiting_bridge(bodies, begun)

    async def leave() -> None:
        protocol: Any = LeavingProtocol()
        asked = asyncio.ensure_future(bridge(SCOPE, protocol))
        await asyncio.to_thread(begun.wait, 10)
        protocol.gone.set()
        await asyncio.wait_for(asked, timeout=10)
        # It becomes known all the same, a moment too late.
        bodies[0].become_known()
        await asyncio.sleep(0.01)

    asyncio.run(leave())
    assert bodies[0].has_left


def test_a_response_that_comes_is_given_and_its_client_watched_no_more() -> None:
    bodies: list[WaitingBody] = []
    begun = threading.Event()
    bridge = waiting_bridge(bodies, begun)

    async def stay() -> list[int]:
        protocol: Any = LeavingProtocol()
        asked = asyncio.ensure_future(bridge(SCOPE, protocol))
        await asyncio.to_thread(begun.wait, 10)
        await asyncio.to_thread(bodies[0].is_watched.wait, 10)
        bodies[0].become_known()
        await asyncio.wait_for(asked, timeout=10)
        await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks()) == 1
        return list(protocol.statuses)

    assert asyncio.run(stay()) == [200]
    assert not bodies[0].has_left


def test_what_waits_is_told_when_the_worker_drains() -> None:
    told: list[None] = []
    bridge = RsgiToWsgi(
        lambda _environ, _start: [], 1, body_bytes_max=BODY_BYTES_MAX, on_drain=lambda: told.append(None)
    )
    bridge.drain()
    assert (told, bridge.is_draining) == ([None], True)
