"""The supervisor notices that a worker has ended, even if another thread has already read its exit status."""

import logging
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

import pytest
from granian.server.mp import WorkerProcess

from app.server.supervisor import _DRAIN, _load, _stop


def a_worker() -> WorkerProcess:
    """A process that ends at once, as granian keeps one."""
    parent: Any = None
    worker = WorkerProcess(parent, 0, int, ())
    worker.inner.start()
    return worker


def test_a_worker_whose_end_another_thread_took_note_of_is_not_killed(caplog: pytest.LogCaptureFixture) -> None:
    """Granian has a thread wait for it, and of two that ask for its status one is told that there is no such child."""
    worker = a_worker()
    assert wait([worker.inner.sentinel], 60)
    os.waitpid(worker.inner.pid, 0)
    caplog.set_level(logging.INFO, "app")
    logging.getLogger("app").addHandler(caplog.handler)
    _stop(worker)
    logging.getLogger("app").removeHandler(caplog.handler)
    assert "worker killed" not in caplog.text


@dataclass
class Application:
    """What a worker would serve."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def __call__(self, scope: object, protocol: object, /) -> None:
        pass

    def add_serving_callback(self, callback: Callable[[], None], /) -> None:
        self.callbacks.append(callback)

    def drain(self) -> None:
        pass


@pytest.fixture
def _signals() -> Iterator[None]:
    """Leave this process's signals as they were: a worker has its own."""
    before = {each: signal.getsignal(each) for each in (signal.SIGHUP, _DRAIN)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("is_heard", [True, False])
def test_a_worker_is_ready_when_it_serves_and_not_when_it_is_loaded(*, is_heard: bool) -> None:
    """Until then it may fail to listen, and the one that it replaces has to stay."""
    news, ready = multiprocessing.Pipe(duplex=False)
    application = Application()
    _load(lambda: application, ready, socket.socket())
    assert not news.poll(0)
    if not is_heard:
        news.close()
    for callback in application.callbacks:
        callback()
    assert ready.closed
    if is_heard:
        assert news.recv_bytes() == b"ready"
        news.close()
