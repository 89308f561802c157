"""The merchant is told by a real server: a whole life, in order, verified, whatever is killed in between."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import pytest
import urllib3
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.database import Database
from app.models import FeedEvent, WebhookDelivery
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from tests.acceptance.server import Server, flask, running_server, status, working
from tests.builders import a_genuine_delivery, a_raw_request, an_environ
from tests.receiver import SECRET, Receiver, a_receiver

API_KEY = "a-key-of-the-shop"

#: What no database has a part in: which processes there are, and what they read when.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with a_receiver() as receiver:
        yield receiver


@pytest.fixture
def endpoints_path(tmp_path: Path, receiver: Receiver) -> Path:
    """The endpoints of a service: one."""
    path = tmp_path / "endpoints.toml"
    path.write_text(f'[endpoints.shop]\nurl = "{receiver.url}"\nsecrets = ["{SECRET}"]\n')
    return path


@pytest.fixture
def environ(database_url: str, keyring_path: Path, endpoints_path: Path) -> dict[str, str]:
    return an_environ(database_url, keyring_path, FLASK_ENDPOINTS=str(endpoints_path), FLASK_API_KEYS=f"shop={API_KEY}")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "server.log"


@pytest.fixture
def server(environ: dict[str, str], log: Path) -> Iterator[Server]:
    with running_server(environ, log, "--workers", "1") as server:
        yield server


def consult(server: Server, auth_state: str) -> None:
    answer = urllib3.request(
        "POST",
        f"{server.url}/v1/authorizations",
        json={"authState": auth_state},
        headers={"Authorization": f"Bearer {API_KEY}"},
        retries=False,
    )
    assert answer.status == 201


def notify(server: Server, keyring_path: Path, notification: Draft) -> None:
    assert status(server.say(a_raw_request(a_genuine_delivery(keyring_path, notification)))) == 200


def a_life(server: Server, keyring_path: Path, auth_state: str) -> None:
    consult(server, auth_state)
    notify(server, keyring_path, authcode_created(auth_state, f"code-{auth_state}"))
    notify(server, keyring_path, token_created(auth_state, f"token-{auth_state}"))
    notify(server, keyring_path, token_canceled(f"token-{auth_state}"))


def wait_until(is_so: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def test_a_whole_life_is_told_in_order(server: Server, receiver: Receiver, keyring_path: Path, log: Path) -> None:
    a_life(server, keyring_path, "s-1")
    receiver.wait_for(4)
    assert receiver.told() == [("s-1", 1), ("s-1", 2), ("s-1", 3), ("s-1", 4)]
    assert [each["type"].removeprefix("authorization.") for each in receiver.events()] == [
        "consulted",
        "authcode_issued",
        "token_active",
        "canceled",
    ]
    assert "Traceback" not in log.read_text()


def test_a_killed_background_process_is_started_again_and_loses_nothing(
    server: Server, receiver: Receiver, keyring_path: Path, log: Path
) -> None:
    wait_until(lambda: bool(server.background()), log)
    (background,) = server.background()
    a_life(server, keyring_path, "s-1")
    os.kill(background, signal.SIGKILL)
    a_life(server, keyring_path, "s-2")
    wait_until(lambda: set(receiver.told()) >= {(each, n) for each in ("s-1", "s-2") for n in (1, 2, 3, 4)}, log)
    assert "background process died" in log.read_text()
    assert server.background() != [background]


@on_sqlite
def test_a_reload_reads_the_endpoints_anew_and_keeps_the_old_ones_where_they_are_wrong(
    server: Server, receiver: Receiver, endpoints_path: Path, log: Path
) -> None:
    with a_receiver() as other:
        consult(server, "s-1")
        receiver.wait_for(1)
        right = endpoints_path.read_text()
        endpoints_path.write_text("[endpoints.shop]")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "reload refused" in log.read_text(), log)
        assert "url of endpoint shop is missing" in log.read_text()
        consult(server, "s-2")
        receiver.wait_for(2)
        endpoints_path.write_text(right.replace(receiver.url, other.url))
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "reloaded" in log.read_text(), log)
        consult(server, "s-3")
        other.wait_for(1)
        assert receiver.told() == [("s-1", 1), ("s-2", 1)]


@on_sqlite
def test_nothing_is_told_without_background_work_and_flask_work_catches_up(
    environ: dict[str, str], receiver: Receiver, log: Path, tmp_path: Path
) -> None:
    with running_server(environ, log, "--workers", "1", "--no-work") as server:
        assert server.background() == []
        consult(server, "s-1")
        time.sleep(1)
        assert receiver.received == []
        with working(environ, tmp_path / "work.log") as worker:
            receiver.wait_for(1)
            worker.send_signal(signal.SIGHUP)
            wait_until(lambda: "reloaded" in (tmp_path / "work.log").read_text(), tmp_path / "work.log")
            consult(server, "s-2")
            receiver.wait_for(2)
        assert worker.returncode == 0


def test_of_two_machines_one_may_be_killed_under_load_and_the_other_tells_the_rest(
    environ: dict[str, str], receiver: Receiver, tmp_path: Path, log: Path
) -> None:
    """Each machine has a folder of its own, and they meet in the database alone."""
    with running_server(environ, log, "--workers", "1", "--no-work") as server, ExitStack() as stack:
        machines = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            own = environ | {"TMPDIR": str(tmp_path / name), "RUNTIME_DIRECTORY": str(tmp_path / name)}
            machines.append(stack.enter_context(working(own, tmp_path / f"{name}.log")))
        names = [f"s-{number}" for number in range(150)]
        for name in names[:50]:
            consult(server, name)
        receiver.wait_for(20)
        # The other goes on, whichever of them has sent.
        machines.pop(0).kill()
        for name in names[50:100]:
            consult(server, name)
        receiver.wait_for(100, seconds=40)
        machines.append(stack.enter_context(working(environ, tmp_path / "three.log")))
        machines.pop(0).kill()
        for name in names[100:]:
            consult(server, name)
        wait_until(lambda: set(receiver.told()) == {(name, 1) for name in names}, tmp_path / "three.log")


def test_what_is_older_than_a_month_is_purged_beside_all_other_work(
    server: Server, database_url: str, receiver: Receiver, keyring_path: Path, log: Path
) -> None:
    """The clocks of the database's rows are set back, and the worker is started anew: it looks once an hour."""
    a_life(server, keyring_path, "s-1")
    receiver.wait_for(4)
    database = Database(database_url)

    def age(session: Session) -> None:
        for each in (FeedEvent.numbered_at, FeedEvent.at):
            session.execute(update(FeedEvent).values({each: datetime.now(UTC) - timedelta(days=30, minutes=1)}))

    def is_all_delivered() -> bool:
        due = select(WebhookDelivery.id).where(WebhookDelivery.status == "due").limit(1)
        return database.run(lambda session: session.scalar(due), read_only=True) is None

    wait_until(is_all_delivered, log)
    database.run(age)
    database.close()
    for background in server.background():
        os.kill(background, signal.SIGKILL)
    a_life(server, keyring_path, "s-2")
    wait_until(lambda: server.get("/v1/events?after=3", key=API_KEY).status == HTTPStatus.GONE, log)
    assert server.get("/v1/events?after=3", key=API_KEY).json()["oldest"] == "4"
    receiver.wait_for(8)
    newer = server.get("/v1/events?after=4", key=API_KEY).json()["events"]
    assert [each["data"]["authState"] for each in newer] == ["s-2"] * 4


@on_sqlite
def test_the_background_process_ends_with_its_parent(server: Server, log: Path) -> None:
    wait_until(lambda: bool(server.background()), log)
    (background,) = server.background()
    server.process.kill()
    wait_until(lambda: not Path(f"/proc/{background}").exists(), log)


@on_sqlite
def test_a_server_does_not_start_with_endpoints_that_are_wrong(environ: dict[str, str], endpoints_path: Path) -> None:
    endpoints_path.write_text("[endpoints.shop]")
    for command in ("serve", "work"):
        result = flask(environ, command)
        assert result.returncode == 2
        assert "url of endpoint shop is missing" in result.stderr
