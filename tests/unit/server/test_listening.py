"""A worker that is replaced takes no more connections, whatever else is the matter with its process."""

import resource
import select
import socket
from collections.abc import Iterator

import pytest

from app.server.listening import SPREADS, Address, stop_accepting

pytestmark = pytest.mark.skipif(not SPREADS, reason="elsewhere the server waits for connections in another way")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with Address(socket.AF_INET, "127.0.0.1", 0).bound() as listener:
        listener.listen()
        yield listener


@pytest.fixture
def waiting(listener: socket.socket) -> Iterator[select.epoll]:
    """What waits for connections, as the server below does."""
    with select.epoll() as waiting:
        waiting.register(listener, select.EPOLLIN)
        yield waiting


def test_a_socket_that_is_taken_out_wakes_nobody(listener: socket.socket, waiting: select.epoll) -> None:
    with socket.create_connection(listener.getsockname()):
        assert waiting.poll(10) == [(listener.fileno(), select.EPOLLIN)]
        stop_accepting(listener.fileno())
        assert waiting.poll(0) == []


def test_a_process_without_a_descriptor_left_goes_on(listener: socket.socket, waiting: select.epoll) -> None:
    """It runs in the handler of a signal: an error there would end the worker in the midst of its requests."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_connection(listener.getsockname()):
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            stop_accepting(listener.fileno())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert waiting.poll(10) == [(listener.fileno(), select.EPOLLIN)]
