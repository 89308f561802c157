"""The path of a notification is as long as `docs/architecture.md` says.

Its files and threads are noted as it runs: a list that is kept by hand forgets what is called by the way.
"""

import asyncio
import re
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from app import create_app, state_machine
from app.alipay.delivery import BODY_BYTES_MAX, Delivery
from app.reports import Consult
from app.server.connections import Connections
from app.server.rsgi_to_wsgi import RsgiToWsgi
from app.simulator.draft import authcode_created, token_canceled, token_created
from app.simulator.sender import headers_of
from app.vocabulary import CauseKind
from app.wiring import Service
from tests.builders import a_genuine_delivery, an_environ
from tests.conftest import ROOT

#: What a reader opens to follow a notification from the socket to the commit, and between which threads it passes.
FILES_MAX = 20
HAND_OVERS_MAX = 5
#: Room for the factory of an application. Nobody looks for more in an `__init__`.
INIT_LINES_MAX = 50


@dataclass
class Seen:
    """What runs while a delivery is answered."""

    files: set[str] = field(default_factory=set)
    threads: set[str] = field(default_factory=set)

    def note(self, frame: FrameType, event: str, _argument: object) -> None:
        """Note where a function of the application begins: its file, or for a dataclass's own the one that it is in."""
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.partition(".")[0] == "app":
            self.files.add(str(Path(frame.f_globals["__file__"]).relative_to(ROOT / "app")))
            self.threads.add(re.sub(r"_\d+$", "", threading.current_thread().name))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch this thread, and those that begin meanwhile."""
        before = sys.getprofile()
        threading.setprofile(self.note)
        sys.setprofile(self.note)
        try:
            yield
        finally:
            sys.setprofile(before)
            threading.setprofile(None)


@dataclass
class Protocol:
    """What granian gives for one request: the body, and where the response goes."""

    body: bytes
    statuses: list[int] = field(default_factory=list)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.body

    def response_bytes(self, status: int, _headers: object, _body: bytes) -> None:
        self.statuses.append(status)


def as_granian_hands_it(delivery: Delivery) -> tuple[Any, Any]:
    """The scope of the request that carries a delivery, and the protocol."""
    headers = {**headers_of(delivery), "content-length": str(len(delivery.body))}
    scope = SimpleNamespace(
        server="127.0.0.1:8000", client="127.0.0.1:9", method=delivery.method, path=delivery.uri, headers=headers
    )
    scope.http_version, scope.scheme, scope.query_string = "1.1", "http", ""
    return scope, Protocol(delivery.body)


def seen_of_a_lifetime(database_url: str, keyring_path: Path) -> Seen:
    """Deliver the notifications of an authorization one by one, to a service that is open, and watch each of them."""
    application = create_app(an_environ(database_url, keyring_path))
    service: Service = application.extensions["notifyauth"]
    service.open_all()
    service.receiver.record(Consult("s-1"), cause=CauseKind.API)
    # Its answers are kept for the life of a process.
    state_machine.decide.cache_clear()
    seen = Seen()

    async def deliver_each() -> None:
        bridge = RsgiToWsgi(
            application,
            1,
            body_bytes_max=BODY_BYTES_MAX,
            is_inline=service.never_blocks,
            connections=Connections(8000, 1),
        )
        for draft in (authcode_created("s-1", "c-1"), token_created("s-1", "t-1"), token_canceled("t-1")):
            scope, protocol = as_granian_hands_it(a_genuine_delivery(keyring_path, draft))
            with seen.watching():
                await bridge(scope, protocol)
            assert protocol.statuses == [200]

    try:
        asyncio.run(deliver_each())
    finally:
        service.receiver.close()
        service.database.close()
    return seen


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    return page.partition(f"\n{heading}\n")[2].partition("\n#")[0]


def files_in(text: str) -> list[str]:
    return re.findall(r"`([\w/]+\.py)`", text)


def test_the_page_lists_the_files_that_a_delivery_enters(
    page: str, sqlite_url: str, postgresql_url: str, keyring_path: Path
) -> None:
    seen = [seen_of_a_lifetime(url, keyring_path) for url in (sqlite_url, postgresql_url)]
    listed = files_in(section(page, "## Files from socket to commit")) + files_in(section(page, "### Called"))
    assert set(listed) == seen[0].files | seen[1].files
    assert len(listed) == len(set(listed))
    # The bridge has a thread for other requests, which has nothing to do.
    assert [each.threads - {"request-0"} for each in seen] == [{"MainThread", "leader"}] * 2


def test_a_reader_opens_few_files_and_follows_few_hand_overs(page: str) -> None:
    assert 0 < len(files_in(section(page, "## Files from socket to commit"))) <= FILES_MAX
    rows = re.findall(r"^\| (?!from|-)", section(page, "## Hand-overs"), re.MULTILINE)
    assert 0 < len(rows) <= HAND_OVERS_MAX


def test_no_init_hides_what_is_to_be_read() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "app").rglob("__init__.py")}
    assert {path: length for path, length in lengths.items() if length > INIT_LINES_MAX} == {}
