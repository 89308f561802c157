"""The workers of `flask serve`: replaced without losing a request, started again when they die, never left alone."""

import os
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from threading import Event

import pytest

from app.simulator.draft import authcode_created, token_canceled
from app.simulator.keys import make_sandbox
from tests.acceptance.server import Server, a_free_port, flask, running_server, status, wait_until_ready
from tests.builders import a_genuine_delivery, a_raw_request, an_environ

CODE = authcode_created("s-1", "code-1")


@pytest.fixture
def keyring_path(keyring_path: Path, tmp_path: Path) -> Path:
    """The keyring of a sandbox, for this test to change."""
    return shutil.copytree(keyring_path.parent, tmp_path / "sandbox") / keyring_path.name


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the server's output goes."""
    return tmp_path / "server.log"


@pytest.fixture
def server(sqlite_url: str, keyring_path: Path, log: Path) -> Iterator[Server]:
    """A server with two workers, both ready."""
    with running_server(an_environ(sqlite_url, keyring_path), log, "--workers", "2") as server:
        wait_until(lambda: "Started worker-1" in log.read_text() and "Started worker-2" in log.read_text(), log)
        yield server


def wait_until(is_so: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    """Say whether there is such a process, other than one that has ended and whom nobody has asked for its status."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    return False


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def deliver_until(is_over: Event, server: Server, keyring_path: Path, sender: int) -> list[int]:
    """Deliver one notification after another, each over a connection of its own; one that breaks counts as 0.

    Each comes a moment after its connection, as over a real network: a worker may be told to stop in between.
    """
    statuses: list[int] = []
    while not is_over.is_set():
        request = a_raw_request(a_genuine_delivery(keyring_path, token_canceled(f"token-{sender}-{len(statuses)}")))
        try:
            statuses.append(status(server.say(request, after=0.03)))
        except (OSError, IndexError) as error:
            print(repr(error))  # noqa: T201 -- pytest shows it where the test fails
            statuses.append(0)
    return statuses


def test_a_reload_replaces_the_workers_and_loses_no_request(server: Server, keyring_path: Path, log: Path) -> None:
    before, is_over = server.workers(), Event()
    with ThreadPoolExecutor(8) as senders:
        sent = [senders.submit(deliver_until, is_over, server, keyring_path, sender) for sender in range(8)]
        try:
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "reloaded" in log.read_text(), log)
        finally:
            is_over.set()
        statuses = [each for sender in sent for each in sender.result()]
    assert set(statuses) == {200}
    assert len(server.workers()) == 2
    assert not set(before) & set(server.workers())


def test_a_reload_reads_the_keyring_anew(server: Server, keyring_path: Path, log: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "keyring.toml"
    other.parent.mkdir()
    make_sandbox(other)
    request = a_raw_request(a_genuine_delivery(other, CODE))
    assert status(server.say(request)) == 401
    for file in other.parent.iterdir():
        keyring_path.with_name(file.name).write_bytes(file.read_bytes())
    assert status(server.say(request)) == 401
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reloaded" in log.read_text(), log)
    assert status(server.say(request)) == 200


def test_a_broken_keyring_is_refused_in_one_line_and_the_old_one_goes_on(
    server: Server, keyring_path: Path, log: Path
) -> None:
    before, request = server.workers(), a_raw_request(a_genuine_delivery(keyring_path, CODE))
    length = len(log.read_text())
    keyring_path.write_text("[clients")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reload refused" in log.read_text(), log)
    (line,) = log.read_text()[length:].splitlines()
    assert "keyring.toml is not TOML" in line
    assert server.workers() == before
    assert status(server.say(request)) == 200


def test_a_reload_on_a_database_that_no_worker_could_use_is_refused_in_one_line(
    server: Server, log: Path, sqlite_url: str
) -> None:
    before, length = server.workers(), len(log.read_text())
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as owner:
        owner.execute("ALTER TABLE inbox RENAME TO inbox2")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reload refused" in log.read_text(), log)
    said = log.read_text()[length:]
    assert "lacks a table or column" in said
    assert "Traceback" not in said
    assert server.workers() == before


def test_a_worker_that_cannot_start_does_not_replace_the_old_one(server: Server, keyring_path: Path, log: Path) -> None:
    """The keyring is in order when it is checked, and no longer when the new worker reads it."""
    before, request = server.workers(), a_raw_request(a_genuine_delivery(keyring_path, CODE))
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reloading" in log.read_text(), log)
    keyring_path.write_text("[clients")
    wait_until(lambda: "reload given up" in log.read_text(), log)
    assert server.workers() == before
    assert status(server.say(request)) == 200


def test_a_background_process_that_dies_during_a_reload_is_started_again_at_once(server: Server, log: Path) -> None:
    """A reload waits for a worker that does not come up, for up to a minute: a code's whole life."""
    wait_until(lambda: len(server.background()) == 1, log)
    before = server.workers()
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(server.workers()) == 3, log)
    (new,) = set(server.workers()) - set(before)
    os.kill(new, signal.SIGSTOP)
    try:
        (background,) = server.background()
        os.kill(background, signal.SIGKILL)
        wait_until(lambda: server.background() not in ([], [background]), log)
        assert "reload given up" not in log.read_text()
        assert new in server.workers()
    finally:
        os.kill(new, signal.SIGKILL)


