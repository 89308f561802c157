"""An operator asks what is wrong with the installation: each mistake is made on purpose, and named with its remedy."""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import make_url, text

from app import create_app, quarantine
from app.alipay.keyring import load_private_key
from app.alipay.keyring_digest import keyring_digest
from app.cli.doctor import installation
from app.database import Database
from app.events.endpoints import Endpoints
from app.installation import Finding, Status, database, outside
from app.installation.database_remedies import remedy_of
from app.leases import Leases
from app.preflight import NoDatabaseFileError
from app.quarantine import Refused
from app.simulator.draft import authcode_created, token_canceled
from app.simulator.keys import MERCHANT_KEY_NAME, SANDBOX_CLIENT_ID
from app.wiring import Service
from tests.builders import a_delivery, a_genuine_delivery, an_environ
from tests.integration.calling_http import keyring_with_gateway
from tests.integration.shell import Shell
from tests.receiver import a_receiver
from tests.unit.alipay.key_text import certificate_of, public_text

PARTS = {
    *("settings", "folder", "permissions", "keyring", "keys", "database", "pool", "migrated", "privileges"),
    *("writable", "durable", "vault", "worker", "last_verified", "refused", "parked", "endpoints"),
}


@pytest.fixture(autouse=True)
def _durable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' PostgreSQL is set to forget what it commits, for speed."""
    if "forgets" not in request.node.name:
        monkeypatch.setattr(Database, "unsafe_durability_settings", lambda _: {})


@pytest.fixture
def sqlite_shell(sqlite_url: str, keyring_path: Path) -> Iterator[Shell]:
    shell = Shell(create_app(an_environ(sqlite_url, keyring_path)), keyring_path)
    yield shell
    shell.service.database.close()


def let_a_worker_live(service: Service) -> None:
    service.database.run(lambda session: Leases("w").renew(session, ["numbering"], now=datetime.now(UTC)))


def found(shell: Shell, exit_code: int | None = None) -> dict[str, dict[str, Any]]:
    """What is found of each part; of one that is there several times, the worst."""
    result = shell.run("doctor", "--json")
    assert exit_code in {None, result.exit_code}, result.output
    ranks = ["failed", "warning", "ok"]
    rows = sorted(json.loads(result.stdout), key=lambda row: ranks.index(row["status"]), reverse=True)
    return {row["id"]: row for row in rows}


def failing(shell: Shell) -> dict[str, tuple[str, str]]:
    """Each part that fails, with the reason and the remedy."""
    rows = found(shell, 1).values()
    return {row["id"]: (row["problem"], row["remedy"] or "") for row in rows if row["status"] == "failed"}


def a_shell(keyring: Path, **settings: str) -> Shell:
    environ = an_environ(settings.pop("FLASK_DATABASE_URL"), keyring) | settings
    return Shell(create_app({name: value for name, value in environ.items() if value}), keyring)


def now_ms(**off: float) -> str:
    return str(int((datetime.now(UTC) + timedelta(**off)).timestamp() * 1000))


# --- when all is well ------------------------------------------------------------------------------------------------


def test_all_is_well(shell: Shell) -> None:
    if (file := shell.service.settings.sqlite_file) is not None:
        file.chmod(0o600)
    let_a_worker_live(shell.service)
    shell.consult("s-1")
    genuine = a_genuine_delivery(shell.keyring_path, authcode_created("s-1", "c"), request_time=now_ms())
    assert shell.receiver.receive(genuine).answer.status == 200
    rows = found(shell, 0)
    assert set(rows) >= PARTS
    assert {row["id"]: row["problem"] for row in rows.values() if row["status"] != "ok"} == {
        "api_keys": "no API key is set, so the API refuses everyone"
    }
    assert rows["migrated"] == {
        "id": "migrated",
        "ok": True,
        "status": "ok",
        "problem": None,
        "remedy": None,
        "found": None,
    }
    assert "SHA256:" in rows["keys"]["found"]
    assert keyring_digest(shell.service.keyring) in rows["keyring"]["found"]
    lines = shell.ask("doctor").splitlines()
    assert [line for line in lines if line[0] not in "✓!"] == []
    assert "✓ migrated" in lines


def test_no_worker_is_named(shell: Shell) -> None:
    result = shell.run("doctor")
    assert result.exit_code == 1
    assert "✗ worker: no worker runs (none has run yet): nothing is told until flask work" in result.stdout
    assert "✓ database" in result.stdout


