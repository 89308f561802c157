"""A resolver that says nothing keeps no delivery waiting, and one that falls silent keeps none from being stored."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import make_url

from app.database import Database, DatabaseUnavailableError
from app.database.reaching import Reach
from app.simulator.draft import authcode_created
from tests.acceptance.server import a_free_port
from tests.integration.network import Network, a_network_to
from tests.integration.stage import Stage, a_stage
from tests.integration.test_database_trouble import SECONDS_MAX, is_to_be_sent_again

NAME = "database.example"


class Resolver:
    """Stands in for the system's, and answers when it is let."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, list[str]] = {NAME: ["127.0.0.1"]}
        self.asked = 0
        self.speaking = threading.Event()
        self.speaking.set()
        monkeypatch.setattr(socket, "getaddrinfo", self.getaddrinfo)

    def getaddrinfo(self, host: str, port: Any, **_: Any) -> list[Any]:  # noqa: ANN401 -- whatever the system's takes
        self.asked += 1
        self.speaking.wait(60)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*kind, (address, port)) for address in self.answers[host]]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """The system's resolver, of which the test decides what it says."""
    resolver = Resolver(monkeypatch)
    yield resolver
    resolver.speaking.set()


@pytest.fixture
def network(postgresql_url: str) -> Iterator[Network]:
    """A network on which a database of the test's own is reached."""
    with a_network_to(postgresql_url, a_free_port()) as network:
        yield network


@pytest.fixture
def stage(network: Network, resolver: Resolver, alipay_key: RSAPrivateKey) -> Iterator[Stage]:
    """A service that knows its database by a name."""
    assert resolver.speaking.is_set()
    url = make_url(network.url).set(host=NAME).render_as_string(hide_password=False)
    stage = a_stage(url, alipay_key)
    yield stage
    stage.database.close()


def deliver(stage: Stage, name: str = "s-1") -> Any:  # noqa: ANN401 -- a receipt
    return stage.notify(authcode_created(name, "code-1"))


def test_a_mute_resolver_is_not_waited_for_long(stage: Stage, resolver: Resolver) -> None:
    resolver.speaking.clear()
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda number: deliver(stage, f"s-{number}"), range(8)))
    assert all(map(is_to_be_sent_again, receipts))
    assert time.monotonic() - started < SECONDS_MAX
    assert resolver.asked == 1
    resolver.speaking.set()
    stage.consult()
    assert deliver(stage).outcome == "applied"


def test_deliveries_are_stored_while_the_resolver_is_silent(stage: Stage, resolver: Resolver) -> None:
    stage.consult()
    resolver.speaking.clear()
    stage.database.close()
    assert deliver(stage).outcome == "applied"


def test_a_host_name_that_is_gone_is_not_reached_at_its_old_address(stage: Stage, resolver: Resolver) -> None:
    """Somebody else may live there by now."""
    stage.consult()
    resolver.answers.clear()
    stage.database.close()
    assert is_to_be_sent_again(deliver(stage))


def test_a_database_that_has_moved_is_found(stage: Stage, resolver: Resolver) -> None:
    resolver.answers[NAME] = ["127.0.0.2"]
    with pytest.raises(DatabaseUnavailableError):
        stage.consult()
    resolver.answers[NAME] = ["127.0.0.1"]
    stage.consult()


@pytest.mark.parametrize("last", ["name", "address", "folder"])
def test_each_of_several_hosts_is_tried(postgresql_url: str, network: Network, resolver: Resolver, last: str) -> None:
    """Two that refuse, and one of any kind that does not; only the last may be written to, and that is asked for."""
    server = make_url(postgresql_url)
    if last == "folder" and server.host is not None:
        pytest.skip("TEST_DATABASE_URL names a server that has no folder")
    port = make_url(network.url).port
    there = {"name": f"{NAME}:{port}", "address": f"127.0.0.1:{port}", "folder": f"{server.query.get('host')}:5432"}
    resolver.answers["refuses.example"] = ["127.0.0.3", "127.0.0.4"]
    hosts = [f"refuses.example:{port}", f"nowhere.example:{port}", there[last]]
    query = {"host": hosts, "target_session_attrs": "read-write"}
    database = Database(server.set(host=None, port=None, query=query).render_as_string(hide_password=False))
    assert database.why_not_writable() is None
    database.close()


def test_silent_addresses_do_not_use_up_the_time_of_the_one_that_answers(
    stage: Stage, network: Network, resolver: Resolver
) -> None:
    """Each may take libpq two seconds, and a delivery has four; who answers is asked first once that is known."""
    port = make_url(network.url).port or 0
    silent = ["127.0.0.5", "127.0.0.6"]
    resolver.answers[NAME] = [*silent, "127.0.0.1"]
    with socket.create_server((silent[0], port)), socket.create_server((silent[1], port)):
        started = time.monotonic()
        deliver(stage)
        assert time.monotonic() - started < SECONDS_MAX
        until = time.monotonic() + 30
        while deliver(stage).answer.status != 200:
            assert time.monotonic() < until


def test_hosts_that_say_nothing_do_not_use_it_up_either(
    network: Network, resolver: Resolver, alipay_key: RSAPrivateKey
) -> None:
    """As where two machines of three are switched off: named by their addresses, which no resolver is asked for."""
    port = make_url(network.url).port or 0
    silent = ["127.0.0.5", "127.0.0.6"]
    hosts = [f"{host}:{port}" for host in (*silent, "127.0.0.1")]
    url = make_url(network.url).set(host=None, port=None, query={"host": hosts, "target_session_attrs": "read-write"})
    with socket.create_server((silent[0], port)), socket.create_server((silent[1], port)):
        stage = a_stage(url.render_as_string(hide_password=False), alipay_key)
        until = time.monotonic() + 30
        while True:
            started = time.monotonic()
            answer = deliver(stage).answer
            assert time.monotonic() - started < SECONDS_MAX
            if answer.status == 200:
                break
            assert time.monotonic() < until
        stage.database.close()
    assert resolver.asked == 0


def test_an_address_that_answers_again_is_asked_first_again(network: Network, resolver: Resolver) -> None:
    """One that is asked first because others say nothing may be on the far side of the country."""
    assert resolver.asked == 0
    server = make_url(network.url)
    port = server.port or 0
    options = {"host": "127.0.0.5,127.0.0.1", "port": f"{port},{port}", "user": server.username, "connect_timeout": 2}
    options["dbname"] = server.database
    reach = Reach(look_again_seconds=0.1)

    def address() -> str:
        with closing(reach.connect(options)) as connection:
            return connection.info.hostaddr

    with socket.create_server(("127.0.0.5", port)):
        assert address() == "127.0.0.1"
        started = time.monotonic()
        assert [address() for _ in range(5)] == ["127.0.0.1"] * 5
        # Each time anew that would take ten seconds.
        assert time.monotonic() - started < SECONDS_MAX
    with a_network_to(network.url, port, host="127.0.0.5"):
        until = time.monotonic() + 30
        while address() != "127.0.0.5":
            assert time.monotonic() < until
            time.sleep(0.05)
