"""`flask serve`: serve over HTTP, in worker processes."""

import gc
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import click

from app import logs, metrics
from app.alipay.delivery import BODY_BYTES_MAX
from app.cli.current_service import the_service
from app.cli.errors import UsageProblem, plain_errors
from app.cli.reloading import problem_of_a_reload
from app.cli.work import work_in_background
from app.config import Settings
from app.counters import folder_of_its_own
from app.limits import CONNECTIONS_MAX, THREADS_DEFAULT, THREADS_MAX
from app.server.connections import Connections
from app.server.rsgi_to_wsgi import HEAD_BYTES_MAX, RsgiToWsgi
from app.wiring import Service

#: Objects that are made before the garbage collector runs: a megabyte or two.
_UNCOLLECTED_MAX = 10_000
#: Longer than the 60 seconds for which most balancers and proxies keep an idle connection: a server that closes first
#: may do so while the proxy sends a request.
_KEEP_ALIVE_SECONDS = 75
_KEEP_ALIVE_SECONDS_MAX = 3600


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="An address to listen at, or a name of one.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--workers", type=click.IntRange(1, 64), help="How many processes.  [default: one a core, up to 4]")
@click.option(
    "--threads",
    type=click.IntRange(1, THREADS_MAX),
    default=THREADS_DEFAULT,
    show_default=True,
    help="How many requests a process works on at once.",
)
@click.option(
    "--keep-alive",
    type=click.IntRange(1, _KEEP_ALIVE_SECONDS_MAX),
    default=_KEEP_ALIVE_SECONDS,
    show_default=True,
    help="For how many seconds a connection may be idle: longer than the proxy in front keeps it.",
)
@click.option("--no-work", is_flag=True, help="Leave out the background work: it runs elsewhere, as flask work.")
@click.option("--check", is_flag=True, help="Only check what a start and a reload check first, and end.")
def serve(host: str, port: int, workers: int | None, threads: int, keep_alive: int, no_work: bool, check: bool) -> None:
    """Serve in production. SIGTERM and Ctrl-C stop it, once the requests in flight are finished.

    SIGHUP reads the keyring and the endpoints anew: if they are in order, the workers are replaced one by one, and no
    request is lost.
    """
    if check:
        _check()
        return
    # Until there are workers that could be replaced, there is nothing to read anew.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with plain_errors():
        the_service().open_all()
    the_service().database.close()
    settings = the_service().settings
    if settings.uses_only_defaults:
        click.echo(
            "No setting of the service is set, so it runs on its defaults: if there is an environment file, such as "
            "systemd's EnvironmentFile, it was not read.",
            err=True,
        )
    if not settings.api_keys:
        click.echo("No API key is set (FLASK_API_KEYS): the API refuses everyone.", err=True)
    # Imported late: no other command has a use for a server.
    from granian.constants import HTTPModes, Interfaces  # noqa: PLC0415
    from granian.http import HTTP1Settings  # noqa: PLC0415

    from app.server.listening import Address, CannotListenError  # noqa: PLC0415
    from app.server.supervisor import Supervisor  # noqa: PLC0415

    # Forked workers would inherit what this process has opened, and counters that are not shared.
    multiprocessing.set_start_method("spawn", force=True)
    try:
        supervisor = Supervisor(
            Address.find(host, port),
            check=partial(problem_of_a_reload, settings.instance_path),
            background=None if no_work else partial(work_in_background, settings.instance_path),
            interface=Interfaces.RSGI,
            workers=workers or min(os.cpu_count() or 1, 4),
            backpressure=CONNECTIONS_MAX,
            # Where a connection may turn out to be HTTP/2, the server waits for its first byte without a bound.
            http=HTTPModes.http1,
            # What it calls the time for a head is that for an idle connection too; `Connections` sees to the former.
            http1_settings=HTTP1Settings(header_read_timeout=keep_alive * 1000, max_buffer_size=HEAD_BYTES_MAX),
            websockets=False,
            log_access=False,
        )
    except CannotListenError as error:
        raise UsageProblem(str(error)) from None
    with _shared_counters(settings):
        logs.include_everything(*logs.SERVERS)
        supervisor.serve_until_told_to_stop(partial(_make_bridge, threads, port))


def _check() -> None:
    """End with 2 and one sentence where a start or a reload would be refused."""
    with plain_errors():
        problem = problem_of_a_reload(the_service().settings.instance_path)
    if problem is not None:
        raise UsageProblem(problem)


def _make_bridge(threads: int, port: int) -> RsgiToWsgi:
    """Make what a worker serves. Importing the application opens and checks it."""
    application = import_module("app.wsgi").application
    service: Service = application.extensions["notifyauth"]
    service.database.set_thread_count(threads)
    # What is there by now stays: no search for garbage has to look at it. What a request leaves goes by itself, but for
    # one small cycle of the framework's.
    gc.freeze()
    gc.set_threshold(_UNCOLLECTED_MAX)
    connections = Connections(port, CONNECTIONS_MAX)
    connections.watch()
    return RsgiToWsgi(
        application,
        threads,
        body_bytes_max=BODY_BYTES_MAX,
        is_inline=service.never_blocks,
        connections=connections,
        on_drain=service.long_polling.close,
    )


@contextmanager
def _shared_counters(settings: Settings) -> Iterator[None]:
    """Make a folder for the counters of all workers, unless one is set; without any, each worker counts by itself."""
    if os.environ.get(metrics.FOLDER_VARIABLE):
        yield
        return
    with folder_of_its_own(_parents_of_counters(settings)) as folder:
        if folder is None:
            click.echo("No folder can be made for the workers to count in together: each counts alone.", err=True)
        else:
            os.environ[metrics.FOLDER_VARIABLE] = str(folder)
        yield


def _parents_of_counters(settings: Settings) -> Iterator[Path]:
    """Name the folders in which one for counters may be made: systemd's, or our own."""
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if runtime:
        yield Path(runtime) / "counters"
    yield settings.instance_path / "counters"
    # It is not found where no folder for temporary files takes any, as on a read-only root.
    with suppress(FileNotFoundError):
        yield Path(tempfile.gettempdir()) / f"notifyauth-counters-{os.geteuid()}"