def test_without_a_worker_it_is_said_that_no_calls_are_made_where_some_are(
    database_url: str, keyring_path: Path, tmp_path: Path
) -> None:
    with_gateway = keyring_with_gateway(keyring_path, tmp_path, "https://gateway.example")
    shell = Shell(create_app(an_environ(database_url, with_gateway)), with_gateway)
    said = "no worker runs (none has run yet): nothing is told, and no call to Alipay is made, until flask work or"
    assert f"✗ worker: {said}" in shell.run("doctor").stdout
    readyz = shell.app.test_client().get("/readyz")
    assert readyz.status_code == 200
    assert readyz.get_json()["checks"]["worker"].startswith(said)
    let_a_worker_live(shell.service)
    assert "✓ worker" in shell.run("doctor").stdout
    shell.service.database.close()


# --- nothing is changed ----------------------------------------------------------------------------------------------


def test_nothing_is_changed(shell: Shell) -> None:
    def tables() -> list[int]:
        names = ("inbox", "authorizations", "leases", "index_key", "refused_deliveries")
        return shell.service.database.run(
            lambda session: [session.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in names]  # noqa: S608 -- our own names
        )

    before = tables()
    shell.run("doctor")
    assert tables() == before


def test_neither_a_database_nor_a_vault_key_is_made(tmp_path: Path, keyring_path: Path, sqlite_url: str) -> None:
    instance, gone = tmp_path / "instance", tmp_path / "gone" / "n.db"
    for url in (f"sqlite:///{gone}", sqlite_url, f"sqlite:///file:{tmp_path}/notifyauth.db?uri=true"):
        shell = a_shell(keyring_path, FLASK_DATABASE_URL=url, FLASK_VAULT_KEYS="")
        settings = shell.service.settings
        object.__setattr__(settings, "instance_path", instance)
        rows = found(shell, 1)
        shell.service.database.close()
        assert not gone.exists()
        assert not instance.exists()
        assert rows["vault"]["status"] == "ok"
    assert not gone.parent.exists()


@pytest.mark.parametrize("content", [b"", b"no database at all, but more than a header's bytes"])
def test_a_file_that_is_no_database_stays_as_it_is(tmp_path: Path, keyring_path: Path, content: bytes) -> None:
    file = tmp_path / "other.db"
    file.write_bytes(content)
    shell = a_shell(keyring_path, FLASK_DATABASE_URL=f"sqlite:///{file}")
    assert {"database", "migrated"} & set(failing(shell))
    shell.service.database.close()
    assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


def test_a_database_that_is_not_in_wal_mode_is_named_and_not_switched(sqlite_url: str, keyring_path: Path) -> None:
    file = Path(make_url(sqlite_url).database or "")
    before = file.read_bytes()
    assert before[18:20] == b"\1\1"
    shell = a_shell(keyring_path, FLASK_DATABASE_URL=sqlite_url)
    assert found(shell)["database"]["ok"]
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.glob(f"{file.name}*")] == [file.name]
    shell.service.database.close()


# --- settings --------------------------------------------------------------------------------------------------------


def test_a_slip_in_a_name_is_named(sqlite_url: str, keyring_path: Path) -> None:
    shell = a_shell(keyring_path, FLASK_DATABASE_URL=sqlite_url, FLASK_API_KEY="shop=k")
    row = found(shell)["settings"]
    shell.service.database.close()
    assert (row["status"], row["ok"]) == ("warning", True)
    assert "FLASK_API_KEYS is probably meant" in row["problem"]


def test_quotes_around_keys_are_named(sqlite_url: str, keyring_path: Path) -> None:
    shell = a_shell(keyring_path, FLASK_DATABASE_URL=sqlite_url, FLASK_API_KEYS='"shop=k"')
    row = found(shell)["settings"]
    shell.service.database.close()
    assert "FLASK_API_KEYS has quotes around its value" in row["problem"]


def test_a_freshness_that_loses_redeliveries_is_named(sqlite_url: str, keyring_path: Path) -> None:
    shell = a_shell(keyring_path, FLASK_DATABASE_URL=sqlite_url, FLASK_FRESHNESS_SECONDS="300")
    assert "FLASK_FRESHNESS_SECONDS is below 90000" in found(shell)["settings"]["problem"]
    shell.service.database.close()


