"""Measure how soon and how fast the merchant's systems are told, and what that takes from receiving."""

import base64
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path

from sqlalchemy import create_engine, text

from benchmarks.contestants import NOTIFYAUTH
from benchmarks.databases import HERE, Databases, Secrets, postgresql_databases
from benchmarks.load import LoadClient
from benchmarks.mix import make_mix, sign_mix
from benchmarks.receiver import WebhookReceiver
from benchmarks.rounds import Course, Plan, percentiles

#: What the reach is promised under: notifications a second.
_RATE = 200
#: Due before anything is measured: what an endpoint has missed.
_BACKLOG = 15_000
#: For a worker to start and to take the leases.
_START_SECONDS_MAX = 60
_KEY = "bench-of-telling"
_PAGE_PAUSE_SECONDS = 0.05
_MS = 1000

Tell = Callable[[str], None]


class NothingToldError(Exception):
    """There is nothing to measure; says why."""


@dataclass(frozen=True)
class Telling:
    """What was measured."""

    #: From having received a code to calling the endpoint, and a page of 100 events, under 200 notifications a second.
    code_p50_ms: float
    code_p99_ms: float
    feed_p50_ms: float
    feed_p99_ms: float
    #: Webhooks to one endpoint that has missed thousands, under the same load.
    webhooks_per_second: float
    #: Notifications acknowledged a second, as many as are answered: with nobody to tell, and with thousands of
    #: deliveries due to an endpoint that is away.
    receiving_alone: float
    receiving_beside_dead: float
    postgresql: str


def measure_telling(plan: Plan, *, tell: Tell) -> Telling:
    """Measure all of it, each on a fresh database."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        secrets = Secrets.make(folder)
        mix = make_mix(plan.prepared, connections=plan.connections)
        tell(f"signing {len(mix.notifications)} notifications of {len(mix.lives)} authorizations")
        signed = sign_mix(mix, secrets.keyring)
        databases = stack.enter_context(postgresql_databases([HERE], secrets, mix.lives))[HERE]
        course = Course.prepared(folder, plan, secrets, signed, {("postgresql", HERE): databases})
        receiver = stack.enter_context(WebhookReceiver())
        told = _told(course, databases, receiver, folder)
        tell(f"codes were told after {told.code_p50_ms:.0f} ms (p50) and {told.code_p99_ms:.0f} ms (p99)")
        per_second = _per_second(course, databases, receiver, folder)
        tell(f"{per_second:.0f} webhooks a second")
        alone = _receiving(course, databases, folder, url=None)
        with socket.socket() as nobody:
            # It is bound and does not listen: whoever connects is refused, and no other program takes the port.
            nobody.bind(("127.0.0.1", 0))
            beside = _receiving(course, databases, folder, url=f"http://127.0.0.1:{nobody.getsockname()[1]}/hook")
        tell(f"{alone:.0f} notifications a second with nobody to tell, {beside:.0f} beside an endpoint that is away")
        return Telling(
            told.code_p50_ms,
            told.code_p99_ms,
            told.feed_p50_ms,
            told.feed_p99_ms,
            per_second,
            alone,
            beside,
            databases.version,
        )


@dataclass(frozen=True)
class _Told:
    code_p50_ms: float
    code_p99_ms: float
    feed_p50_ms: float
    feed_p99_ms: float


def _told(course: Course, databases: Databases, receiver: WebhookReceiver, folder: Path) -> _Told:
    """Measure how soon an endpoint is told of a code, while a reader takes a page of the feed again and again."""
    pages: list[float] = []
    with _serving(course, databases, folder, _hook(receiver)) as (port, client):
        client.send(course.plan.warm_up_seconds)
        receiver.take()
        with _reading(port, pages):
            client.send(course.plan.seconds)
        received = receiver.take()
    if not received.code_ms or not pages:
        message = f"{len(received.code_ms)} codes were told, and {len(pages)} pages read."
        raise NothingToldError(message)
    return _Told(*percentiles(received.code_ms), *percentiles(pages))


def _per_second(course: Course, databases: Databases, receiver: WebhookReceiver, folder: Path) -> float:
    """Measure how many webhooks an endpoint gets a second that has missed thousands."""
    with _serving(course, databases, folder, _hook(receiver), backlog=_BACKLOG) as (_, client):
        deadline = time.monotonic() + _START_SECONDS_MAX
        while not receiver.take().count:
            if time.monotonic() > deadline:
                message = "No webhook came."
                raise NothingToldError(message)
            time.sleep(0.1)
        client.send(course.plan.warm_up_seconds)
        receiver.take()
        began = time.perf_counter()
        client.send(course.plan.seconds)
        return receiver.take().count / (time.perf_counter() - began)


def _receiving(course: Course, databases: Databases, folder: Path, *, url: str | None) -> float:
    """Measure how many notifications are acknowledged a second, as many as are answered."""
    course = replace(course, plan=replace(course.plan, rate=None))
    with _serving(course, databases, folder, url, backlog=_BACKLOG if url else 0) as (_, client):
        client.send(course.plan.warm_up_seconds)
        sent = client.send(course.plan.seconds)
        if sent.ran_out or not sent.acknowledged:
            message = "All that was prepared was sent too early; prepare more (--most)."
            raise NothingToldError(message)
        return len(sent.acknowledged) / sent.seconds


@contextmanager
def _serving(
    course: Course, databases: Databases, folder: Path, url: str | None, *, backlog: int = 0
) -> Iterator[tuple[int, LoadClient]]:
    """Serve on a fresh database, with an endpoint and with so many events that it was not told of yet."""
    with databases.fresh() as database_url:
        _stage_consults(database_url, backlog)
        environ = course.secrets.environ(database_url) | {"FLASK_API_KEYS": f"bench={_KEY}"}
        if url is not None:
            environ["FLASK_ENDPOINTS"] = str(_endpoints(folder, url))
        with (
            NOTIFYAUTH.serving(environ, course.plan.size, folder / "log") as server,
            LoadClient(course.script, server.port, rate=course.plan.rate) as client,
        ):
            yield server.port, client


def _hook(receiver: WebhookReceiver) -> str:
    return f"http://127.0.0.1:{receiver.port}/hook"


def _endpoints(folder: Path, url: str) -> Path:
    secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
    path = folder / "endpoints.toml"
    path.write_text(f'[endpoints.shop]\nurl = "{url}"\nsecrets = ["{secret}"]\n', encoding="utf-8")
    return path


def _stage_consults(url: str, count: int) -> None:
    """Stage the events of consults that are on record, as if nobody had numbered them yet."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO event_outbox (event_id, type, authorization_id, sequence, at) "
                "SELECT gen_random_uuid(), 'authorization.consulted', id, 1, now() FROM authorizations "
                "ORDER BY id LIMIT :count"
            ),
            {"count": count},
        )
    engine.dispose()


@contextmanager
def _reading(port: int, pages: list[float]) -> Iterator[None]:
    """Read a page of 100 events again and again, until the end of the block, and note the milliseconds of each."""
    over = threading.Event()

    def read() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=_START_SECONDS_MAX)
        while not over.wait(_PAGE_PAUSE_SECONDS):
            began = time.perf_counter()
            connection.request("GET", "/v1/events?limit=100", headers={"Authorization": f"Bearer {_KEY}"})
            page = json.loads(connection.getresponse().read())
            if len(page["events"]) == 100:  # noqa: PLR2004 -- as many as are asked for
                pages.append((time.perf_counter() - began) * _MS)
        connection.close()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
