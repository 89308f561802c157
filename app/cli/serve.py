"""Serve over HTTP: `flask serve`."""

import gc
import multiprocessing
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path

import click

from app import logs, metrics
from app.cli.errors import UsageProblem, plain_errors
from app.cli.groups import the_service
from app.config import Settings
from app.counters import folder_of_its_own
from app.rsgi import Door

#: A worker that has not finished by then is not going to: no request may take half as long.
_STOP_SECONDS_MAX = 30
#: The database lets no more in, and turns away whoever comes beyond that.
THREADS_MAX = 32
#: A delivery that waits for its transaction keeps none of them, so that 4 and 16 acknowledge as many a second. With
#: these, as many requests may wait for a thread as there may be connections: none is refused because all come at once.
_THREADS = 16
#: An open connection counts while it is idle too, and a proxy keeps dozens open. An idle one costs a few kilobytes.
#: Each has one request in hand at a time, so no more deliveries can wait for a transaction either.
_CONNECTIONS_MAX = 256
#: Objects that are left to themselves until somebody looks which of them are garbage: a megabyte or two.
_UNCOLLECTED_MAX = 10_000
#: How long, in milliseconds, a head may take, and how long a connection may be idle.
_HEAD_TIMEOUT_MS = 10_000


class AddressInUseError(UsageProblem):
    """Something else listens there, or nobody may."""

    def __init__(self, host: str, port: int, error: OSError) -> None:
        super().__init__(f"Cannot listen at {host}:{port} ({error.strerror}): choose another --port or --host.")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--workers", type=click.IntRange(1, 64), help="How many processes.  [default: one a core, up to 4]")
@click.option(
    "--threads",
    type=click.IntRange(1, THREADS_MAX),
    default=_THREADS,
    show_default=True,
    help="How many requests a process works on at once.",
)
def serve(host: str, port: int, workers: int | None, threads: int) -> None:
    """Serve in production. SIGTERM and Ctrl-C stop it, once the requests in flight are finished."""
    with plain_errors():
        the_service().check()
    the_service().database.close()
    if not the_service().settings.api_keys:
        click.echo("No API key is set (FLASK_API_KEYS): the API refuses everyone.", err=True)
    _require_free(host, port)
    # Imported late: no other command has a use for a server.
    from granian import Granian  # noqa: PLC0415
    from granian.constants import HTTPModes, Interfaces  # noqa: PLC0415
    from granian.http import HTTP1Settings  # noqa: PLC0415

    server = Granian(
        "app.wsgi",
        address=host,
        port=port,
        interface=Interfaces.RSGI,
        workers=workers or min(os.cpu_count() or 1, 4),
        backpressure=_CONNECTIONS_MAX,
        # Where a connection may turn out to be HTTP/2, the server waits for its first byte without a bound.
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=_HEAD_TIMEOUT_MS),
        websockets=False,
        respawn_failed_workers=True,
        workers_kill_timeout=_STOP_SECONDS_MAX,
        log_access=False,
    )
    # Forked workers would inherit what this process has opened, and counters that are not shared.
    multiprocessing.set_start_method("spawn", force=True)
    with _shared_counters(the_service().settings):
        logs.include_everything(*logs.SERVERS)
        server.serve(target_loader=partial(_door, threads), wrap_loader=False)


def _door(threads: int) -> Door:
    """Make what a worker serves. Importing the application opens and checks it."""
    application = import_module("app.wsgi").application
    application.extensions["notifyauth"].database.share_between(threads)
    # What is there by now stays: no search for garbage has to look at it. What a request leaves goes by itself, but for
    # one small cycle of the framework's.
    gc.freeze()
    gc.set_threshold(_UNCOLLECTED_MAX)
    return Door(application, threads, at_once=frozenset({"/healthz"}))


def _require_free(host: str, port: int) -> None:
    """Find out in one sentence what a worker would find out in twenty lines.

    Raises `AddressInUseError`.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise AddressInUseError(host, port, error) from None


@contextmanager
def _shared_counters(settings: Settings) -> Iterator[None]:
    """Give the workers a folder to count in together, unless they have one; without any, each counts alone."""
    if os.environ.get(metrics.FOLDER_VARIABLE):
        yield
        return
    with folder_of_its_own(_places_for_counters(settings)) as folder:
        if folder is None:
            click.echo("No folder can be made for the workers to count in together: each counts alone.", err=True)
        else:
            os.environ[metrics.FOLDER_VARIABLE] = str(folder)
        yield


def _places_for_counters(settings: Settings) -> Iterator[Path]:
    """Name the places where a folder that nobody keeps may be made: systemd's for this, or our own."""
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if runtime:
        yield Path(runtime) / "counters"
    yield settings.instance_path / "counters"
    yield Path(tempfile.gettempdir()) / f"notifyauth-counters-{os.geteuid()}"