def test_an_environment_that_was_not_loaded_is_named(sqlite_shell: Shell, tmp_path: Path) -> None:
    settings = sqlite_shell.service.settings
    for name, value in (
        ("instance_path", tmp_path),
        ("keyring_path", tmp_path / "keyring.toml"),
        ("database_url", f"sqlite:///{tmp_path / 'notifyauth.db'}"),
        ("vault_keys", ()),
    ):
        object.__setattr__(settings, name, value)
    let_a_worker_live(sqlite_shell.service)
    assert "the service itself runs without a setting: a worker runs" in sqlite_shell.run("doctor").stdout
    row = found(sqlite_shell)["environment"]
    assert "EnvironmentFile" in row["remedy"]
    assert "no setting of the service is set here" in sqlite_shell.run("doctor").stdout


# --- keyring and vault -----------------------------------------------------------------------------------------------


def a_keyring(folder: Path, keyring_path: Path, public: str, **more: str) -> Path:
    path = folder / "mine.toml"
    shutil.copy(keyring_path.with_name(MERCHANT_KEY_NAME), folder / MERCHANT_KEY_NAME)
    settings = "".join(f"{name} = {json.dumps(value)}\n" for name, value in more.items())
    path.write_text(f"[clients.{SANDBOX_CLIENT_ID}]\n{settings}alipay_public_keys = {{1 = {public}}}\n", "utf-8")
    return path


def public_pem(key: rsa.RSAPrivateKey) -> str:
    return public_text(key, Encoding.PEM)


def own_key(keyring_path: Path) -> rsa.RSAPrivateKey:
    return load_private_key(keyring_path.with_name(MERCHANT_KEY_NAME).read_bytes())


def problem_of(path: Path, sqlite_url: str, part: str) -> tuple[str, str]:
    shell = a_shell(path, FLASK_DATABASE_URL=sqlite_url)
    found = failing(shell)[part]
    shell.service.database.close()
    return found


def test_the_merchants_own_key_in_place_of_alipays_is_named(
    sqlite_url: str, keyring_path: Path, tmp_path: Path
) -> None:
    public = json.dumps(public_pem(own_key(keyring_path)))
    path = a_keyring(tmp_path, keyring_path, public, merchant_private_key=f"file:{MERCHANT_KEY_NAME}")
    problem, remedy = problem_of(path, sqlite_url, "keyring")
    assert "is the merchant's own public key" in problem
    assert "Antom Dashboard" in remedy


def test_the_merchants_own_key_of_another_client_is_named(sqlite_url: str, keyring_path: Path, tmp_path: Path) -> None:
    public = json.dumps(public_pem(own_key(keyring_path)))
    path = a_keyring(tmp_path, keyring_path, public)
    other = json.dumps(public_pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)))
    with path.open("a", encoding="utf-8") as file:
        file.write(f'[clients.5Y1]\nmerchant_private_key = "file:{MERCHANT_KEY_NAME}"\n')
        file.write(f"alipay_public_keys = {{1 = {other}}}\n")
    problem, remedy = problem_of(path, sqlite_url, "keys")
    assert f"Alipay's key 1 of client {SANDBOX_CLIENT_ID} is the merchant's own key of 5Y1" in problem
    assert "Antom Dashboard" in remedy


def test_one_key_for_sandbox_and_production_is_named(sqlite_url: str, keyring_path: Path, tmp_path: Path) -> None:
    public = json.dumps(public_pem(own_key(keyring_path)))
    path = a_keyring(tmp_path, keyring_path, public)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"[clients.5Y1]\nalipay_public_keys = {{1 = {public}}}\n")
    shell = a_shell(path, FLASK_DATABASE_URL=sqlite_url)
    row = found(shell)["keys"]
    shell.service.database.close()
    assert "and one is of the sandbox" in row["problem"]


def test_one_key_for_two_clients_is_named(sqlite_url: str, tmp_path: Path) -> None:
    public = json.dumps(public_pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)))
    path = tmp_path / "two.toml"
    path.write_text("".join(f"[clients.{each}]\nalipay_public_keys = {{1 = {public}}}\n" for each in ("5Y1", "5Y2")))
    shell = a_shell(path, FLASK_DATABASE_URL=sqlite_url)
    row = found(shell)["keys"]
    shell.service.database.close()
    assert row["status"] == "warning"
    assert "5Y1 and 5Y2 have the same key SHA256:" in row["problem"]


