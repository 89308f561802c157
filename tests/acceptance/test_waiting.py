"""`flask serve` while many clients wait: they keep no thread, hold up nobody, and are answered when it stops."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.database import Database
from app.events import feed
from app.simulator.draft import authcode_created
from tests.acceptance.server import Server, running_server, status
from tests.builders import a_genuine_delivery, a_raw_request, an_environ

#: The servers of test_server and test_server_workers run the same lines, and are measured.
pytestmark = pytest.mark.no_cover

API_KEY = "an-api-key"
#: More than the threads of a worker many times over.
CROWD = 100
#: Longer than any other answer may take.
PAST_EVERY_OTHER_ANSWER = 5

#: What no database has a part in: how the server keeps those who wait.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def server(database_url: str, keyring_path: Path, tmp_path: Path) -> Iterator[Server]:
    """A server with one worker, of 16 threads: whatever holds it up, nobody else can make up for it."""
    environ = an_environ(database_url, keyring_path, FLASK_API_KEYS=API_KEY)
    with running_server(environ, tmp_path / "server.log", "--workers", "1") as server:
        yield server


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The server's database."""
    database = Database(database_url)
    yield database
    database.close()


def asking(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: merchant.example\r\nAuthorization: Bearer {API_KEY}\r\n\r\n".encode()


def waiting(server: Server, stack: ExitStack, number: int, path: str) -> list[socket.socket]:
    """Clients that have asked, and wait."""
    clients = []
    for _ in range(number):
        client = stack.enter_context(socket.create_connection((server.host, server.port), timeout=20))
        client.sendall(asking(path))
        clients.append(client)
    time.sleep(1)
    return clients


def answer_to(client: socket.socket) -> tuple[int, dict[str, Any]]:
    answer = b""
    while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < length_of(answer):
        received = client.recv(65536)
        assert received, answer
        answer += received
    return status(answer), json.loads(answer.partition(b"\r\n\r\n")[2])


def length_of(answer: bytes) -> int:
    (line,) = [each for each in answer.lower().split(b"\r\n") if each.startswith(b"content-length:")]
    return int(line.partition(b":")[2])


def test_a_crowd_that_waits_delays_no_notification_and_is_told_together(
    server: Server, database: Database, keyring_path: Path
) -> None:
    with ExitStack() as stack:
        clients = waiting(server, stack, CROWD, "/v1/events?wait=25")
        for number in range(20):
            request = a_raw_request(a_genuine_delivery(keyring_path, authcode_created(f"s-{number}", "code-1")))
            # Behind a crowd that kept threads it would be refused after three seconds.
            assert status(server.say(request, seconds=2)) == 200
        body = b'{"authState": "s-1"}'
        report = (
            asking("/v1/authorizations")
            .replace(b"GET", b"POST")
            .replace(b"\r\n\r\n", b"\r\nContent-Length: %d\r\n\r\n" % len(body))
        )
        with socket.create_connection((server.host, server.port), timeout=3) as reporter:
            reporter.sendall(report + body)
            assert answer_to(reporter)[0] == 201
        database.run(partial(feed.number, subscribers=lambda _type: (), now=datetime.now(UTC)))
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(answer_to, clients))
    assert {code for code, _ in answers} == {200}
    assert {tuple(event["type"] for event in page["events"]) for _, page in answers} == {
        ("authorization.consulted", "authorization.authcode_issued")
    }


@on_sqlite
def test_a_wait_is_not_cut_by_the_bound_on_all_other_answers(server: Server) -> None:
    asked = time.monotonic()
    with ExitStack() as stack:
        (client,) = waiting(server, stack, 1, f"/v1/events?wait={PAST_EVERY_OTHER_ANSWER}")
        assert answer_to(client) == (200, {"events": [], "next": "0", "more": False})
    assert time.monotonic() - asked >= PAST_EVERY_OTHER_ANSWER


@on_sqlite
def test_a_client_that_goes_away_frees_its_place(server: Server) -> None:
    """There are places for half as many as are here in all."""
    for _ in range(3):
        with ExitStack() as stack:
            waiting(server, stack, CROWD, "/v1/events?wait=25")
        time.sleep(0.5)
    answer = server.get("/v1/events?wait=1", key=API_KEY)
    assert answer.status == 200


@on_sqlite
def test_those_who_wait_are_answered_when_the_server_stops(server: Server) -> None:
    with ExitStack() as stack:
        clients = waiting(server, stack, 10, "/v1/events?wait=25")
        stopped = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert [answer_to(client) for client in clients] == [(200, {"events": [], "next": "0", "more": False})] * 10
        server.process.wait(timeout=20)
        # Long before their time is up.
        assert time.monotonic() - stopped < 20


@on_sqlite
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_those_who_wait_are_answered_when_their_worker_alone_is_told_to_stop(
    server: Server, number: signal.Signals
) -> None:
    with ExitStack() as stack:
        clients = waiting(server, stack, 10, "/v1/events?wait=25")
        (worker,) = server.workers()
        stopped = time.monotonic()
        os.kill(worker, number)
        assert [answer_to(client)[0] for client in clients] == [200] * 10
        while worker in server.workers():
            time.sleep(0.05)
        # Long before their time is up.
        assert time.monotonic() - stopped < 20


@on_sqlite
def test_those_who_wait_are_answered_when_their_worker_is_replaced(server: Server) -> None:
    with ExitStack() as stack:
        clients = waiting(server, stack, 10, "/v1/events?wait=25")
        (worker,) = server.workers()
        server.process.send_signal(signal.SIGHUP)
        assert [answer_to(client)[0] for client in clients] == [200] * 10
        deadline = time.monotonic() + 20
        while worker in server.workers():
            assert time.monotonic() < deadline
            time.sleep(0.1)
