"""Slow connections are closed, and no others: a head that does not end, a response that is not read, idle ones."""

import fcntl
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.limits import HEAD_SECONDS_MAX, WRITE_SECONDS_MAX
from app.server.connections import IDLE_SECONDS_WHEN_FULL, Connections

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel knows of a connection, Linux tells")


@dataclass
class World:
    """A server of this process with the connections to it."""

    listener: socket.socket
    connections: Connections
    stack: ExitStack

    def connect(self) -> "Connection":
        client = self.stack.enter_context(socket.create_connection(self.listener.getsockname()[:2]))
        accepted, _ = self.listener.accept()
        self.stack.enter_context(accepted)
        host, port = client.getsockname()[:2]
        peer = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return Connection(self.connections, client, accepted, peer)


@dataclass
class Connection:
    """Both ends of a connection."""

    connections: Connections
    client: socket.socket
    accepted: socket.socket
    peer: str

    def send(self, octets: bytes) -> None:
        self.client.sendall(octets)

    def answer(self) -> None:
        """Do as the server does: take a request, and answer it."""
        self.connections.request_begins(self.peer)
        self.connections.request_ends(self.peer)

    def is_open(self) -> bool:
        self.client.settimeout(0)
        try:
            return self.client.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False


@pytest.fixture(params=["127.0.0.1", "::1"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A server on either family of addresses, with room for ten."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.create_server((request.param, 0), family=family))
        except OSError:
            pytest.skip("this machine has no IPv6")
        yield World(listener, Connections(listener.getsockname()[1], places=10), stack)


def test_a_connection_is_to_begin_its_first_head_at_once_and_end_it_soon(world: World) -> None:
    silent, slow = world.connect(), world.connect()
    assert world.connections.look(0) == Counter()
    slow.send(b"GET")
    assert world.connections.look(HEAD_SECONDS_MAX) == Counter()
    assert world.connections.look(HEAD_SECONDS_MAX + 1) == Counter(slow_head=2)
    assert not silent.is_open()
    assert not slow.is_open()


def test_an_idle_connection_is_left_alone(world: World) -> None:
    idle = world.connect()
    world.connections.look(0)
    idle.answer()
    for seconds in (1, 100, 1000):
        assert world.connections.look(seconds) == Counter()
    assert idle.is_open()


def test_every_head_is_to_end_soon(world: World) -> None:
    slow = world.connect()
    slow.answer()
    world.connections.look(0)
    world.connections.look(100)
    slow.send(b"G")
    world.connections.look(101)
    slow.send(b"E")
    assert world.connections.look(101 + HEAD_SECONDS_MAX) == Counter()
    assert world.connections.look(102 + HEAD_SECONDS_MAX) == Counter(slow_head=1)
    assert not slow.is_open()


def test_a_head_that_ended_and_a_request_in_hand_are_left_alone(world: World) -> None:
    busy = world.connect()
    world.connections.look(0)
    world.connections.request_begins(busy.peer)
    assert world.connections.look(1000) == Counter()
    busy.send(b"the rest of a body, say")
    assert world.connections.look(2000) == Counter()
    world.connections.request_ends(busy.peer)
    assert world.connections.look(2001) == Counter()
    assert world.connections.look(4000) == Counter()
    assert busy.is_open()


def test_a_response_that_the_client_does_not_read_ends_its_connection(world: World) -> None:
    deaf, healthy = world.connect(), world.connect()
    for each in (deaf, healthy):
        each.answer()
    deaf.accepted.settimeout(1)
    with pytest.raises(TimeoutError):
        deaf.accepted.sendall(bytes(100_000_000))
    healthy.accepted.send(b"x")
    assert world.connections.look(0) == Counter()
    # Some of it is read, of which there is always more.
    deaf.client.recv(1000)
    assert world.connections.look(WRITE_SECONDS_MAX) == Counter()
    assert world.connections.look(WRITE_SECONDS_MAX + 1) == Counter(unread_answer=1)
    with pytest.raises(OSError, match=r"."):
        deaf.accepted.send(b"x")
    assert healthy.is_open()


def test_near_the_limit_of_connections_idle_ones_are_closed(world: World) -> None:
    idle = [world.connect() for _ in range(8)]
    for each in idle:
        each.answer()
    world.connections.look(0)
    assert world.connections.look(1000) == Counter()
    fresh = world.connect()
    fresh.answer()
    assert world.connections.look(1001) == Counter(idle_when_full=8)
    assert fresh.is_open()
    for each in idle:
        each.accepted.close()
    assert world.connections.look(1001 + IDLE_SECONDS_WHEN_FULL) == Counter()


def test_closed_connections_are_forgotten(world: World) -> None:
    gone = world.connect()
    gone.answer()
    world.connections.look(0)
    gone.client.close()
    gone.accepted.close()
    world.connections.look(1)
    assert world.connections == Connections(world.connections.port, places=10)


def test_nothing_is_kept_of_a_request_that_ends_after_its_connection(world: World) -> None:
    gone = world.connect()
    world.connections.request_begins(gone.peer)
    world.connections.look(0)
    gone.client.close()
    gone.accepted.close()
    world.connections.look(1)
    world.connections.request_ends(gone.peer)
    world.connections.look(2)
    assert world.connections == Connections(world.connections.port, places=10)


def test_other_sockets_of_the_process_are_left_alone(world: World) -> None:
    """A database's connection, say, or one of another port."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        other_port = World(other, world.connections, world.stack).connect()
        first, second = socket.socketpair()
        with first, second:
            assert world.connections.look(0) == Counter()
            assert world.connections.look(1000) == Counter()
            assert other_port.is_open()


def test_the_files_of_the_process_keep_their_locks(world: World, tmp_path: Path) -> None:
    """A process loses its locks on a file with the first descriptor of it that is closed: SQLite lives by them."""
    path = tmp_path / "locked"
    take = f"import fcntl; fcntl.lockf(open({str(path)!r}, 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    world.connect()
    with path.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        world.connections.look(0)
        world.connections.look(1000)
        assert subprocess.run([sys.executable, "-c", take], capture_output=True, check=False).returncode == 1
    assert subprocess.run([sys.executable, "-c", take], capture_output=True, check=False).returncode == 0
