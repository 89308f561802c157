"""A server lost with its disk, and restored as `docs/backup-and-restore.md` says: nothing is gone."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.simulator.draft import authcode_created, token_canceled
from tests.conftest import migrate
from tests.integration.stage import a_stage
from tests.postgres import Cluster, running_cluster
from tests.readme import script

SECONDS_MAX = 60
#: So many of the lines make a place for the log, and receive it.
RECEIVING = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server that may be lost. What it wrote outlives its processes without fsync too."""
    with running_cluster({"listen_addresses": "", "fsync": "off"}) as cluster:
        migrate(cluster.url.render_as_string(hide_password=False))
        yield cluster


def environ_of(cluster: Cluster) -> dict[str, str]:
    """The environment of the account of the server."""
    programs = Path(f"/proc/{cluster.process_id()}/exe").resolve().parent
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PGHOST": str(cluster.folder),
        "PGUSER": "postgres",
        "PGDATA": str(cluster.folder / "data"),
    }


@contextmanager
def typed(commands: list[str], environ: Mapping[str, str], backups: Path, log: IO[bytes]) -> Iterator[None]:
    """Type commands as the account of the server, and end in the end what they left running."""
    with subprocess.Popen(
        ["sh", "-euc", "\n".join(commands).replace("/backups", str(backups))],  # noqa: S607 -- whichever there is
        env=environ,
        stdout=log,
        stderr=log,
        user=backups.owner() if os.geteuid() == 0 else None,
        start_new_session=True,
    ) as shell:
        assert shell.wait(timeout=SECONDS_MAX) == 0, Path(log.name).read_text(encoding="utf-8")
    try:
        yield
    finally:
        # What runs on is still of the group that the shell has left.
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)


def test_with_the_log_a_restore_brings_back_all_that_was_acknowledged(
    cluster: Cluster, alipay_key: RSAPrivateKey, tmp_path: Path
) -> None:
    data, backups = cluster.folder / "data", cluster.folder / "backups"
    backups.mkdir()
    os.chown(backups, data.stat().st_uid, -1)
    environ = environ_of(cluster)
    stage = a_stage(cluster.url.render_as_string(hide_password=False), alipay_key)
    stage.consult()
    with (tmp_path / "log").open("wb") as log:
        with typed(script("backup"), environ, backups, log):
            assert stage.notify(authcode_created("s-1", "code-1")).outcome == "applied"
            acknowledged = [stage.notify(token_canceled(f"token-{number}")) for number in range(20)]
            assert {receipt.answer.status for receipt in acknowledged} == {200}
            os.kill(cluster.process_id(), signal.SIGKILL)
            data.rename(cluster.folder / "lost")
        # The log ends in the middle of a file, as it is when the other machine is asked for it.
        assert list((backups / "wal").glob("*.partial"))
        with typed(script("restore"), environ, backups, log):
            cluster.start_again()
        with typed(script("backup")[:RECEIVING], environ, backups, log):
            deadline = time.monotonic() + SECONDS_MAX
            while stage.notify(authcode_created("s-1", "code-1")).answer.status != 200:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert stage.state() == "authcode_issued"
            assert len(stage.entries()) == 21
    stage.database.close()


def test_without_a_receiver_the_lines_for_a_backup_leave_the_service_at_work(
    cluster: Cluster, alipay_key: RSAPrivateKey, tmp_path: Path
) -> None:
    """It dies in the background, here for want of the program; no commit is made to wait for it."""
    data, backups = cluster.folder / "data", cluster.folder / "no-backups"
    backups.mkdir()
    os.chown(backups, data.stat().st_uid, -1)
    environ = environ_of(cluster)
    with psycopg.connect(cluster.url.set(drivername="postgresql").render_as_string(), autocommit=True) as admin:
        admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
        admin.execute("SELECT pg_reload_conf()")
    commands = [line.replace("timeout 30", "timeout 3") for line in script("backup")]
    commands = [line.replace("--synchronous", "--no-such-option") for line in commands]
    stage = a_stage(cluster.url.render_as_string(hide_password=False), alipay_key)
    with (tmp_path / "log").open("wb") as log, typed(commands, environ, backups, log):
        assert stage.notify(token_canceled("token-backup")).answer.status == 200
    with psycopg.connect(cluster.url.set(drivername="postgresql").render_as_string(), autocommit=True) as admin:
        assert admin.execute("SHOW synchronous_standby_names").fetchone() == ("",)
    stage.database.close()
