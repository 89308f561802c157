"""The service behind PgBouncer, which gives each transaction another connection to the database."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import URL, make_url

from app.database.condition import LosesStatementsError
from app.database.engines import make_engine
from app.database.probe import probe
from app.receiver import Receipt
from app.simulator.draft import authcode_created
from app.simulator.keys import make_sandbox
from app.wiring import Service
from tests.builders import some_settings
from tests.conftest import migrate
from tests.integration.stage import Stage, a_stage

#: Debian installs it where only root's PATH leads.
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
START_SECONDS_MAX = 30
#: Fewer than the service has connections, so that connections share a server.
SERVERS = 3
CROWD = 24

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")


@contextmanager
def a_pgbouncer(server: URL, *, mode: str = "transaction", servers: int = SERVERS) -> Iterator[str]:
    """Put a PgBouncer before a server that is reached by a socket, and give the URL of the same database behind it."""
    assert PGBOUNCER is not None
    account = "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as name:
        folder = Path(name)
        host = server.query.get("host", server.host)
        (folder / "users.txt").write_text(f'"{server.username}" ""\n', encoding="ascii")
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={host} port={server.port or 5432} user={server.username}\n"
            f"[pgbouncer]\npool_mode = {mode}\ndefault_pool_size = {servers}\nauth_type = any\n"
            f"auth_file = {folder}/users.txt\nlisten_addr =\nunix_socket_dir = {folder}\nmax_client_conn = 200\n",
            encoding="ascii",
        )
        if account is not None:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, account)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([PGBOUNCER, folder / "pgbouncer.ini"], user=account, stdout=log, stderr=log)
        url = server.set(query={"host": str(folder), "port": "6432"}, host=None, port=None)
        try:
            wait_until_ready(url, log=folder / "log")
            yield url.render_as_string(hide_password=False)
        finally:
            process.terminate()
            process.wait(START_SECONDS_MAX)


def wait_until_ready(url: URL, *, log: Path) -> None:
    until = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False)).close()
        except psycopg.OperationalError:
            assert time.monotonic() < until, log.read_text(encoding="utf-8")
            time.sleep(0.02)
        else:
            return


@pytest.fixture
def pooled_url(postgresql_url: str) -> Iterator[str]:
    """A database of the test's own, behind a pool of transactions."""
    server = make_url(postgresql_url)
    if server.host is not None:
        pytest.skip("TEST_DATABASE_URL names a server that asks for a password, perhaps")
    with a_pgbouncer(server) as url:
        yield url


def live(stage: Stage, number: int) -> None:
    """Read and write, with and without a session, alone and beside others."""
    name = f"s-{number}"
    authorization = stage.consult(name)
    assert stage.notify(authcode_created(name, f"code-{number}")).outcome == "applied"
    stage.report_token(authorization, f"token-{number}")
    assert stage.state(name) == "token_active"


@pytest.mark.parametrize("threshold", ["none", "None"])
def test_all_works_behind_a_pool_when_nothing_is_prepared(
    pooled_url: str, alipay_key: RSAPrivateKey, threshold: str
) -> None:
    url = f"{pooled_url}&prepare_threshold={threshold}"
    migrate(url)
    stage = a_stage(url, alipay_key)
    stage.database.check_pool()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: live(stage, number), range(CROWD)))
    assert {outcome for outcome, _ in stage.outcomes()} == {"applied"}
    stage.database.close()


def test_no_other_client_of_the_pool_meets_a_setting_of_ours(pooled_url: str, alipay_key: RSAPrivateKey) -> None:
    stage = a_stage(f"{pooled_url}&prepare_threshold=none", alipay_key)
    live(stage, 1)
    show = "SELECT current_setting('lock_timeout'), current_setting('enable_seqscan'), current_setting('jit')"
    with psycopg.connect(pooled_url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as other:
        other.prepare_threshold = None
        fresh = other.execute("SELECT boot_val FROM pg_settings WHERE name = 'jit'").fetchone()
        assert fresh is not None
        for _ in range(2 * SERVERS):
            assert other.execute(show).fetchone() == ("0", "on", fresh[0])
    stage.database.close()


@pytest.mark.parametrize("servers", [1, SERVERS])
def test_a_pool_that_loses_prepared_statements_is_found_at_the_start(
    postgresql_url: str, tmp_path: Path, servers: int
) -> None:
    """With one server two clients prepare the same statement twice; with several each is sent to one without it."""
    with a_pgbouncer(make_url(postgresql_url), servers=servers) as url:
        settings = some_settings(url, tmp_path)
        make_sandbox(settings.keyring_path)
        service = Service(settings)
        with pytest.raises(LosesStatementsError, match="prepare_threshold=none"):
            service.open_all()
        assert "prepare_threshold=none" in service.ready()["database"]
        service.database.close()


def test_a_pool_of_sessions_loses_nothing(postgresql_url: str, alipay_key: RSAPrivateKey) -> None:
    with a_pgbouncer(make_url(postgresql_url), mode="session", servers=8) as url:
        stage = a_stage(url, alipay_key)
        stage.database.check_pool()
        live(stage, 1)
        stage.database.close()


def test_statements_that_a_pool_lost_end_no_notification(
    pooled_url: str, postgresql_url: str, alipay_key: RSAPrivateKey
) -> None:
    """A pool may be put before the database while the service runs: Alipay sends again, and nothing has failed."""
    stage = a_stage(pooled_url, alipay_key)

    def deliver(number: int) -> Receipt:
        return stage.notify(authcode_created(f"s-{number}", "code"))

    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(deliver, range(CROWD)))
    stage.database.close()
    refused = [each for each in receipts if each.answer.status == 503]
    acknowledged = {each.entry_id for each in receipts if each.answer.status == 200}
    # The pool did lose something.
    assert refused
    assert len(refused) + len(acknowledged) == CROWD
    direct = a_stage(postgresql_url, alipay_key)
    entries = direct.entries()
    direct.database.close()
    assert acknowledged <= {each.id for each in entries}
    assert {each.outcome for each in entries} <= {"parked"}


def test_the_probe_finds_all_that_the_promises_need_behind_a_pool_of_transactions(pooled_url: str) -> None:
    engine = make_engine(f"{pooled_url}&prepare_threshold=none")
    assert [each for each in probe(engine) if each.problem is not None] == []
    engine.dispose()
