"""The world of a soak: one database, the service in front of it, its senders, and the faults that befall it."""

import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg
from sqlalchemy import make_url

from app import create_app
from app.alipay.keyring import load_private_key
from app.simulator.keys import SANDBOX_CLIENT_ID, SIMULATOR_KEY_NAME, make_sandbox
from app.simulator.sender import Signer
from app.wiring import Service
from tests.acceptance.server import CHECKOUT, Program
from tests.builders import an_environ
from tests.conftest import migrate
from tests.postgres import Cluster, running_cluster
from tests.replicas import Replicas, running_replicas
from tests.soak.calling import Calling, add_calling_client
from tests.soak.figures import Figures
from tests.soak.ledger import Ledger
from tests.soak.receiver import Receiver, write_endpoints
from tests.soak.senders import Alipay, Merchant
from tests.soak.server import SupervisedServer, supervised_server
from tests.soak.told import MOODY, STEADY, Told
from tests.soak.upgrading import make_tables_of

Kind = Literal["sqlite", "postgresql", "replicated"]

API_KEY = "the-key-of-the-soak"
#: What a production server forgets nothing with: these are PostgreSQL's defaults, said so that they are seen.
_POSTGRESQL = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "listen_addresses": ""}
#: Long enough that waits for the lock end without it, and that a queue fills.
_LOCK_SECONDS = (0.2, 4)