def weak(_: Path) -> str:
    return json.dumps(public_pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)))  # noqa: S505 -- on purpose


@pytest.mark.parametrize(
    ("public", "problem", "remedy"),
    [
        (lambda path: json.dumps(certificate_of(own_key(path))), "is a certificate", "openssl x509 -pubkey"),
        (weak, "has 1024 bits", "generate keys of 2048 bits"),
        (
            lambda path: f"'{json.dumps(public_pem(own_key(path)))[1:-1]}'",
            r"has \n written out in the place of its line ends",
            r"put a line end for each \n",
        ),
        (lambda _: '"abc"', "", "paste it whole"),
    ],
    ids=["certificate", "weak", "line ends written out", "cut off"],
)
def test_a_key_that_cannot_be_used_is_named(
    sqlite_url: str,
    keyring_path: Path,
    tmp_path: Path,
    public: Callable[[Path], str],
    problem: str,
    remedy: str,
) -> None:
    said = problem_of(a_keyring(tmp_path, keyring_path, public(keyring_path)), sqlite_url, "keyring")
    assert problem in said[0]
    assert remedy in said[1]


def test_a_broken_keyring_and_broken_endpoints_are_named(database_url: str, tmp_path: Path) -> None:
    keyring, endpoints = tmp_path / "keyring.toml", tmp_path / "endpoints.toml"
    keyring.write_text("[clients", encoding="utf-8")
    endpoints.write_text("[endpoints.shop]\nurl = 7\n", encoding="utf-8")
    shell = a_shell(keyring, FLASK_DATABASE_URL=database_url, FLASK_ENDPOINTS=str(endpoints))
    assert {"keyring", "endpoints"} <= set(failing(shell))
    assert found(shell)["database"]["ok"]
    shell.service.database.close()


def test_a_wrong_vault_key_is_named(database_url: str, keyring_path: Path) -> None:
    first = a_shell(keyring_path, FLASK_DATABASE_URL=database_url)
    _ = first.service.vault
    first.service.database.close()
    problem, remedy = problem_of(keyring_path, database_url, "vault")
    assert problem.startswith("does not open")
    assert "this is the database that was meant" in remedy


def test_a_missing_vault_key_is_named_and_not_made(sqlite_shell: Shell, tmp_path: Path) -> None:
    _ = sqlite_shell.service.vault
    settings = sqlite_shell.service.settings
    object.__setattr__(settings, "vault_keys", ())
    object.__setattr__(settings, "instance_path", tmp_path / "instance")
    assert "put that file back, or set the key" in failing(sqlite_shell)["vault"][0]
    assert not (tmp_path / "instance").exists()


def test_vault_keys_that_are_not_set_for_postgresql_are_named(postgresql_url: str, keyring_path: Path) -> None:
    shell = a_shell(keyring_path, FLASK_DATABASE_URL=postgresql_url, FLASK_VAULT_KEYS="")
    _ = shell.service.database
    shell.service.database.run(lambda session: session.execute(text("INSERT INTO index_key VALUES (1, '\\x01')")))
    problem, remedy = failing(shell)["vault"]
    assert "FLASK_VAULT_KEYS is not set, and this database has been used with a vault key" in problem
    assert "new-vault-key" not in problem + remedy
    shell.service.database.close()


# --- database --------------------------------------------------------------------------------------------------------


def test_a_database_that_is_not_migrated_is_named(unmigrated_database_url: str, keyring_path: Path) -> None:
    shell = a_shell(keyring_path, FLASK_DATABASE_URL=unmigrated_database_url)
    result = shell.run("doctor")
    shell.service.database.close()
    assert result.exit_code == 1
    assert "flask db upgrade" in result.stdout


def broken(url: str, **parts: Any) -> str:  # noqa: ANN401 -- parts of a URL
    return make_url(url).set(**parts).render_as_string(hide_password=False)


