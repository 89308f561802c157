"""The identity of the background process: one that takes the place of a dead one has it, and so has its leases."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from multiprocessing.process import BaseProcess
from typing import cast

import pytest
from typing_extensions import override

from app.server import background
from app.server.background import BackgroundProcess


@dataclass
class Process:
    """A process that ends when it is told to."""

    identity: str
    exitcode: int | None = None
    _pipe: tuple[int, int] = field(default_factory=os.pipe)

    @property
    def sentinel(self) -> int:
        return self._pipe[0]

    def end(self) -> None:
        if self.exitcode is None:
            self.exitcode = -9
            os.close(self._pipe[1])

    terminate = kill = end

    def join(self, timeout: float | None = None) -> None:
        pass


class Background(BackgroundProcess):
    """Starts pretend processes, which say at once that they have started."""

    def __init__(self) -> None:
        super().__init__(lambda *_: None, wake=lambda: None)
        self.started: list[Process] = []

    @override
    def _start(self, identity: str) -> tuple[BaseProcess, Connection]:
        process = Process(identity)
        self.started.append(process)
        news, ready = Pipe(duplex=False)
        ready.send_bytes(b"ready")
        ready.close()
        return cast("BaseProcess", process), news


@pytest.fixture
def processes() -> Iterator[Background]:
    made = Background()
    yield made
    for each in made.started:
        each.end()
        os.close(each.sentinel)


def test_one_that_takes_the_place_of_a_dead_one_has_its_identity(processes: Background) -> None:
    processes.start()
    processes.started[0].end()
    processes.look()
    first, second = processes.started
    assert second.identity == first.identity


def test_one_that_runs_beside_the_old_one_for_a_while_has_another(processes: Background) -> None:
    processes.start()
    assert processes.replace(is_over=lambda: False)
    first, second = processes.started
    assert second.identity != first.identity


def test_after_a_reload_the_new_identity_is_handed_on(processes: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "pause_before", lambda *_, **__: 0)
    processes.start()
    processes.replace(is_over=lambda: False)
    processes.started[1].end()
    processes.look()
    assert processes.started[2].identity == processes.started[1].identity


def test_it_is_started_again_in_time_for_a_code_however_often_it_died(
    processes: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A code lives a minute, and the last of its attempts is due after 40 seconds."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    processes.start()
    pauses = []
    for _ in range(12):
        processes.started[-1].end()
        processes.look()
        if processes.due is not None:
            pauses.append(processes.due - now)
            now = processes.due
            processes.look()
    assert len(processes.started) == 13
    assert pauses == sorted(pauses)
    assert 2 < max(pauses) < 20
