"""One POST, bounded in everything: what comes of it is a value, and what may not be sent twice is not."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

import pytest

from app.bounded_http import AddressRefusedError, ConnectionPool, HttpResult, post
from tests.receiver import Behavior, Handler, Receiver, a_drip, a_receiver, refuses
from tests.tls import a_self_signed_server

#: Much longer than any of these requests should take, and much shorter than one that hangs.
LATE_MILLISECONDS = 5000

Tls = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """The contexts of a server called localhost, and of a client that trusts it."""
    return a_self_signed_server(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with a_receiver(refuses(200, b"taken")) as receiver:
        yield receiver


def sent(
    pool: ConnectionPool,
    *,
    seconds_max: float = 5,
    connect_seconds_max: float = inf,
    body_bytes_max: int = 1000,
    is_repeatable: bool = False,
) -> HttpResult:
    return post(
        pool,
        "/hooks",
        b"{}",
        {},
        seconds_max=seconds_max,
        connect_seconds_max=connect_seconds_max,
        body_bytes_max=body_bytes_max,
        is_repeatable=is_repeatable,
    )


def a_pool(receiver: Receiver, *, idle_max: int | None = None, idle_seconds_max: float = inf) -> ConnectionPool:
    url = f"http://127.0.0.1:{receiver.port}"
    return ConnectionPool(url, idle_max=idle_max, idle_seconds_max=idle_seconds_max)


def noted_ports(receiver: Receiver, behave: Behavior) -> list[int]:
    """The ports that requests come from, from now on: one for each connection."""
    ports: list[int] = []

    def note(handler: Handler) -> None:
        ports.append(handler.client_address[1])
        behave(handler)

    receiver.behave = note
    return ports


@pytest.mark.parametrize("size", [0, 1, 999, 1000])
def test_a_body_up_to_the_bound_is_whole(receiver: Receiver, size: int) -> None:
    receiver.behave = refuses(200, b"x" * size)
    pool = a_pool(receiver)
    result = sent(pool)
    pool.close()
    assert (result.status, result.body, result.error, result.is_sent) == (200, b"x" * size, None, True)


@pytest.mark.parametrize("size", [1001, 100_000])
def test_of_a_larger_body_the_beginning_is_read(receiver: Receiver, size: int) -> None:
    ports = noted_ports(receiver, refuses(200, b"x" * size))
    pool = a_pool(receiver)
    results = [sent(pool), sent(pool)]
    pool.close()
    assert {each.body for each in results} == {b"x" * 1000}
    assert {each.error for each in results} == {"Its answer is larger than 1000 bytes."}
    assert len(set(ports)) == 2


def test_headers_are_found_in_any_case(receiver: Receiver) -> None:
    receiver.behave = refuses(200, b"", RESPONSE_TIME="now")
    pool = a_pool(receiver)
    assert sent(pool).headers.get("Response-Time") == "now"
    pool.close()


def test_nothing_of_an_answer_is_in_its_repr(receiver: Receiver) -> None:
    receiver.behave = refuses(200, b"s3cr3t", X_Token="s3cr3t")
    pool = a_pool(receiver)
    assert "s3cr3t" not in repr(sent(pool))
    pool.close()


# --- sent once, or once more ---


@pytest.mark.parametrize("is_repeatable", [True, False])
def test_only_what_is_repeatable_is_sent_again_where_a_kept_connection_closes(
    receiver: Receiver, *, is_repeatable: bool
) -> None:
    pool = a_pool(receiver)
    assert sent(pool).error is None
    receiver.behave = lambda handler: handler.say(b"")
    result = sent(pool, is_repeatable=is_repeatable)
    pool.close()
    assert result.error == "It closed the connection without an answer."
    assert result.is_sent
    assert len(receiver.received) == (3 if is_repeatable else 2)


def test_a_new_connection_that_closes_is_not_tried_again(receiver: Receiver) -> None:
    receiver.behave = lambda handler: handler.say(b"")
    pool = a_pool(receiver)
    assert sent(pool, is_repeatable=True).is_sent
    pool.close()
    assert len(receiver.received) == 1


# --- connections that are kept ---


def test_a_connection_that_was_idle_for_too_long_is_not_used(receiver: Receiver) -> None:
    ports = noted_ports(receiver, refuses(200))
    pool = a_pool(receiver, idle_seconds_max=0)
    for _ in range(3):
        assert sent(pool).error is None
        time.sleep(0.01)
    pool.close()
    assert len(set(ports)) == 3


def test_so_many_are_kept_and_the_others_closed(receiver: Receiver) -> None:
    pool = a_pool(receiver, idle_max=2)
    connections = [pool.new() for _ in range(4)]
    for each in connections:
        each.ends_at = time.monotonic() + 5
        each.connect()
        pool.give_back(each)
    assert [each.sock is not None for each in connections] == [False, False, True, True]
    pool.close()
    assert all(each.sock is None for each in connections)


# --- TLS ---


def test_one_connection_serves_several_requests_over_tls(tls: Tls) -> None:
    server, client = tls
    with a_receiver(tls=server) as receiver:
        ports = noted_ports(receiver, refuses(200, b"taken"))
        pool = ConnectionPool(f"https://localhost:{receiver.port}", tls=client)
        results = [sent(pool) for _ in range(4)]
        pool.close()
    assert [(each.body, each.error) for each in results] == [(b"taken", None)] * 4
    assert len(set(ports)) == 1


def test_a_certificate_of_another_name_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    server, client = a_self_signed_server(tmp_path, "other.example")
    with a_receiver(tls=server) as receiver:
        pool = ConnectionPool(f"https://localhost:{receiver.port}", tls=client)
        result = sent(pool)
    assert result.error is not None
    assert result.error.startswith("Its certificate cannot be verified: Hostname mismatch")
    assert (result.is_sent, receiver.received) == (False, [])


@contextmanager
def a_port(talk: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    """Take one connection, and talk over it until the end of the block."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take() -> None:
            connection, _ = listener.accept()
            with connection:
                talk(connection, over)

        thread = threading.Thread(target=take)
        thread.start()
        yield listener.getsockname()[1]
        over.set()
        thread.join()


