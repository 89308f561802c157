"""A replicated database: a primary and two standbys, real ones, of which any may be lost and come back.

A commit is confirmed once one of the standbys has it, unless a test wants that otherwise.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import URL

from tests.acceptance.server import a_free_port
from tests.postgres import SUPERVISOR, ServerNotStartedError, make_cluster, programs_for, server_account

HOST = "127.0.0.1"
NAMES = ("a", "b", "c")
SYNCHRONOUS = f"ANY 1 ({', '.join(NAMES)})"

#: What each of them is set to, since each may come to be the primary. A rewind needs `wal_log_hints`.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "on",
    "hot_standby": "on",
    "max_wal_senders": "10",
    "shared_buffers": "32MB",
    "timezone": "Asia/Shanghai",
    "wal_keep_size": "512MB",
    "wal_log_hints": "on",
    # A standby looks again for a primary so soon, and a primary gives up a mute standby.
    "wal_retrieve_retry_interval": "100ms",
    "wal_receiver_timeout": "5s",
    "wal_sender_timeout": "5s",
}
#: Each step takes a second or two; a machine that is busy with other tests takes longer.
_SECONDS_MAX = 60


@dataclass(eq=False)
class Node:
    """One server of the three, on a machine of its own as far as the others can tell."""

    name: str
    folder: Path
    port: int
    account: str | None
    programs: Path
    settings: Mapping[str, str]
    supervisor: "subprocess.Popen[str] | None" = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> URL:
        """Where its operator reaches it, whatever becomes of the network."""
        query = {"host": str(self.folder), "port": str(self.port)}
        return URL.create("postgresql", username="postgres", database="postgres", query=query)

    @property
    def address(self) -> str:
        """Where the other servers reach it, as libpq reads it."""
        return f"host={HOST} port={self.port} user=postgres"

    def ask(self, query: str) -> Any:  # noqa: ANN401 -- whatever a column holds
        """Do one statement as an operator, and return the first column of the first row, if there is one."""
        with psycopg.connect(self.url.render_as_string(), autocommit=True, connect_timeout=5) as connection:
            # What an operator does must not wait for a standby.
            connection.execute("SET synchronous_commit = local")
            cursor = connection.execute(sql.SQL(query))
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None

    def set(self, name: str, value: str) -> None:
        """Change a setting of the running server."""
        self.ask(f"ALTER SYSTEM SET {name} = '{value}'")
        self.ask("SELECT pg_reload_conf()")

    def follow(self, primary: "Node") -> None:
        """Stream from this server from now on."""
        self.set("primary_conninfo", primary.address)

    # --- what can happen to it ---

    def start(self) -> None:
        """Start the server, for the first time or after it has ended, and wait until it takes connections."""
        if self.supervisor is None:
            command: list[str | Path] = [self.programs / "postgres", "-D", self.data, "-p", str(self.port)]
            options = {"unix_socket_directories": str(self.folder), "listen_addresses": HOST}
            named = {**options, "cluster_name": self.name, **self.settings}
            self.supervisor = subprocess.Popen(
                [
                    "/bin/sh",
                    "-c",
                    SUPERVISOR,
                    "supervisor",
                    self.folder,
                    *command,
                    *[f"--{name}={value}" for name, value in named.items()],
                ],
                stdin=subprocess.PIPE,
                text=True,
                user=self.account,
                start_new_session=True,
            )
        else:
            assert self.supervisor.stdin is not None
            self.supervisor.stdin.write("again\n")
            self.supervisor.stdin.flush()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Return once it takes connections. Raises `ServerNotStartedError`."""
        deadline = time.monotonic() + _SECONDS_MAX
        while True:
            try:
                psycopg.connect(self.url.render_as_string(), connect_timeout=5).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise ServerNotStartedError((self.folder / "log").read_text()) from None
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """Lose the machine: every process of the server ends at the same instant."""
        self._signal(signal.SIGSTOP)
        self._signal(signal.SIGKILL)
        wait_until(lambda: not self._processes(), "the processes of the server are gone")
        # The id of a process says nothing on a machine that has started anew; here it may still be taken for alive.
        (self.data / "postmaster.pid").unlink()

    def stop(self) -> None:
        """Shut it down as an operator does: a standby that streams from it has everything afterwards."""
        first = self._first_process()
        os.kill(first, signal.SIGINT)
        wait_until(lambda: not _is_alive(first), "the server has shut down")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let every process stand still, as a paused virtual machine does: it says nothing, and hangs up on nobody."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        # The first process goes first, so that it starts no other.
        for process in self._processes():
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def _processes(self) -> list[int]:
        with suppress(OSError):
            first = self._first_process()
            children = Path(f"/proc/{first}/task/{first}/children").read_text(encoding="ascii")
            return [each for each in (first, *map(int, children.split())) if _is_alive(each)]
        return []

    def _first_process(self) -> int:
        return int((self.data / "postmaster.pid").read_text(encoding="ascii").split()[0])

    def run(self, program: str, *arguments: object) -> None:
        """Run one of PostgreSQL's programs on this machine."""
        command = [self.programs / program, *arguments]
        done = subprocess.run(
            list(map(str, command)),
            check=False,
            capture_output=True,
            text=True,
            user=self.account,
            # Where it may write is its own folder.
            cwd=self.folder,
            env={"HOME": str(self.folder), "LANG": "C.UTF-8", "PATH": os.environ["PATH"]},
        )
        assert done.returncode == 0, done.stderr