@dataclass
class World:
    """All of it. What is done here is counted in the figures."""

    kind: Kind
    folder: Path
    url: str
    #: `None` for SQLite, whose server is the service itself, and where there are three servers.
    cluster: Cluster | None
    #: The three servers, where the database is replicated.
    replicas: Replicas | None
    server: SupervisedServer
    #: The auditor's own, on the same database and under the same keys.
    service: Service
    signer: Signer
    figures: Figures
    #: The merchant's endpoints, which the service tells of everything.
    receivers: Mapping[str, Receiver]
    told: Told
    #: Those for whom the service makes the calls.
    calling: Calling
    #: The environment of a machine of the service.
    environ: Mapping[str, str]
    #: The release that serves at first, where it is not this one, and the keyring that only this one understands.
    before: Program | None
    keyring: str

    def alipay(self, ledger: Ledger) -> Alipay:
        return Alipay(f"{self.server.url}{self.service.settings.notify_path}", self.signer, ledger)

    def merchant(self, ledger: Ledger) -> Merchant:
        return Merchant(self.server.url, API_KEY, ledger)

    @contextmanager
    def second_machine(self) -> Iterator[SupervisedServer]:
        """Serve on a second machine too, until the end of the block, with the release that serves at first."""
        folder = self.folder / "second-machine"
        folder.mkdir()
        environ = {**self.environ, "RUNTIME_DIRECTORY": str(folder)}
        with supervised_server(environ, self.folder / "second-machine.log", self.before or CHECKOUT) as server:
            yield server

    def take_up_calls(self) -> None:
        """Give the service the keyring with a client whose calls it makes, once no older release reads it."""
        Path(self.environ["FLASK_KEYRING"]).write_text(self.keyring)
        self.server.reload()

    # --- what can happen to it ---

    def mishaps(self) -> list[Callable[[random.Random], None]]:
        """Everything that can happen, likelier what is likelier."""
        anywhere = [
            self.kill_worker,
            self.kill_worker,
            self.kill_background,
            self.kill_service,
            self.stop_service,
            self.lock,
        ]
        if self.replicas:
            return [*anywhere, self.fail_over, self.fail_over, self.switch_over]
        return [*anywhere, self.kill_database, self.kill_backend] if self.cluster else anywhere

    def kill_worker(self, chance: random.Random) -> None:
        self.server.kill_worker(chance)
        self.figures.counts["worker kills"] += 1

    def kill_background(self, _: random.Random) -> None:
        self.server.kill_background()
        self.figures.counts["background kills"] += 1

    def kill_service(self, _: random.Random) -> None:
        self.server.kill()
        self.figures.counts["service kills"] += 1

    def stop_service(self, _: random.Random) -> None:
        self.server.stop()
        self.figures.counts["service stops"] += 1

    def kill_database(self, chance: random.Random) -> None:
        """Shut PostgreSQL down at once, without a last checkpoint: it starts by recovering from its log."""
        assert self.cluster is not None
        os.kill(self.cluster.process_id(), signal.SIGQUIT)
        time.sleep(chance.uniform(0, 3))
        self.cluster.start_again()
        self.figures.counts["database kills"] += 1

    def kill_backend(self, chance: random.Random) -> None:
        """Kill one process of PostgreSQL, which then throws all others out, and recovers."""
        assert self.cluster is not None
        with psycopg.connect(self._libpq_url()) as connection:
            rows = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchall()
        if rows:
            os.kill(chance.choice(rows)[0], signal.SIGKILL)
            time.sleep(0.1)
            self.cluster.wait_until_ready()
            self.figures.counts["database kills"] += 1

    def fail_over(self, chance: random.Random) -> None:
        """Lose the primary's machine, promote the standby that is ahead, and let the lost one follow it later."""
        assert self.replicas is not None
        lost = self.replicas.primary
        self.replicas.lose_primary()
        time.sleep(chance.uniform(0, 3))
        self.replicas.promote()
        time.sleep(chance.uniform(0, 3))
        self.replicas.rejoin(lost)
        self.figures.counts["failovers"] += 1

    def switch_over(self, _: random.Random) -> None:
        """Let a standby take the primary's place."""
        assert self.replicas is not None
        self.replicas.switch_over()
        self.replicas.wait_until_synchronous()
        self.figures.counts["switchovers"] += 1

    def lock(self, chance: random.Random) -> None:
        """Lock the database, or on PostgreSQL one table, as a migration or somebody's shell does."""
        with self._locked():
            time.sleep(chance.uniform(*_LOCK_SECONDS))
        self.figures.counts["locks"] += 1

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self.cluster or self.replicas:
            with psycopg.connect(self._libpq_url()) as connection:
                connection.execute("LOCK TABLE inbox IN ACCESS EXCLUSIVE MODE")
                yield
                connection.rollback()
        else:
            file = make_url(self.url).database or ""
            with closing(sqlite3.connect(file, isolation_level=None, timeout=60)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                yield
                connection.execute("ROLLBACK")

    def _libpq_url(self) -> str:
        if self.replicas:
            return self.replicas.primary.url.render_as_string()
        return make_url(self.url).set(drivername="postgresql").render_as_string(hide_password=False)

    # --- what is left behind ---

    @property
    def trap(self) -> Path:
        """Where a file makes the next commit of a notification, or what it says, the last thing that a process does."""
        return self.folder / "trap"

    def files(self) -> Iterator[Path]:
        """Every file of the database, and every log."""
        clusters = [self.cluster] if self.cluster else self.replicas.nodes if self.replicas else []
        for folder in (self.folder, *(each.folder for each in clusters)):
            yield from (path for path in folder.rglob("*") if path.is_file())


@contextmanager
def world(kind: Kind, folder: Path, figures: Figures, before: Program | None = None) -> Iterator[World]:
    """Make a database in a folder, serve, and end it all afterwards.

    With the release before, the tables are those that it has, and it serves.
    """
    with ExitStack() as stack:
        servers: Cluster | Replicas | None = None
        if kind == "postgresql":
            servers = stack.enter_context(running_cluster(_POSTGRESQL))
            url = servers.url.render_as_string(hide_password=False)
        elif kind == "replicated":
            servers = stack.enter_context(running_replicas(fsync="on"))
            url = servers.url
        else:
            url = f"sqlite:///{folder / 'notifyauth.db'}"
        receivers = {name: stack.enter_context(Receiver(name).listening()) for name in (STEADY, MOODY)}
        yield from _served(kind, folder, url, servers, figures, receivers, before)


def _served(
    kind: Kind,
    folder: Path,
    url: str,
    servers: Cluster | Replicas | None,
    figures: Figures,
    receivers: Mapping[str, Receiver],
    before: Program | None,
) -> Iterator[World]:
    keyring_path = folder / "keyring.toml"
    make_sandbox(keyring_path)
    without_calls = keyring_path.read_text()
    gateway = add_calling_client(keyring_path)
    keyring = keyring_path.read_text()
    endpoints = write_endpoints(folder / "endpoints.toml", *receivers.values())
    environ = an_environ(
        url, keyring_path, FLASK_API_KEYS=API_KEY, FLASK_METRICS_OPEN="1", FLASK_ENDPOINTS=str(endpoints)
    )
    if before is None:
        migrate(url)
    else:
        keyring_path.write_text(without_calls)
        make_tables_of(before, environ)
    key = load_private_key(keyring_path.with_name(SIMULATOR_KEY_NAME).read_bytes())
    service: Service = create_app(environ).extensions["notifyauth"]
    trapped = environ | {"PYTHONPATH": str(Path(__file__).parent / "trap"), "SOAK_TRAP": str(folder / "trap")}
    with (
        gateway,
        closing(service.database),
        supervised_server(trapped, folder / "server.log", before or CHECKOUT) as server,
    ):
        signer = Signer(SANDBOX_CLIENT_ID, key, 1)
        yield World(
            kind=kind,
            folder=folder,
            url=url,
            cluster=servers if isinstance(servers, Cluster) else None,
            replicas=servers if isinstance(servers, Replicas) else None,
            server=server,
            service=service,
            signer=signer,
            figures=figures,
            receivers=receivers,
            told=Told(service, receivers),
            calling=Calling(gateway, f"{server.url}{service.settings.notify_path}", service),
            environ=environ,
            before=before,
            keyring=keyring,
        )
