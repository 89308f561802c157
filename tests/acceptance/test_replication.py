"""A replicated database loses its primary, its standbys or its network, and nothing that was acknowledged.

Real servers. The senders play Alipay, on its schedule in a fraction of the time, and their books are held against
the database.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http import HTTPStatus

import pytest
from sqlalchemy import URL, func, make_url, select

from app.models import InboxEntry
from app.simulator.draft import Draft, authcode_created
from app.simulator.sender import ServiceResponse
from tests.acceptance.server import a_free_port
from tests.acceptance.site import API_KEY, Machine, Site, a_site
from tests.conftest import migrate
from tests.integration.network import a_network_to
from tests.replicas import (
    HOST,
    NAMES,
    SYNCHRONOUS,
    Node,
    Replicas,
    is_listening,
    running_replicas,
    service_url,
    wait_until,
)
from tests.soak.ledger import Ledger
from tests.soak.lives import Life
from tests.soak.load import load

pytestmark = pytest.mark.no_cover

#: How long the load goes on before and after something happens.
_CALM_SECONDS = 0.7

WAITS = "commits wait for a synchronous standby that is not there"


@pytest.fixture(scope="module")
def replicas() -> Iterator[Replicas]:
    """A migrated database on three servers; each test leaves all three running."""
    with running_replicas() as replicas:
        migrate(replicas.url)
        yield replicas


@pytest.fixture(scope="module")
def site(replicas: Replicas, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with a_site(folder, replicas.url, FLASK_DURABILITY="replicated") as site:
        yield site


@pytest.fixture(scope="module")
def machine(site: Site) -> Machine:
    """A service with two workers, which is never started again."""
    machine = site.machine(workers=2)
    machine.start()
    return machine


def acknowledged(ledger: Ledger) -> int:
    return sum(sent.acknowledged for sent in list(ledger.sent.values()))


def wait_until_acknowledged(ledger: Ledger) -> None:
    """Return once something more is acknowledged."""
    before = acknowledged(ledger)
    wait_until(lambda: acknowledged(ledger) > before, "the service acknowledges again")


def test_a_lost_primary_takes_nothing_with_it_that_was_acknowledged(
    replicas: Replicas, site: Site, machine: Machine
) -> None:
    """The standby that is ahead is promoted, and the lost one comes back as a standby."""
    assert machine.server is not None
    workers = machine.server.workers()
    with load([machine.url], site.service, site.signer, api_key=API_KEY) as ledger:
        time.sleep(_CALM_SECONDS)
        lost = replicas.primary
        replicas.lose_primary()
        replicas.promote()
        wait_until_acknowledged(ledger)
        replicas.rejoin(lost)
        time.sleep(_CALM_SECONDS)
    assert machine.server.workers() == workers
    wait_until(machine.is_ready, "the service is ready")


def test_a_switchover_costs_nothing_that_was_acknowledged(replicas: Replicas, site: Site, machine: Machine) -> None:
    with load([machine.url], site.service, site.signer, api_key=API_KEY) as ledger:
        time.sleep(_CALM_SECONDS)
        replicas.switch_over()
        wait_until_acknowledged(ledger)
    replicas.wait_until_synchronous()


def test_while_no_standby_answers_nothing_is_acknowledged(replicas: Replicas, site: Site, machine: Machine) -> None:
    """Not even where the wait of a commit is cancelled, of which PostgreSQL says success with a warning."""
    draft, cancelled = authcode_created("s-away", "code-away"), authcode_created("s-cancelled", "code-cancelled")
    with ExitStack() as stack:
        for standby in replicas.standbys():
            stack.enter_context(standby.frozen())
        answer = site.deliver(machine.url, draft)
        assert (answer.status, answer.acknowledged) == (HTTPStatus.SERVICE_UNAVAILABLE, False)
        wait_until(lambda: machine.checks()["database"] == WAITS, "the service says that commits wait")
        with ThreadPoolExecutor(1) as thread:
            sending = thread.submit(site.deliver, machine.url, cancelled)
            wait_until(lambda: cancel_wait(replicas) or sending.done(), "a wait is cancelled")
            assert sending.result().status == HTTPStatus.SERVICE_UNAVAILABLE
    replicas.wait_until_synchronous()
    for each in (draft, cancelled):
        deliver_until_acknowledged(site, machine, each)
    assert on_record(site, "s-away", "s-cancelled") == 2


def test_a_service_is_not_ready_while_one_of_two_standbys_that_must_confirm_is_away(
    replicas: Replicas, machine: Machine
) -> None:
    """No delivery need come to find that out: a balancer is told before."""
    replicas.set_synchronous(f"ANY 2 ({', '.join(NAMES)})")
    lost = replicas.standbys()[0]
    lost.stop()
    replicas.lost.append(lost)
    wait_until(lambda: machine.checks()["database"] == WAITS, "the service says that commits wait")
    assert not machine.is_ready()
    lost.start()
    replicas.lost.remove(lost)
    wait_until(machine.is_ready, "the service is ready")
    replicas.set_synchronous(SYNCHRONOUS)


def test_what_no_standby_had_to_confirm_is_lost_with_the_primary(
    replicas: Replicas, site: Site, machine: Machine
) -> None:
    """That is what the service warns of, where it is told that commits shall outlive the machine."""
    replicas.set_synchronous("")
    wait_until(lambda: "not replicated" in machine.checks()["database"], "the service says what is missing")
    metrics = machine.server.get("/metrics").data.decode() if machine.server else ""
    assert "notifyauth_synchronous_standbys 0.0" in metrics
    for standby in replicas.standbys():
        standby.set("primary_conninfo", "")
        wait_until(lambda each=standby: not is_listening(each), "the standby is behind")  # type: ignore[misc]
    deliver_until_acknowledged(site, machine, authcode_created("s-lost", "code-lost"))
    assert on_record(site, "s-lost") == 1
    lost = replicas.primary
    replicas.lose_primary()
    replicas.promote()
    wait_until(lambda: "not replicated" in machine.checks()["database"], "the service has found the new primary")
    assert on_record(site, "s-lost") == 0
    replicas.rejoin(lost, is_synchronous=False)
    replicas.set_synchronous(SYNCHRONOUS)
    wait_until(machine.is_ready, "the service is ready")


def test_a_primary_that_is_cut_off_with_some_of_the_machines_confirms_nothing(replicas: Replicas, site: Site) -> None:
    """They are answered with 503 until the old primary ends and they reach the new one, without a restart."""
    old, draft = replicas.primary, authcode_created("s-cut-off", "code-cut-off")

    def attempt(machine: Machine) -> ServiceResponse:
        ledger.attempt(draft)
        answer = site.deliver(machine.url, draft)
        ledger.answer(draft, answer)
        return answer

    with ExitStack() as stack:
        # What one side reaches the other by. The operator has ways of his own to each.
        networks = {
            node.name: stack.enter_context(a_network_to(node_url(node), a_free_port())) for node in replicas.nodes
        }
        far = {node.name: f"127.0.0.1:{make_url(networks[node.name].url).port}" for node in replicas.nodes}
        near = {node.name: f"{HOST}:{node.port}" for node in replicas.nodes}
        its_own = [near[node.name] if node is old else far[node.name] for node in replicas.nodes]
        others = [far[node.name] if node is old else near[node.name] for node in replicas.nodes]
        with_old = site.machine(FLASK_DATABASE_URL=service_url(its_own))
        with_new = site.machine(FLASK_DATABASE_URL=service_url(others))
        with_old.start()
        with_new.start()
        with load([with_new.url, with_old.url], site.service, site.signer, api_key=API_KEY) as ledger:
            time.sleep(_CALM_SECONDS)
            with ExitStack() as cut:
                for network in networks.values():
                    cut.enter_context(network.silent())
                replicas.promote()
                ledger.live([Life("s-cut-off", "auto_debit", (draft,), ())])
                assert attempt(with_old).status == HTTPStatus.SERVICE_UNAVAILABLE
                wait_until(lambda: attempt(with_new).acknowledged, "the others acknowledge")
                old.stop()
                replicas.lost.append(old)
            wait_until(lambda: attempt(with_old).acknowledged, "those that were cut off acknowledge")
        with_old.stop()
        with_new.stop()
    replicas.rejoin(old)
    assert on_record(site, "s-cut-off") == 1


# --- what the tests say ---


def deliver_until_acknowledged(site: Site, machine: Machine, draft: Draft) -> None:
    wait_until(lambda: site.deliver(machine.url, draft).acknowledged, "the service acknowledges")


def cancel_wait(replicas: Replicas) -> bool:
    """Cancel the waits of commits, and say whether there was any."""
    query = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    return bool(replicas.primary.ask(query))


def on_record(site: Site, *auth_states: str) -> int:
    """How many notifications of these are on record."""
    count = select(func.count()).where(InboxEntry.auth_state.in_(auth_states))
    return site.service.database.run(lambda session: session.scalars(count).one(), read_only=True)


def node_url(node: Node) -> str:
    return URL.create("postgresql", "postgres", host=HOST, port=node.port, database="postgres").render_as_string()