@pytest.mark.parametrize(
    ("parts", "remedy"),
    [
        ({"port": 1}, "nobody listens at this host and port"),
        ({"host": "no-such-host.invalid"}, "the host's name in FLASK_DATABASE_URL is wrong"),
        ({"database": "no_such_database"}, "there is no database of this name"),
        ({"username": "nobody_at_all"}, "there is no such user"),
    ],
    ids=["port", "host", "name", "user"],
)
def test_what_is_wrong_in_a_url_is_named(
    postgresql_url: str, keyring_path: Path, parts: dict[str, Any], remedy: str
) -> None:
    url = broken(
        postgresql_url, **({"query": {}, "host": "127.0.0.1"} if "host" in parts or "port" in parts else {}) | parts
    )
    shell = a_shell(keyring_path, FLASK_DATABASE_URL=url)
    problem, said = failing(shell)["database"]
    shell.service.database.close()
    assert "is unreachable: " in problem
    assert remedy in said


@pytest.mark.parametrize(
    ("cause", "remedy"),
    [
        ('FATAL:  password authentication failed for user "n"', "the user or its password is wrong"),
        ("fe_sendauth: no password supplied", "the password is missing"),
        ('FATAL:  no pg_hba.conf entry for host "1.2.3.4"', "pg_hba.conf"),
        ("no connection in time", "the host does not answer"),
        ("FATAL:  the database system is starting up", "wait until the server has started"),
        ("FATAL:  the database system is shutting down", "wait until the server has started"),
        ("FATAL:  the database system is in recovery mode", "wait until the server has started"),
        ("FATAL:  the database system is not accepting connections", "wait until the server has started"),
        ("FATAL:  sorry, too many clients already", "max_connections"),
        ("FATAL:  sorry, too many clients already", "fewer --workers"),
        ('FATAL:  too many connections for role "n"', "ALTER ROLE … CONNECTION LIMIT"),
        ('FATAL:  too many connections for role "n"', "fewer --workers"),
        ('FATAL:  too many connections for database "n"', "ALTER DATABASE … CONNECTION LIMIT"),
        ("FATAL:  no more connections allowed (max_client_conn)", "max_client_conn"),
        (
            'FATAL: too many connections for role "n". Multiple: FATAL: role "n" has gone; x "y" does not exist',
            "CONNECTION LIMIT",
        ),
        ('FATAL:  role "n" does not exist', "there is no such user"),
        ("FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", "max_connections"),
        ('FATAL:  Peer authentication failed for user "n"', "pg_hba.conf"),
        ('FATAL:  role "n" is not permitted to log in', "ALTER ROLE … LOGIN"),
        ('FATAL:  permission denied for database "n"', "GRANT CONNECT"),
        ('FATAL:  database "n" is not currently accepting connections', "ALLOW_CONNECTIONS"),
        ("server does not support SSL, but SSL was required", "sslmode"),
        ('root certificate file "/x" does not exist', "certificates"),
        ('connection to server at "10.0.0.1", port 5432 failed: No route to host', "the host does not answer"),
        ('connection to server at "timescale-1" failed: FATAL:  something else', ""),
        ("database or disk is full", "make room"),
        ("database is locked", "another program holds the file"),
        ("database disk image is malformed", "restore a backup"),
        ("unable to open database file", "owner and mode"),
        ("something else", ""),
    ],
)
def test_the_remedy_follows_from_what_the_server_says(cause: str, remedy: str) -> None:
    assert remedy in remedy_of(cause)
    assert bool(remedy) is bool(remedy_of(cause))


def test_a_wrong_path_is_named(tmp_path: Path, keyring_path: Path) -> None:
    shell = a_shell(keyring_path, FLASK_DATABASE_URL=f"sqlite:///{tmp_path}/no/such.db")
    said = failing(shell)
    shell.service.database.close()
    assert "correct FLASK_DATABASE_URL, or for a new database make the folder first" in said["database"][0]
    assert "flask db upgrade" not in said["database"][0]
    assert "there is no folder" in said["folder"][0]


