"""Several machines of the service before one database: upgraded one after the other, and lost, under load."""

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

import pytest
from sqlalchemy import select

from app.config import DEFAULT_NOTIFY_PATH, new_vault_key
from app.leases import TAKEOVER_SECONDS
from app.models import Lease
from app.simulator.draft import authcode_created
from app.simulator.sender import headers_of
from tests.acceptance.server import flask
from tests.acceptance.site import API_KEY, Machine, Site, a_site
from tests.acceptance.test_nginx import NGINX, Front, nginx
from tests.replicas import wait_until
from tests.soak.load import load
from tests.soak.upgrading import RELEASE_BEFORE, release_before, upgrade

pytestmark = [pytest.mark.no_cover, pytest.mark.long]

_CALM_SECONDS = 0.7
#: Twice as long as a lease holds without a sign of life, and some more on a machine that is busy.
TAKEOVER_SECONDS_MAX = 2 * TAKEOVER_SECONDS + 10


@pytest.fixture
def site(unmigrated_postgresql_url: str, tmp_path: Path) -> Iterator[Site]:
    with a_site(tmp_path, unmigrated_postgresql_url) as site:
        yield site


def test_an_upgrade_of_one_machine_after_the_other_is_not_noticed(site: Site, tmp_path: Path) -> None:
    """A migration, then old and new code at once, under load: an attempt may find no server, and nothing is lost."""
    before = release_before(tmp_path / "release-before")
    if before is None:
        pytest.skip(f"git, or the commit {RELEASE_BEFORE}, is not here: the checkout is shallow, or none")
    ledger = upgrade(site, before, calm_seconds=_CALM_SECONDS)
    assert ledger.answers["503 U UNKNOWN_EXCEPTION"] <= len(ledger.sent) / 10, ledger.answers


def lease_holder(site: Site) -> str | None:
    """Whose background worker numbers events."""
    holder = select(Lease.holder).where(Lease.name == "numbering")
    return site.service.database.run(lambda session: session.scalar(holder), read_only=True)


def test_a_lost_machine_takes_nothing_with_it(site: Site) -> None:
    """The leases of its background worker are another's within seconds."""
    assert flask(site.environ, "db", "upgrade").returncode == 0
    lost, left = site.machine(), site.machine()
    lost.start()
    wait_until(lambda: lease_holder(site), "its worker has the lease")
    holder = lease_holder(site)
    left.start()
    with load([left.url, lost.url], site.service, site.signer, api_key=API_KEY) as ledger:
        time.sleep(_CALM_SECONDS)
        assert lease_holder(site) == holder
        lost.kill()
        killed = time.monotonic()
        wait_until(lambda: lease_holder(site) != holder, "another worker has the lease")
        assert time.monotonic() - killed < TAKEOVER_SECONDS_MAX
        lost.start()
    assert ledger.answers["no answer"] > 0


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_machines_restarted_one_after_the_other_behind_nginx_are_not_noticed(site: Site) -> None:
    """A reload of the keyring gives the sender no 502."""
    assert flask(site.environ, "db", "upgrade").returncode == 0
    machines = [site.machine(), site.machine()]
    for machine in machines:
        machine.start()
    servers = [machine.server for machine in machines if machine.server is not None]
    over = threading.Event()

    def send(front: Front, number: int) -> Counter[int]:
        statuses: Counter[int] = Counter()
        while not over.is_set():
            name = f"s-{number}-{statuses.total()}"
            delivery = site.sign(authcode_created(name, f"code-{name}"))
            answer = front.ask("POST", DEFAULT_NOTIFY_PATH, body=delivery.body, **headers_of(delivery))
            statuses[answer.status] += 1
        return statuses

    with nginx(site.folder, *servers) as front, ThreadPoolExecutor(2) as threads:
        sending = [threads.submit(send, front, number) for number in range(2)]
        try:
            for machine in machines:
                os.kill(machine.process_id(), signal.SIGHUP)
                time.sleep(_CALM_SECONDS)
                machine.stop()
                machine.start()
                time.sleep(_CALM_SECONDS)
        finally:
            over.set()
        statuses = sum((each.result() for each in sending), Counter[int]())
    assert set(statuses) == {HTTPStatus.OK}, statuses


def keyring_digest_of(machine: Machine) -> str:
    """What /metrics of a machine shows of its keyring."""
    assert machine.server is not None
    (found,) = re.findall(
        r'^notifyauth_keyring_info\{digest="(\w+)"\} 1', machine.server.get("/metrics").data.decode(), re.MULTILINE
    )
    return str(found)


def test_machines_with_different_keyrings_are_found_until_they_are_reloaded(site: Site) -> None:
    assert flask(site.environ, "db", "upgrade").returncode == 0
    right = Path(site.environ["FLASK_KEYRING"])
    wrong = right.with_name("another-keyring.toml")
    wrong.write_text(right.read_text().replace('default_flow = "auto_debit"', 'default_flow = "direct"'))
    first, other = site.machine(), site.machine(FLASK_KEYRING=str(wrong))
    first.start()
    other.start()
    found = keyring_digest_of(other)
    assert found != keyring_digest_of(first)
    assert f"digest {found}" in flask(other.environ, "doctor").stdout
    wrong.write_text(right.read_text())
    assert keyring_digest_of(other) == found
    os.kill(other.process_id(), signal.SIGHUP)
    wait_until(lambda: keyring_digest_of(other) == keyring_digest_of(first), "the keyring is read anew")


def test_a_machine_with_another_vault_key_does_not_start(site: Site) -> None:
    assert flask(site.environ, "db", "upgrade").returncode == 0
    first, other = site.machine(), site.machine(FLASK_VAULT_KEYS=new_vault_key())
    first.start()
    other.begin()
    assert other.server is not None
    assert other.server.process.wait(timeout=40) != 0
    assert "FLASK_VAULT_KEYS" in other.log.read_text(encoding="utf-8")