def test_a_server_that_reloads_can_be_stopped(server: Server, log: Path) -> None:
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reloading" in log.read_text(), log)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=30) == 0


def test_workers_ignore_a_hangup(server: Server, log: Path) -> None:
    """A terminal that goes away tells every process of its own."""
    before = server.workers()
    for worker in before:
        os.kill(worker, signal.SIGHUP)
    time.sleep(0.5)
    assert server.workers() == before
    assert "worker died" not in log.read_text()


def test_workers_whose_parent_was_killed_finish_what_they_have_begun_and_end(
    server: Server, keyring_path: Path
) -> None:
    workers, request = server.workers(), a_raw_request(a_genuine_delivery(keyring_path, CODE))
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as caller:
        caller.sendall(request[:-5])
        # The worker is to have the head in hand.
        time.sleep(0.5)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        time.sleep(0.5)
        caller.sendall(request[-5:])
        assert status(caller.recv(65536)) == 200
    deadline = time.monotonic() + 60
    while any(is_alive(worker) for worker in workers) or listens(server.port):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def has_died(log: Path, *, times: int) -> bool:
    return log.read_text().count("worker died") == times


def test_a_worker_that_keeps_dying_is_started_ever_more_slowly_and_the_other_serves(
    server: Server, keyring_path: Path, log: Path
) -> None:
    healthy = server.workers()[1]
    request = a_raw_request(a_genuine_delivery(keyring_path, CODE))
    for deaths in range(1, 4):
        wait_until(lambda: len(server.workers()) == 2, log)
        os.kill(next(worker for worker in server.workers() if worker != healthy), signal.SIGKILL)
        wait_until(partial(has_died, log, times=deaths), log)
        assert status(server.say(request)) == 200
    pauses = [line.rpartition("again_in_seconds=")[2] for line in log.read_text().splitlines() if "worker died" in line]
    assert [float(pause) for pause in pauses] == [0, 1, 2]
    assert healthy in server.workers()
    wait_until(lambda: len(server.workers()) == 2, log)
    assert server.process.poll() is None


def test_two_deaths_close_together_refuse_no_connection(server: Server, log: Path) -> None:
    """The worker in the place of the first is still starting, and does not listen, when the second dies."""
    first, second = server.workers()
    os.kill(first, signal.SIGKILL)
    wait_until(partial(has_died, log, times=1), log)
    os.kill(second, signal.SIGKILL)
    wait_until(partial(has_died, log, times=2), log)
    started = log.read_text().count("Started worker")
    while log.read_text().count("Started worker") == started:
        assert listens(server.port)
        time.sleep(0.01)
    wait_until_ready(server, log)


def test_a_server_none_of_whose_workers_can_start_ends_and_says_so(
    sqlite_url: str, keyring_path: Path, tmp_path: Path
) -> None:
    """What is wrong shows in the workers only: a module of theirs breaks."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif '--multiprocessing-fork' in sys.argv: raise SystemExit('broken')\n"
    )
    environ = an_environ(sqlite_url, keyring_path, PYTHONPATH=str(tmp_path))
    refused = flask(environ, "serve", "--workers", "2", "--port", str(a_free_port()))
    assert refused.returncode == 1
    assert "no worker can start" in refused.stderr


@pytest.mark.parametrize(
    ("host", "asked_at"),
    [("localhost", "127.0.0.1"), ("::1", "::1"), ("[::1]", "::1"), ("0.0.0.0", "127.0.0.1"), ("::", "::1")],  # noqa: S104 -- for a moment
)
def test_a_name_and_either_family_of_addresses_can_be_listened_at(
    host: str, asked_at: str, sqlite_url: str, keyring_path: Path, log: Path
) -> None:
    if ":" in asked_at and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    environ = an_environ(sqlite_url, keyring_path)
    with running_server(environ, log, "--workers", "1", "--host", host, asked_at=asked_at) as server:
        assert status(server.say(a_raw_request(a_genuine_delivery(keyring_path, CODE)))) == 200


def has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@pytest.mark.parametrize("host", ["no-such-host.invalid", "256.1.1.1", "203.0.113.7", "a" * 300, "a..b"])
def test_a_host_that_cannot_be_listened_at_is_said_in_one_sentence(
    host: str, sqlite_url: str, keyring_path: Path
) -> None:
    refused = flask(an_environ(sqlite_url, keyring_path), "serve", "--host", host)
    assert refused.returncode == 2
    (sentence,) = [line for line in refused.stderr.splitlines() if "No API key" not in line]
    assert sentence.startswith(f"Error: Cannot listen at {host}:8000 (")