@dataclass
class Replicas:
    """Three servers, of which one is the primary that was promoted last."""

    nodes: Sequence[Node]
    primary: Node
    #: Those that are not running.
    lost: list[Node] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The URL for the service: it names every server, in an order that does not change with the primary."""
        return service_url([f"{HOST}:{node.port}" for node in self.nodes])

    def standbys(self) -> list[Node]:
        return [node for node in self.nodes if node is not self.primary and node not in self.lost]

    def set_synchronous(self, names: str) -> None:
        """Say on every server for whom commits wait; nobody, if that is empty."""
        for node in self.nodes:
            if node not in self.lost:
                node.set("synchronous_standby_names", names)
        if names:
            self.wait_until_synchronous()

    def wait_until_synchronous(self) -> None:
        """Return once a standby confirms commits."""
        query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')"
        wait_until(lambda: self.primary.ask(query) >= len(self.standbys()), "the standbys stream")

    def lose_primary(self) -> None:
        """Kill the machine of the primary, and promote nobody."""
        self.primary.kill()
        self.lost.append(self.primary)

    def promote(self) -> Node:
        """Promote the standby that is ahead, and let the other one follow it.

        First nobody listens to the old primary any more: should it live, it can have nothing confirmed from here on.
        Then what they have can be compared. With one confirmation for each commit it takes both to know.
        """
        standbys = self.standbys()
        for standby in standbys:
            standby.set("primary_conninfo", "")
        for standby in standbys:
            wait_until(lambda each=standby: not is_listening(each), f"{standby.name} listens to nobody")  # type: ignore[misc]
        received = "SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0')"
        ahead = max(standbys, key=lambda each: each.ask(received) or 0)
        ahead.ask("SELECT pg_promote(true, 60)")
        self.primary = ahead
        for other in self.standbys():
            other.follow(ahead)
        return ahead

    def switch_over(self) -> Node:
        """Shut the primary down, promote a standby, and let the old one follow: nothing has to be rewound."""
        old = self.primary
        old.stop()
        self.lost.append(old)
        self.promote()
        (old.data / "standby.signal").touch()
        _append(old, f"primary_conninfo = '{self.primary.address}'")
        old.start()
        self.lost.remove(old)
        return self.primary

    def rejoin(self, node: Node, *, is_synchronous: bool = True) -> None:
        """Let a lost machine follow the primary: what it had and nobody confirmed is rewound."""
        # What a rewind reads of the primary is what its last checkpoint says.
        self.primary.ask("CHECKPOINT")
        source = f"{self.primary.address} dbname=postgres"
        node.run("pg_rewind", "-D", node.data, "--source-server", source, "--write-recovery-conf", "--no-sync")
        node.start()
        self.lost.remove(node)
        if is_synchronous:
            self.wait_until_synchronous()


def is_listening(node: Node) -> bool:
    return bool(node.ask("SELECT EXISTS (SELECT FROM pg_stat_wal_receiver)"))


def _is_alive(process: int) -> bool:
    """Say whether a process is more than an entry that its parent has not read yet."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    return False


def _append(node: Node, line: str) -> None:
    with (node.data / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def service_url(hosts: Sequence[str]) -> str:
    """Write the URL of several servers; the service goes to the one that takes writes."""
    query = {"host": hosts, "target_session_attrs": "read-write"}
    url = URL.create("postgresql+psycopg", username="postgres", database="postgres", query=query)
    return url.render_as_string(hide_password=False)


def wait_until(is_so: Callable[[], object], what: str) -> None:
    """Return once something is so that takes a while; what that is, is said where it takes too long."""
    deadline = time.monotonic() + _SECONDS_MAX
    while not is_so():
        assert time.monotonic() < deadline, f"not in {_SECONDS_MAX} s: {what}"
        time.sleep(0.02)


@contextmanager
def running_replicas(*, synchronous: str = SYNCHRONOUS, **settings: str) -> Iterator[Replicas]:
    """Make a primary and two standbys, and end them afterwards, even if the test run is killed.

    Raises:
        ServerNotStartedError: one of them did not start; says why.
    """
    account = server_account()
    # A socket's path may have 107 bytes, so the folder is not one of pytest's.
    with tempfile.TemporaryDirectory(prefix="replicas-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        programs = programs_for(account, folder)
        nodes = [Node(each, folder / each, a_free_port(), account, programs, settings) for each in NAMES]
        for node in nodes:
            node.folder.mkdir(mode=0o700)
            if account is not None:
                shutil.chown(node.folder, account)
        _start_together(nodes, stack)
        replicas = Replicas(nodes, nodes[0])
        replicas.set_synchronous(synchronous)
        yield replicas


def _start_together(nodes: Sequence[Node], stack: ExitStack) -> None:
    """Make and start the first server as the primary, and the others as its standbys."""
    first = nodes[0]
    make_cluster(first.programs / "initdb", first.data, first.account)
    with (first.data / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.writelines(f"{setting} = '{value}'\n" for setting, value in _SETTINGS.items())
    for node in nodes:
        if node is not first:
            copy = ("-d", first.address, "-D", node.data, "--checkpoint=fast")
            node.run("pg_basebackup", *copy, "--write-recovery-conf", "--no-sync")
        node.start()
        assert node.supervisor is not None
        stack.enter_context(node.supervisor)
        assert node.supervisor.stdin is not None
        stack.callback(node.supervisor.stdin.close)
