"""`flask serve` in trouble: clients that dawdle, break off or contradict themselves, and a database that goes away."""

import os
import select
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http import HTTPStatus
from pathlib import Path

import psycopg
import pytest
import urllib3
from psycopg.sql import SQL, Identifier
from sqlalchemy import make_url

from app.simulator.draft import authcode_created, token_canceled
from tests.acceptance.server import Server, running_server, status
from tests.builders import a_genuine_delivery, a_raw_request, an_environ

#: The servers of test_server and test_server_workers run the same lines, and are measured.
pytestmark = pytest.mark.no_cover

CODE = authcode_created("s-1", "code-1")
HEAD = b"POST /alipay/notifyAuthorization HTTP/1.1\r\nHost: merchant.example\r\n"
REPORT = (
    b"POST /v1/authorizations HTTP/1.1\r\nHost: merchant.example\r\nAuthorization: Bearer a-key\r\n"
    b'Content-Type: application/json\r\nContent-Length: 19\r\n\r\n{"authState":"s-1"}'
)
#: More than a proxy keeps open, and more than the threads of a worker many times over.
CROWD = 60


@pytest.fixture(scope="module")
def server(migrated_sqlite: Path, keyring_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one worker of two threads, so that no other worker can hide a delay."""
    folder = tmp_path_factory.mktemp("server")
    url = f"sqlite:///{shutil.copyfile(migrated_sqlite, folder / 'notifyauth.db')}"
    environ = an_environ(url, keyring_path, FLASK_METRICS_OPEN="1")
    with running_server(environ, folder / "log", "--workers", "1", "--threads", "2") as server:
        yield server


@contextmanager
def callers(server: Server, *, number: int, saying: bytes) -> Iterator[list[socket.socket]]:
    """Connections that stay open, each of which has said this much."""
    with ExitStack() as stack:
        opened = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10)) for _ in range(number)
        ]
        for each in opened:
            each.sendall(saying)
        # The server is to have noticed them.
        time.sleep(0.2)
        yield opened


def broken_off(server: Server, request: bytes) -> bytes:
    """What a client is answered that says it will send no more."""
    with callers(server, number=1, saying=request) as (caller,):
        caller.shutdown(socket.SHUT_WR)
        return caller.recv(65536)


@pytest.mark.parametrize(
    ("number", "saying"),
    [
        (CROWD, b""),
        (CROWD, b"POST /alipay"),
        (CROWD, b"GET /healthz HTTP/1.1\r\nHost: merchant.example\r\n\r\n"),
        (CROWD, HEAD + b"Content-Length: 100\r\n\r\n{"),
        (CROWD, HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"),
    ],
    ids=["silent", "half a head", "kept alive", "half a body", "half a body in chunks"],
)
def test_clients_that_dawdle_do_not_hold_up_the_others(server: Server, number: int, saying: bytes) -> None:
    with callers(server, number=number, saying=saying):
        # Over a connection of its own: one that was open before would prove nothing.
        answer = server.say(b"GET /healthz HTTP/1.1\r\nHost: merchant.example\r\nConnection: close\r\n\r\n", seconds=3)
    assert status(answer) == 200


def test_a_body_that_breaks_off_is_never_taken_for_a_whole_one(server: Server, keyring_path: Path) -> None:
    """Granian hands over what has come as if it were all, in chunks too: there the signature tells."""
    request = a_raw_request(a_genuine_delivery(keyring_path, token_canceled("token-1")))
    assert status(broken_off(server, request[:-1])) == 400
    head, _, body = request.partition(b"\r\n\r\n")
    head_lines = b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length"))
    in_chunks = b"%s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (head_lines, len(body) - 1, body[:-1])
    assert status(broken_off(server, in_chunks)) == 401


def test_a_body_that_does_not_come_is_given_up(server: Server) -> None:
    with callers(server, number=1, saying=HEAD + b"Content-Length: 100\r\n\r\n{") as (caller,):
        caller.settimeout(30)
        assert status(caller.recv(65536)) == 408
        assert caller.recv(65536) == b""


def test_a_head_is_to_end_long_before_an_idle_connection_is_closed(server: Server) -> None:
    """By default for 75 seconds. Which of them is closed first tells, whatever else the machine does."""
    ping = b"GET /healthz HTTP/1.1\r\nHost: merchant.example\r\n\r\n"
    with (
        callers(server, number=1, saying=ping) as (idle,),
        callers(server, number=1, saying=b"") as (silent,),
        callers(server, number=1, saying=b"GET /he") as (slow,),
    ):
        assert status(idle.recv(65536)) == 200
        for each in (silent, slow):
            each.settimeout(60)
            assert each.recv(65536) == b""
        idle.sendall(ping)
        assert status(idle.recv(65536)) == 200


def test_a_connection_may_be_idle_for_as_long_as_was_asked_for(
    migrated_sqlite: Path, keyring_path: Path, tmp_path: Path
) -> None:
    file = shutil.copyfile(migrated_sqlite, tmp_path / "notifyauth.db")
    ping = b"GET /healthz HTTP/1.1\r\nHost: merchant.example\r\n\r\n"
    with (
        running_server(
            an_environ(f"sqlite:///{file}", keyring_path), tmp_path / "log", "--workers", "1", "--keep-alive", "2"
        ) as server,
        callers(server, number=1, saying=ping) as (idle,),
    ):
        assert status(idle.recv(65536)) == 200
        began = time.monotonic()
        idle.settimeout(60)
        assert idle.recv(65536) == b""
        assert time.monotonic() - began > 1


def test_past_a_bounded_queue_the_answer_is_503_at_once_and_nothing_is_left_behind(
    migrated_sqlite: Path, keyring_path: Path, tmp_path: Path
) -> None:
    """Another process locks the database: every thread waits with a report, and behind them the queue fills."""
    file = shutil.copyfile(migrated_sqlite, tmp_path / "notifyauth.db")
    request = a_raw_request(a_genuine_delivery(keyring_path, CODE))
    environ = an_environ(f"sqlite:///{file}", keyring_path, FLASK_API_KEYS="a-key")
    with running_server(environ, tmp_path / "log", "--workers", "1", "--threads", "2") as server:
        assert status(server.say(request)) == 200
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            with callers(server, number=CROWD, saying=REPORT) as crowd:
                select.select(crowd, [], [])
                first = time.monotonic() - began
                assert [status(caller.recv(65536)) for caller in crowd] == [503] * CROWD
                # Those past the queue had their answer while the others still waited: for the lock, or for a thread.
                assert 2 * first < time.monotonic() - began
            other.execute("ROLLBACK")
        assert status(server.say(request)) == 200


def test_deliveries_that_wait_for_the_database_leave_the_threads_to_others(
    migrated_sqlite: Path, keyring_path: Path, tmp_path: Path
) -> None:
    """Deliveries need none of the two threads, so that both are left to requests that only read."""
    file = shutil.copyfile(migrated_sqlite, tmp_path / "notifyauth.db")
    requests = [
        a_raw_request(a_genuine_delivery(keyring_path, token_canceled(f"token-{number}"))) for number in range(20)
    ]
    environ = an_environ(f"sqlite:///{file}", keyring_path)
    with (
        running_server(environ, tmp_path / "log", "--workers", "1", "--threads", "2") as server,
        closing(sqlite3.connect(file, isolation_level=None)) as other,
        ThreadPoolExecutor(len(requests)) as senders,
    ):
        other.execute("BEGIN IMMEDIATE")
        answers = [senders.submit(server.say, request) for request in requests]
        time.sleep(0.3)
        assert server.get("/readyz").status == HTTPStatus.OK
        assert not any(answer.done() for answer in answers)
        other.execute("ROLLBACK")
        assert {status(answer.result()) for answer in answers} == {200}


def test_a_request_that_contradicts_itself_about_its_length_is_refused(server: Server, keyring_path: Path) -> None:
    """A proxy that believes the other length would see two requests in one (request smuggling)."""
    request = a_raw_request(a_genuine_delivery(keyring_path, CODE))
    assert status(server.say(request.replace(b"Content-Length", b"Content-Length: 1\r\nContent-Length", 1))) == 400
    both = request.replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nContent-Length", 1)
    assert status(server.say(both)) in {400, 401}


def test_a_head_larger_than_64_kib_is_refused(server: Server) -> None:
    for sent in (b"x" * 500_000, b"x" * 66_000 + b"\r\n\r\n"):
        assert status(server.say(HEAD + b"X-More: " + sent)) == 431
    assert status(server.say(HEAD + b"Content-Length: 0\r\nX-More: " + b"x" * 60_000 + b"\r\n\r\n")) == 401


@contextmanager
def away(url: str) -> Iterator[None]:
    """Refuse all connections to a database for a while."""
    named = make_url(url)
    elsewhere = named.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    database = Identifier(named.database or "")
    with psycopg.connect(elsewhere, autocommit=True) as connection:
        connection.execute(SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(database))
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [named.database]
        )
        try:
            yield
        finally:
            connection.execute(SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS true").format(database))


def test_a_database_that_comes_back_is_used_without_a_restart(
    postgresql_url: str, keyring_path: Path, tmp_path: Path
) -> None:
    """Both by a worker that lost it at work and by one that started without it."""
    request = a_raw_request(a_genuine_delivery(keyring_path, CODE))
    environ = an_environ(postgresql_url, keyring_path)
    with running_server(environ, tmp_path / "log", "--workers", "1") as server:
        assert status(server.say(request)) == 200
        with away(postgresql_url):
            assert status(server.say(request)) == 503
        assert status(server.say(request)) == 200
        with away(postgresql_url):
            (worker,) = server.workers()
            os.kill(worker, signal.SIGKILL)
            wait_until_alive(server)
            assert server.get("/readyz").status == HTTPStatus.SERVICE_UNAVAILABLE
            assert status(server.say(request)) == 503
        assert server.get("/readyz").status == HTTPStatus.OK
        assert status(server.say(request)) == 200


def wait_until_alive(server: Server) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if server.get("/healthz").status == HTTPStatus.OK:
                return
        except urllib3.exceptions.HTTPError:
            time.sleep(0.05)
    raise AssertionError