def drip_a_handshake(connection: socket.socket, over: threading.Event) -> None:
    """Begin a record of TLS that is as long as one may be, and send it a byte at a time."""
    try:
        connection.sendall(b"\x16\x03\x03\x40\x00")
        while not over.wait(0.02):
            connection.sendall(b"\x02")
    except OSError:
        pass


@pytest.mark.parametrize(
    ("seconds_max", "connect_seconds_max", "error"),
    [
        (0.5, inf, "There was no answer within 0.5 seconds."),
        (30, 0.5, "No connection could be made in time."),
    ],
)
def test_a_handshake_that_drips_is_over_in_time(seconds_max: float, connect_seconds_max: float, error: str) -> None:
    with a_port(drip_a_handshake) as port:
        pool = ConnectionPool(f"https://localhost:{port}")
        result = sent(pool, seconds_max=seconds_max, connect_seconds_max=connect_seconds_max)
    assert (result.error, result.is_sent) == (error, False)
    assert result.milliseconds < LATE_MILLISECONDS


# --- names and addresses ---


def resolve_to(*addresses: str, after: threading.Event | None = None) -> Callable[..., list[tuple[object, ...]]]:
    def resolve(_host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if after is not None:
            after.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return resolve


def test_a_resolver_that_hangs_is_given_up_in_time(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", resolve_to("127.0.0.1", after=over))
    pool = ConnectionPool(f"http://localhost:{receiver.port}")
    result = sent(pool, connect_seconds_max=0.3)
    over.set()
    assert (result.error, result.is_sent) == ("No connection could be made in time.", False)
    assert result.milliseconds < LATE_MILLISECONDS
    assert receiver.received == []


def test_the_next_address_of_a_name_is_tried(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolve_to("127.0.0.2", "127.0.0.1"))
    pool = ConnectionPool(f"http://localhost:{receiver.port}")
    assert sent(pool).body == b"taken"
    pool.close()


def test_an_address_that_is_refused_is_not_called(receiver: Receiver) -> None:
    def refuse(address: str) -> None:
        sentence = f"{address} {{0}} is not called."
        raise AddressRefusedError(sentence)

    pool = ConnectionPool(f"http://127.0.0.1:{receiver.port}", check_address=refuse)
    result = sent(pool)
    assert (result.error, result.is_sent) == ("127.0.0.1 {0} is not called.", False)
    assert receiver.received == []


def test_the_time_to_connect_does_not_bound_the_answer(receiver: Receiver) -> None:
    def answer_late(handler: Handler) -> None:
        time.sleep(0.6)
        handler.answer(200, b"late")

    receiver.behave = answer_late
    pool = a_pool(receiver)
    assert [sent(pool, connect_seconds_max=0.3).body for _ in range(2)] == [b"late"] * 2
    pool.close()


def test_a_body_without_a_length_that_is_cut_in_time_is_not_whole(receiver: Receiver) -> None:
    """To its reader a connection that was cut looks like one that has ended."""
    with a_drip(b"x", head=b"HTTP/1.1 200 OK\r\n\r\n") as receiver.behave:
        result = sent(a_pool(receiver), seconds_max=0.5)
    assert (result.status, result.error) == (200, "Its answer was not complete in time.")