def test_a_path_with_a_slash_too_few_is_named(
    tmp_path: Path, keyring_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shell = a_shell(keyring_path, FLASK_DATABASE_URL="sqlite:///srv/data/n.db")
    said = failing(shell)["database"][0]
    shell.service.database.close()
    assert f"is relative, and leads from here to {tmp_path}/srv/data/n.db" in said
    assert "four slashes, sqlite:////srv/data/n.db" in said
    assert "flask db upgrade" not in said


def test_a_migration_is_offered_only_where_nothing_speaks_for_a_mistake(tmp_path: Path) -> None:
    assert "Run: flask db upgrade" in str(NoDatabaseFileError(tmp_path / "n.db"))
    assert "Run: flask db upgrade" in str(NoDatabaseFileError(tmp_path / "instance" / "n.db", is_default=True))
    slip = "FLASK_DATABSE_URL is no setting and is ignored: FLASK_DATABASE_URL is probably meant."
    said = str(NoDatabaseFileError(tmp_path / "n.db", is_default=True, slip=slip))
    assert said.endswith(f"where it is if FLASK_DATABASE_URL is not set: {slip}")


def test_a_database_that_takes_nothing_is_named(postgresql_url: str, keyring_path: Path) -> None:
    shell = a_shell(keyring_path, FLASK_DATABASE_URL=postgresql_url)
    name = make_url(postgresql_url).database
    shell.service.database.run(
        lambda session: session.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
    )
    shell.service.database.close()
    assert found(shell)["worker"]["status"] == "warning"
    said, remedy = failing(shell)["writable"]
    shell.service.database.close()
    assert said == "read-only"
    assert f'ALTER DATABASE "{name}" RESET default_transaction_read_only' in remedy


def test_a_database_that_is_not_replicated_is_named_where_it_should_be(
    postgresql_url: str, keyring_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = a_shell(keyring_path, FLASK_DATABASE_URL=postgresql_url, FLASK_DURABILITY="replicated")
    problem, remedy = failing(shell)["standby"]
    assert "synchronous_standby_names is empty" in problem
    assert "FLASK_DURABILITY is replicated" in problem
    assert "docs/replication.md" in remedy
    monkeypatch.setattr(database, "why_not_replicated", lambda _: None)
    monkeypatch.setattr(database, "synchronous_standbys", lambda _: 2)
    assert found(shell)["standby"]["found"] == "2 confirm commits"
    shell.service.database.close()


def test_missing_privileges_are_named(postgresql_url: str, keyring_path: Path) -> None:
    admin = Database(postgresql_url)
    with admin.engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE doctored LOGIN")
        connection.exec_driver_sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO doctored")
    shell = a_shell(keyring_path, FLASK_DATABASE_URL=broken(postgresql_url, username="doctored"))
    try:
        assert "GRANT" in failing(shell)["privileges"][0]
    finally:
        shell.service.database.close()
        with admin.engine.begin() as connection:
            connection.exec_driver_sql("DROP OWNED BY doctored")
            connection.exec_driver_sql("DROP ROLE doctored")
        admin.close()


def test_a_database_that_forgets_is_named(postgresql_url: str, keyring_path: Path) -> None:
    shell = a_shell(keyring_path, FLASK_DATABASE_URL=postgresql_url)
    problem, remedy = failing(shell)["durable"]
    shell.service.database.close()
    assert "a power cut may take back what was acknowledged" in problem
    assert "docs/database.md" in remedy


@pytest.mark.parametrize("seconds", [30, -30])
def test_clocks_that_differ_are_named(seconds: int) -> None:
    assert database._clock(timedelta(seconds=1)).status == "ok"  # noqa: SLF001 -- no server's clock can be moved here
    finding = database._clock(timedelta(seconds=seconds))  # noqa: SLF001 -- as above
    assert finding.status == "failed"
    assert f"30 s {'ahead of' if seconds > 0 else 'behind'} ours" in finding.said


# --- the machine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("free", "status"), [(50, "failed"), (500, "warning"), (5000, "ok")])
def test_a_full_disk_is_named(sqlite_shell: Shell, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    usage = shutil.disk_usage("/")._replace(free=free * 1024**2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    row = found(sqlite_shell)["disk"]
    assert row["status"] == status
    assert f"{free} MiB are free" in (row["problem"] or row["found"])


def test_a_file_with_secrets_that_everybody_may_read_is_named(sqlite_shell: Shell) -> None:
    file = sqlite_shell.service.settings.sqlite_file
    assert file is not None
    file.chmod(0o600)
    before = found(sqlite_shell)["permissions"]["status"]
    file.chmod(0o644)
    row = found(sqlite_shell)["permissions"]
    assert (before, row["status"], row["remedy"]) == ("ok", "warning", f"chmod o= {file}")


@pytest.mark.parametrize("setting", ["FLASK_API_KEYS_FILE", "FLASK_VAULT_KEYS_FILE", "FLASK_ENDPOINTS"])
def test_whatever_file_a_secret_comes_from_is_looked_at(
    sqlite_url: str, keyring_path: Path, tmp_path: Path, setting: str
) -> None:
    contents = {
        "FLASK_API_KEYS_FILE": "shop=a-key-of-the-shop",
        "FLASK_VAULT_KEYS_FILE": an_environ(sqlite_url, keyring_path)["FLASK_VAULT_KEYS"],
        "FLASK_ENDPOINTS": f'[endpoints.shop]\nurl = "https://127.0.0.1:1/"\nsecrets = ["whsec_{"c2Vj" * 8}"]\n',
    }
    file = tmp_path / "secret"
    file.write_text(contents[setting])
    replaced = setting.removesuffix("_FILE")
    shell = a_shell(keyring_path, FLASK_DATABASE_URL=sqlite_url, **{replaced: "", setting: str(file)})
    assert shell.service.settings.sqlite_file is not None
    shell.service.settings.sqlite_file.chmod(0o600)
    file.chmod(0o600)
    assert found(shell)["permissions"]["status"] == "ok"
    file.chmod(0o644)
    assert found(shell)["permissions"]["remedy"] == f"chmod o= {file}"
    shell.service.database.close()


def test_a_folder_that_cannot_be_written_to_is_named(sqlite_shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    # A test may run as root, who may write anywhere.
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "this account may not write to" in failing(sqlite_shell)["folder"][0]


# --- what comes and what waits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("off", "status"),
    [({}, "ok"), ({"minutes": 5}, "failed"), ({"minutes": -5}, "warning")],
    ids=["on", "behind", "ahead"],
)
def test_a_clock_that_is_off_is_named(sqlite_shell: Shell, off: dict[str, float], status: str) -> None:
    assert found(sqlite_shell)["last_verified"]["status"] == "warning"
    delivery = a_genuine_delivery(sqlite_shell.keyring_path, token_canceled("t"), request_time=now_ms(**off))
    sqlite_shell.receiver.receive(delivery)
    rows = found(sqlite_shell)
    assert rows["clock"]["status"] == status
    assert rows["last_verified"]["status"] == "ok"
    assert status == "ok" or "timedatectl" in rows["clock"]["remedy"]


@pytest.mark.parametrize(
    ("ages", "status", "said"),
    [
        ((3600, 3600, 3601), "failed", "came 3600 s after the request-time: this machine's clock is ahead by that, or"),
        ((3600, 60000), "warning", "so they were redelivered"),
    ],
    ids=["the same", "different"],
)
def test_what_was_refused_for_its_age_may_be_our_clock(
    shell: Shell, ages: tuple[int, ...], status: str, said: str
) -> None:
    now = datetime.now(UTC)
    for age in ages:
        delivery = a_delivery(request_time=now_ms(seconds=-age))
        row = quarantine.sealed_row(shell.service.vault, Refused(delivery, "stale", True, {}, now))  # noqa: FBT003 -- as in the row
        shell.service.database.run(partial(quarantine.keep, row=row, now=now))
    clock = found(shell)["clock"]
    assert clock["status"] == status
    assert said in clock["problem"]
    assert "unset FLASK_FRESHNESS_SECONDS" in clock["remedy"]
    shell.receiver.receive(a_genuine_delivery(shell.keyring_path, token_canceled("t"), request_time=now_ms()))
    assert found(shell)["clock"]["status"] == "ok"


def test_what_was_refused_is_named(shell: Shell) -> None:
    refused = Refused(a_delivery(), "mismatch", is_known_client=True, headers={}, at=datetime.now(UTC))
    row = quarantine.sealed_row(shell.service.vault, refused)
    shell.service.database.run(partial(quarantine.keep, row=row, now=refused.at))
    said = found(shell)["refused"]
    assert "kept are: mismatch 1" in said["problem"]
    assert f"flask doctor refused {row['id']} says why" in said["remedy"]


@pytest.mark.parametrize(
    ("draft", "reason", "remedy"),
    [
        (authcode_created("s-9", "c"), "unknown_auth_state", "their consults were not reported"),
        (token_canceled("t-9"), "unknown_token", "stop charging, then report the tokens"),
    ],
    ids=["consult", "token"],
)
def test_what_was_not_reported_is_named(shell: Shell, draft: Any, reason: str, remedy: str) -> None:  # noqa: ANN401 -- a draft
    shell.notify(draft)
    row = found(shell)["parked"]
    assert f"1 parked for {reason}" in row["problem"]
    assert remedy in row["remedy"]


# --- outside ---------------------------------------------------------------------------------------------------------


def endpoints_file(folder: Path, url: str) -> str:
    path = folder / "endpoints.toml"
    secret = "whsec_" + "c2VjcmV0" * 5
    path.write_text(f'[endpoints.shop]\nurl = "{url}"\nsecrets = ["{secret}"]\n', encoding="utf-8")
    return str(path)


def test_endpoints_are_looked_at_and_nothing_is_sent(sqlite_url: str, keyring_path: Path, tmp_path: Path) -> None:
    with a_receiver() as receiver:
        path = endpoints_file(tmp_path, receiver.url)
        shell = a_shell(keyring_path, FLASK_DATABASE_URL=sqlite_url, FLASK_ENDPOINTS=path)
        assert "shop: no worker sends to it" in failing(shell)["endpoint"][0]
        shell.service.database.run(
            lambda session: Leases("w").renew(session, ["numbering", "endpoint:shop"], now=datetime.now(UTC))
        )
        assert found(shell, 0)["endpoint"]["found"] == "shop: in order"
        shell.service.database.close()
        assert receiver.received == []


def test_an_endpoint_whose_host_is_unknown_is_named(sqlite_url: str, keyring_path: Path, tmp_path: Path) -> None:
    path = endpoints_file(tmp_path, "https://no-such-host.invalid/hooks")
    shell = a_shell(keyring_path, FLASK_DATABASE_URL=sqlite_url, FLASK_ENDPOINTS=path)
    assert "its host no-such-host.invalid cannot be resolved" in failing(shell)["endpoint"][0]
    shell.service.database.close()


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("It answered 404", "correct the path of its url"),
        ("It answered 401", "compare secrets in endpoints.toml"),
        ("It answered 403", "compare secrets in endpoints.toml"),
        ("It answered 302, and redirects are not followed", "the url that it redirects to"),
        ("It answered 500", "the log of the receiver"),
        ("It refused the connection", "start the receiver, or correct host and port"),
        ("Its name cannot be resolved", "correct the host"),
        ("No connection could be made in time", "within ten seconds"),
        ("something else", ""),
    ],
)
def test_what_to_do_about_an_endpoint_follows_from_how_it_answered(error: str, remedy: str, tmp_path: Path) -> None:
    path = endpoints_file(tmp_path, "https://shop.example/hooks/secret")
    (endpoint,) = Endpoints.load(Path(path)).values()
    said = outside.remedy_of(endpoint, error)
    assert remedy in said
    assert said.startswith("flask events test") is not bool(remedy)
    assert said.endswith("flask events test shop tries it")
    assert outside.where(endpoint) == "https://shop.example:443"


def test_a_command_is_not_written_with_a_capital_letter() -> None:
    finding = Finding("endpoint", Status.FAILED, "late", "flask events test shop tries it")
    assert installation._line(finding) == "✗ endpoint: late. flask events test shop tries it"  # noqa: SLF001 -- what is printed


def with_gateway(folder: Path, keyring_path: Path, url: str) -> Path:
    public = json.dumps(public_pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)))
    return a_keyring(folder, keyring_path, public, merchant_private_key=f"file:{MERCHANT_KEY_NAME}", gateway=url)


def test_a_gateway_is_connected_to_without_a_request(sqlite_url: str, keyring_path: Path, tmp_path: Path) -> None:
    with a_receiver() as receiver:
        path = with_gateway(tmp_path, keyring_path, f"http://127.0.0.1:{receiver.port}")
        shell = a_shell(path, FLASK_DATABASE_URL=sqlite_url)
        row = found(shell)["gateway"]
        shell.service.database.close()
        assert row["status"] == "ok"
        assert "no request was made" in row["found"]
        assert receiver.received == []


def test_a_gateway_that_takes_no_connection_is_named(sqlite_url: str, keyring_path: Path, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        path = with_gateway(tmp_path, keyring_path, f"https://127.0.0.1:{unused.getsockname()[1]}")
        problem, remedy = problem_of(path, sqlite_url, "gateway")
    assert "Connection refused" in problem
    assert "the firewall" in remedy
