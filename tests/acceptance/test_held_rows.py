"""Many requests to a real server need one held row: the other requests are hardly delayed, and all end in time."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from app.simulator.draft import authcode_created
from tests.acceptance.server import Server, running_server, status
from tests.builders import a_genuine_delivery, a_raw_request, an_environ

#: The servers of test_server and test_server_workers run the same lines, and are measured.
pytestmark = pytest.mark.no_cover

#: Nearly as many as a worker takes connections, and many times its threads.
STUCK = 200
#: As many as may come within the seconds that the row is held.
OTHERS = 24
#: About four seconds, and what a busy machine adds to that.
SECONDS_MAX = 8


@pytest.fixture
def server(postgresql_url: str, keyring_path: Path, tmp_path: Path) -> Iterator[Server]:
    """A server with one worker, so that no other worker can hide a delay."""
    environ = an_environ(postgresql_url, keyring_path, FLASK_API_KEYS="a-key")
    with running_server(environ, tmp_path / "log", "--workers", "1") as server:
        yield server


def call(path: str, document: str) -> bytes:
    body = document.encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: merchant.example\r\nAuthorization: Bearer a-key\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def consulted(server: Server, name: str) -> str:
    """Register a consult, and return the path of its authorization."""
    answer = server.say(call("/v1/authorizations", f'{{"authState":"{name}"}}'))
    assert status(answer) == 201
    (location,) = [line for line in answer.split(b"\r\n") if line.lower().startswith(b"location:")]
    return location.decode().split()[1]


@contextmanager
def held(url: str, name: str) -> Iterator[None]:
    """Be an operator at psql who looks at a row, and forgets that."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as other:
        other.execute("SELECT 1 FROM authorizations WHERE auth_state = %s FOR UPDATE", [name])
        yield
        other.rollback()


def code(keyring_path: Path, name: str, code: str) -> bytes:
    return a_raw_request(a_genuine_delivery(keyring_path, authcode_created(name, code)))


def timed(server: Server, request: bytes) -> tuple[int, float]:
    """Send a request, and return the status of the answer and how long it took."""
    began = time.monotonic()
    answer = server.say(request, seconds=30)
    return (status(answer) if answer else 0), time.monotonic() - began


def test_deliveries_that_wait_for_one_row_leave_the_others_alone(
    server: Server, postgresql_url: str, keyring_path: Path
) -> None:
    for name in ("held", *(f"s-{number}" for number in range(OTHERS))):
        consulted(server, name)
    stuck = [code(keyring_path, "held", f"code-{number}") for number in range(STUCK)]
    others = [code(keyring_path, f"s-{number}", f"code-{number}") for number in range(OTHERS)]
    with ThreadPoolExecutor(STUCK + OTHERS) as senders:
        with held(postgresql_url, "held"):
            waiting = [senders.submit(timed, server, request) for request in stuck]
            time.sleep(0.5)
            answered = [each.result() for each in [senders.submit(timed, server, request) for request in others]]
            told = [each.result() for each in waiting]
        assert [found for found, _ in answered] == [200] * OTHERS
        assert {found for found, _ in told} == {503}
        assert max(seconds for _, seconds in [*answered, *told]) < SECONDS_MAX
        # They had their answer long before those were told.
        assert 4 * max(seconds for _, seconds in answered) < max(seconds for _, seconds in told)
        assert status(server.say(stuck[0])) == 200


def test_calls_that_wait_for_one_row_leave_threads_to_the_others(server: Server, postgresql_url: str) -> None:
    path = consulted(server, "held")
    others = [call(f"{consulted(server, f's-{number}')}/authcode", '{"authCode":"code"}') for number in range(OTHERS)]
    stuck = call(f"{path}/authcode", '{"authCode":"code"}')
    with ThreadPoolExecutor(STUCK + OTHERS) as senders:
        with held(postgresql_url, "held"):
            waiting = [senders.submit(timed, server, stuck) for _ in range(40)]
            time.sleep(0.2)
            answered = [each.result() for each in [senders.submit(timed, server, request) for request in others]]
            told = [each.result() for each in waiting]
        assert [found for found, _ in answered] == [200] * OTHERS
        assert {found for found, _ in told} == {503}
        assert max(seconds for _, seconds in [*answered, *told]) < SECONDS_MAX
        assert status(server.say(stuck)) == 200
