"""`flask serve` as a process: what the server makes of a request before the application sees it, and how it stops."""

import os
import re
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import make_url

from app.simulator.draft import authcode_created, token_canceled
from tests.acceptance.server import Server, flask, running_server, status, wait_until_ready
from tests.builders import a_genuine_delivery, a_raw_request, an_environ

API_KEY = "an-api-key"
CODE = authcode_created("s-1", "code-1")


@pytest.fixture
def environ(sqlite_url: str, keyring_path: Path) -> dict[str, str]:
    """The settings of a service."""
    return an_environ(sqlite_url, keyring_path, FLASK_API_KEYS=API_KEY)


@pytest.fixture(scope="module")
def shared_server(
    migrated_sqlite: Path, keyring_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server with two workers, for what leaves it as it was."""
    folder = tmp_path_factory.mktemp("server")
    environ = an_environ(f"sqlite:///{shutil.copyfile(migrated_sqlite, folder / 'notifyauth.db')}", keyring_path)
    with running_server(environ, folder / "server.log", "--workers", "2") as server:
        yield server


@pytest.fixture
def server(environ: dict[str, str], tmp_path: Path) -> Iterator[Server]:
    """A server with two workers."""
    with running_server(environ, tmp_path / "server.log", "--workers", "2") as server:
        yield server


def with_header(request: bytes, line: bytes, *, first: bool) -> bytes:
    """Add a header line before all others, or behind them."""
    start, _, rest = request.partition(b"\r\n")
    head, _, body = rest.partition(b"\r\n\r\n")
    lines = [line, head] if first else [head, line]
    return b"\r\n".join([start, *lines, b"", body])


def in_chunks(request: bytes, *, size: int) -> bytes:
    head, _, body = request.partition(b"\r\n\r\n")
    head = re.sub(rb"\r\nContent-Length: \d+", b"\r\nTransfer-Encoding: chunked", head)
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return head + b"\r\n\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])


def test_the_application_receives_the_bytes_that_were_sent(shared_server: Server, keyring_path: Path) -> None:
    """A repeated header is joined with a comma, and then names nobody; `client_id` never passes for `client-id`."""
    request = a_raw_request(a_genuine_delivery(keyring_path, CODE))
    assert status(shared_server.say(request)) == 200
    for name in (b"client-id", b"signature", b"request-time"):
        for first in (True, False):
            assert status(shared_server.say(with_header(request, name + b": another", first=first))) == 401
    assert status(shared_server.say(with_header(request, b"client_id: another", first=False))) == 200
    assert status(shared_server.say(in_chunks(request, size=7))) == 200
    assert status(shared_server.say(request.replace(b"POST /", b"POST http://merchant.example/", 1))) == 200
    assert shared_server.say(with_header(request, b"Expect: 100-continue", first=False)).startswith(b"HTTP/1.1 100")


def test_a_path_is_the_same_however_it_is_spelled(shared_server: Server, keyring_path: Path) -> None:
    """The server decodes a path, and nothing of its spelling is left: a proxy must look at the decoded one, too."""
    request = a_raw_request(a_genuine_delivery(keyring_path, CODE))
    for spelled in (b"/alipay%2FnotifyAuthorization", b"/alipay/%6EotifyAuthorization"):
        assert status(shared_server.say(request.replace(b"/alipay/notifyAuthorization", spelled, 1))) == 200


def test_a_huge_body_is_refused_before_it_is_sent(shared_server: Server) -> None:
    announced = b"POST /alipay/notifyAuthorization HTTP/1.1\r\nHost: m\r\nContent-Length: 999999999\r\n\r\n{"
    assert status(shared_server.say(announced)) == 413
    endless = b"POST /alipay/notifyAuthorization HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert status(shared_server.say(endless + b"10000\r\n" + b"x" * 65536 + b"\r\n1\r\nx\r\n")) == 413


def test_the_figures_of_all_workers_add_up(server: Server, keyring_path: Path) -> None:
    request = a_raw_request(a_genuine_delivery(keyring_path, CODE))
    for _ in range(20):
        server.say(request)
    # A worker tells the others once a second what it has counted.
    deadline = time.monotonic() + 30
    told: set[str] = set()
    while told != {"20.0"}:
        assert time.monotonic() < deadline, told
        time.sleep(0.5)
        pages = [server.get("/metrics", key=API_KEY).data.decode() for _ in range(5)]
        told = {found[1] for page in pages if (found := re.search(r'deliveries_total\{status="200"\} (.*)', page))}


def test_requests_in_flight_are_finished_before_the_server_stops(
    server: Server, sqlite_url: str, keyring_path: Path
) -> None:
    """Somebody else holds the database for a moment, and the server is told to stop within that moment."""
    database = make_url(sqlite_url).database
    assert database is not None
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    # Of those that a worker has, one leads, and the others keep no thread.
    requests = [
        a_raw_request(a_genuine_delivery(keyring_path, token_canceled(f"token-{number}"))) for number in range(8)
    ]
    with ThreadPoolExecutor(len(requests)) as senders:
        answers = [senders.submit(server.say, request) for request in requests]
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        holder.execute("ROLLBACK")
        holder.close()
        assert [status(answer.result()) for answer in answers] == [200] * len(requests)
    assert server.process.wait(timeout=30) == 0


def test_a_worker_that_dies_is_replaced(server: Server, keyring_path: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    wait_for_words(log, "Started worker-1", "Started worker-2")
    os.kill(server.workers()[0], signal.SIGKILL)
    wait_for_words(log, "worker died worker=1")
    wait_until_ready(server, log)
    assert status(server.say(a_raw_request(a_genuine_delivery(keyring_path, CODE)))) == 200


def wait_for_words(log: Path, *words: str) -> None:
    """Return once the server has said all of it."""
    deadline = time.monotonic() + 60
    while not all(each in log.read_text() for each in words):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_no_process_and_no_file_is_left_behind(environ: dict[str, str], tmp_path: Path) -> None:
    places = {"TMPDIR": tmp_path / "tmp", "RUNTIME_DIRECTORY": tmp_path / "run"}
    for place in places.values():
        place.mkdir()
    named = {name: str(place) for name, place in places.items()}
    with running_server(environ | named, tmp_path / "log", "--workers", "2") as server:
        workers = server.workers()
        assert list((tmp_path / "run" / "counters").iterdir())
    assert len(workers) == 2
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert list((tmp_path / "run").rglob("*")) == [tmp_path / "run" / "counters"]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_port_in_use_is_said_in_one_sentence(shared_server: Server, environ: dict[str, str]) -> None:
    refused = flask(environ, "serve", "--port", str(shared_server.port))
    assert refused.returncode == 2
    assert re.fullmatch(
        r"Error: Cannot listen at 127\.0\.0\.1:\d+ \(.*\): choose another --port or --host\.\n", refused.stderr
    )


def test_a_database_that_was_not_migrated_is_said_in_one_sentence(
    unmigrated_sqlite_url: str, keyring_path: Path
) -> None:
    refused = flask(an_environ(unmigrated_sqlite_url, keyring_path), "serve")
    assert refused.returncode == 2
    path = unmigrated_sqlite_url.removeprefix("sqlite:///")
    there_is_none = f"Error: There is no database {path}: correct FLASK_DATABASE_URL, or make it."
    assert refused.stderr == f"{there_is_none} Run: flask db upgrade\n"


def test_no_secret_is_in_the_servers_log(environ: dict[str, str], keyring_path: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with running_server(environ, log) as server:
        for notification in (CODE, token_canceled("token-5f1c"), b'{"accessToken": "token-77aa"}'):
            server.say(a_raw_request(a_genuine_delivery(keyring_path, notification)))
        server.say(a_raw_request(a_genuine_delivery(keyring_path, CODE, client_id="STRANGER")))
    text = log.read_text()
    assert text.count("delivery stored") == 3
    assert "delivery refused" in text
    assert [secret for secret in ("code-1", "token-5f1c", "token-77aa", API_KEY) if secret in text] == []
