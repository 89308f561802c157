"""The supervisor notices that a worker has ended, even if another thread has already read its exit status."""

import logging
import os
from multiprocessing.connection import wait
from typing import Any

import pytest
from granian.server.mp import WorkerProcess

from app.server.supervisor import _stop


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
