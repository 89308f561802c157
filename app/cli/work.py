"""Do the background work: `flask work`, and beside the workers of `flask serve`."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import click

from app import logs, metrics
from app.alipay.keyring import KeyringError
from app.cli.current_service import the_service
from app.cli.errors import plain_errors
from app.cli.reloading import problem_of_a_reload
from app.config import read_settings
from app.events.endpoints import EndpointsError
from app.wiring import Service
from app.worker import Worker

_log = logging.getLogger(__name__)


@click.command()
def work() -> None:
    """Do the background work alone: number events, send them to endpoints, and make calls to Alipay.

    `flask serve` does it too by itself. Any number may run, on any machines. SIGTERM and Ctrl-C stop it, once the
    requests in flight are finished. SIGHUP reads the keyring and the endpoints anew, and keeps the old ones if they are
    wrong.
    """
    # Until there is a worker, there is nothing to read anew.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    service = the_service()
    with plain_errors():
        service.open_all()
    metrics.share()
    instance_path = service.settings.instance_path
    signals = _Signals(instance_path)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signals.on_stop)
    signal.signal(signal.SIGHUP, signals.on_reload)
    _log.info("background work begins", extra={"endpoints": ", ".join(service.endpoints)})
    while True:
        Worker(service).run_until(signals.stop)
        # Cleared before this looks: of two signals, one that ends the command may come between the two.
        signals.stop.clear()
        if signals.is_over.is_set():
            break
        service.database.close()
        service = Service(read_settings(os.environ, instance_path=instance_path))
        _ = service.keyring
        _log.info("reloaded", extra={"endpoints": ", ".join(service.endpoints)})
    service.database.close()


class _Signals:
    """What signals ask for.

    What they set is set from threads: the main thread, in which a handler runs, may hold the lock of an event just now,
    and would wait for itself.
    """

    def __init__(self, instance_path: Path) -> None:
        self._instance_path = instance_path
        #: Ends the worker that runs.
        self.stop = threading.Event()
        #: Whether there is to be no other.
        self.is_over = threading.Event()

    def on_stop(self, *_: object) -> None:
        """End the command."""
        threading.Thread(target=self._end, name="stop", daemon=True).start()

    def on_reload(self, *_: object) -> None:
        """Begin anew, if what is read then is in order."""
        threading.Thread(target=self._reload, name="reload", daemon=True).start()

    def _end(self) -> None:
        self.is_over.set()
        self.stop.set()

    def _reload(self) -> None:
        problem = problem_of_a_reload(self._instance_path)
        if problem is None:
            self.stop.set()
        else:
            _log.error("reload refused", extra={"problem": problem})


def work_in_background(
    instance_path: Path, identity: str, stop: threading.Event, has_started: Callable[[], None]
) -> None:
    """Do the background work in a process of its own, whose parent has checked all that it needs.

    The parent gives the identity of a process that has died to the one that takes its place.
    """
    logs.configure(on_dropped=metrics.count_dropped_lines)
    metrics.share()
    service = Service(read_settings(os.environ, instance_path=instance_path))
    try:
        # Read now, and not with the first call: what is changed later is taken over by a reload.
        _ = service.keyring
        worker = Worker(service, identity=identity)
    except (EndpointsError, KeyringError) as error:
        # They were changed since the parent looked.
        _log.error("background work cannot begin", extra={"problem": str(error)})
        raise SystemExit(1) from None
    has_started()
    worker.run_until(stop)
    service.database.close()
