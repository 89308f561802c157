"""Settings are text; a bad one is named with its remedy, and no secret is quoted."""

import base64
import logging
import os
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from typing_extensions import override

from app.config import NAMES, SECRETS, SettingError, Settings, new_vault_key, open_vault_keys, read_settings

POSTGRESQL = {"FLASK_DATABASE_URL": "postgresql://db/notifyauth", "FLASK_VAULT_KEYS": new_vault_key()}


def settings(tmp_path: Path, **environ: str) -> Settings:
    return read_settings(environ, instance_path=tmp_path)


def vault_keys(tmp_path: Path, **environ: str) -> tuple[bytes, ...]:
    return open_vault_keys(settings(tmp_path, **environ))


def test_nothing_need_be_set(tmp_path: Path) -> None:
    made = settings(tmp_path)
    assert made.database_url == f"sqlite:///{tmp_path}/notifyauth.db"
    assert made.keyring_path == tmp_path / "keyring.toml"
    assert made.notify_path == made.public_notify_path == "/alipay/notifyAuthorization"
    assert (made.api_keys, made.token_key_names, made.metrics_open, made.freshness) == ({}, None, False, None)


def test_a_setting_that_is_set_to_nothing_is_unset(tmp_path: Path) -> None:
    assert settings(tmp_path, FLASK_DATABASE_URL="", FLASK_FRESHNESS_SECONDS=" ").freshness is None


def test_the_vault_key_file_is_made_once_and_private(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: vault_keys(tmp_path / "instance"), range(32)))
    assert len(set(made)) == 1
    file = tmp_path / "instance" / "vault.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["vault.key"]


def test_several_vault_keys_keep_their_order(tmp_path: Path) -> None:
    keys = [new_vault_key(), new_vault_key()]
    made = settings(tmp_path, FLASK_VAULT_KEYS=" , ".join(keys))
    assert [base64.b64encode(key).decode() for key in made.vault_keys] == keys


def test_the_vault_key_file_takes_several_as_the_variable_does(tmp_path: Path) -> None:
    """So a key is changed where it is kept, and every shell goes on without a variable."""
    vault_keys(tmp_path)
    file = tmp_path / "vault.key"
    old, new = file.read_text().strip(), new_vault_key()
    file.write_text(f"{new}, {old}\n")
    assert [base64.b64encode(key).decode() for key in vault_keys(tmp_path)] == [new, old]


@pytest.mark.parametrize("content", ["", "c2hvcnQ=", f"{new_vault_key()},"], ids=["empty", "short", "one missing"])
def test_a_vault_key_file_with_a_key_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "vault.key").write_text(content)
    with pytest.raises(SettingError, match=r"vault\.key must be comma-separated base64 of 32 bytes each"):
        vault_keys(tmp_path)


def test_api_keys_go_by_their_names(tmp_path: Path) -> None:
    made = settings(tmp_path, FLASK_API_KEYS="billing=k-1, 12345 ,c2VjcmV0==")
    assert {key.reveal() for key in made.api_keys.values()} == {"k-1", "12345", "c2VjcmV0=="}
    assert made.api_keys["billing"].reveal() == "k-1"
    assert "k-1" not in repr(made)


def test_a_name_without_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^FLASK_API_KEYS gives shop an empty key"):
        settings(tmp_path, FLASK_API_KEYS="billing=k-1,shop=")


def test_token_keys_are_api_keys_that_may_do_more(tmp_path: Path) -> None:
    made = settings(tmp_path, FLASK_API_KEYS="shop=a,billing=b", FLASK_TOKEN_KEYS="b,vip=c")
    assert {name: key.reveal() for name, key in made.api_keys.items()} == {"shop": "a", "billing": "b", "vip": "c"}
    assert made.token_key_names == frozenset({"billing", "vip"})


@pytest.mark.parametrize(("text", "seconds"), [("90000", 90000), ("1", 1)])
def test_freshness_is_in_seconds(tmp_path: Path, text: str, seconds: int) -> None:
    assert settings(tmp_path, FLASK_FRESHNESS_SECONDS=text).freshness == timedelta(seconds=seconds)


def test_commits_need_not_outlive_the_machine_unless_that_is_said(tmp_path: Path) -> None:
    assert not settings(tmp_path).is_replicated
    assert not settings(tmp_path, FLASK_DURABILITY="local").is_replicated
    assert settings(tmp_path, **POSTGRESQL, FLASK_DURABILITY="replicated").is_replicated


def test_the_old_scheme_of_hosting_platforms_is_understood(tmp_path: Path) -> None:
    environ = POSTGRESQL | {"FLASK_DATABASE_URL": "postgres://db/notifyauth"}
    assert settings(tmp_path, **environ).database_url == "postgresql://db/notifyauth"


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("FLASK_DATABASE_URL", "mysql://db/notifyauth", "postgresql://"),
        ("FLASK_DATABASE_URL", "notifyauth.db", "sqlite:///"),
        ("FLASK_DATABASE_URL", "postgresql+asyncpg://db", "postgresql://"),
        ("FLASK_DATABASE_URL", "sqlite:///:memory:", "file"),
        ("FLASK_DATABASE_URL", "sqlite://", "file"),
        ("FLASK_VAULT_KEYS", "c2hvcnQ=", "flask keys new-vault-key"),
        ("FLASK_VAULT_KEYS", "not base64", "flask keys new-vault-key"),
        ("FLASK_API_KEYS", "a=1,a=2", "two keys a"),
        ("FLASK_API_KEYS", "a=with blank", "character"),
        ("FLASK_TOKEN_KEYS", "shop=2", "FLASK_API_KEYS"),
        ("FLASK_METRICS_OPEN", "yes", "0 or 1"),
        ("FLASK_NOTIFY_PATH", "notify", "/alipay/notifyAuthorization"),
        ("FLASK_NOTIFY_PATH", "//notify", "/alipay/notifyAuthorization"),
        ("FLASK_NOTIFY_PATH", "/healthz/", "answers there itself"),
        ("FLASK_NOTIFY_PATH", "/not ify", "no blank"),
        ("FLASK_NOTIFY_PATH", "/notify?x=1", "no query"),
        ("FLASK_NOTIFY_PATH", "/v1/notify", "answers there itself"),
        ("FLASK_NOTIFY_PATH", "/a%20b", "decode"),
        ("FLASK_PUBLIC_NOTIFY_PATH", "/<name>", "plain path"),
        ("FLASK_PUBLIC_NOTIFY_PATH", "/notify?x=1", "no query"),
        ("FLASK_PUBLIC_NOTIFY_PATH", "/a\u00a0b", "no blank"),
        ("FLASK_PUBLIC_NOTIFY_PATH", "https://your.host/notify", "no host"),
        ("FLASK_FRESHNESS_SECONDS", "0", "above 0"),
        ("FLASK_FRESHNESS_SECONDS", "5m", "seconds"),
        ("FLASK_DURABILITY", "remote", "local or replicated"),
        ("FLASK_DURABILITY", "replicated", "PostgreSQL"),
    ],
)
def test_a_bad_setting_is_named_with_its_remedy(tmp_path: Path, name: str, value: str, remedy: str) -> None:
    with pytest.raises(SettingError) as caught:
        settings(tmp_path, **{"FLASK_API_KEYS": "shop=1"} | {name: value})
    assert str(caught.value).startswith(name)
    assert remedy in str(caught.value)
    assert value not in {"c2hvcnQ=", "a=with blank"} or value not in str(caught.value)


@pytest.mark.parametrize("path", ["/", "/notify/", "//notify", "/a//b", "/a/%2F%7e/", "/a;v=1/{x}|y/", "/a/../b/."])
def test_the_public_path_may_be_whatever_a_sender_calls(tmp_path: Path, path: str) -> None:
    assert settings(tmp_path, FLASK_PUBLIC_NOTIFY_PATH=path).public_notify_path == path


@pytest.mark.parametrize("path", ["/", "/notify/", "/a//b", "/a/b//"])
def test_notifications_may_arrive_at_a_path_with_any_slashes_but_two_first(tmp_path: Path, path: str) -> None:
    made = settings(tmp_path, FLASK_NOTIFY_PATH=path)
    assert (made.notify_path, made.public_notify_path) == (path, path)


@pytest.mark.parametrize("around", ["\r", " ", "\t", "\r\n"])
def test_blanks_and_line_ends_around_a_setting_are_no_part_of_it(tmp_path: Path, around: str) -> None:
    plain = {
        "FLASK_DATABASE_URL": "postgresql://db/notifyauth",
        "FLASK_KEYRING": str(tmp_path / "keys.toml"),
        "FLASK_VAULT_KEYS": new_vault_key(),
        "FLASK_API_KEYS": "shop=k-1",
        "FLASK_TOKEN_KEYS": "billing=k-2",
        "FLASK_METRICS_OPEN": "1",
        "FLASK_NOTIFY_PATH": "/notify/",
        "FLASK_PUBLIC_NOTIFY_PATH": "/public/notify/",
        "FLASK_FRESHNESS_SECONDS": "90000",
    }
    surrounded = {name: f"{around}{value}{around}" for name, value in plain.items()}
    assert settings(tmp_path, **surrounded) == settings(tmp_path, **plain)
    assert settings(tmp_path, **surrounded).keyring_path == tmp_path / "keys.toml"


UNUSABLE_URLS = [
    "postgresql://u:geheim@wort@127.0.0.1:5432/db",
    "postgresql://u:geheim@wort/x@127.0.0.1:5432/db",
    "postgresql://u:geheim@wort:x@127.0.0.1:5432/db",
    "postgresql://u:geheim?wort@x@127.0.0.1/db",
    "postgresql://u:geheim",
    "postgresql://u:geheim@127.0.0.1:wort/db",
    "postgresql://u:geheim@127.0.0.1:99999/db",
    "postgresql://u:geheim@[::1/db",
    "postgresql://u:geheim@127.0.0.1/db?host=a&port=wort",
    "postgresql://u:geheim@127.0.0.1/db?host=a&host=b&port=1",
    "postgresql://u:geheim@127.0.0.1/db?passwort=wort",
    "postgresql://u:geheim@127.0.0.1/db?prepare_threshold=5&prepare_threshold=6",
    "postgresql://u:geheim@127.0.0.1/db?connect_timeout=wort",
    "postgresql://u:geheim%00wort@127.0.0.1/db",
    "sqlite://geheim/wort.db",
    "sqlite:////tmp/x.db?geheim=wort",
    "sqlite:////tmp/x.db?timeout=geheim",
]


@pytest.mark.parametrize("url", UNUSABLE_URLS)
def test_a_url_that_cannot_be_used_is_one_sentence_that_quotes_nothing_of_it(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingError) as caught:
        settings(tmp_path, **POSTGRESQL | {"FLASK_DATABASE_URL": url})
    assert str(caught.value).startswith("FLASK_DATABASE_URL ")
    assert "\n" not in str(caught.value)
    assert [part for part in ("geheim", "wort") if part in str(caught.value)] == []
    # Not even in a traceback is there more.
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("postgresql://u:geheim%40wort@db:5432/notifyauth", "postgresql://u@db:5432/notifyauth"),
        ("postgresql://u:geheim/wort@db/n?sslmode=require", "postgresql://u@db/n"),
        ("postgresql://u@db/n?password=geheim", "postgresql://u@db/n"),
        ("postgresql:///n?host=/run/postgresql", "postgresql:///run/postgresql/n"),
        ("postgresql://u:geheim@/n?host=a:1&host=b:2", "postgresql://u@a:1,b:2/n"),
        ("postgresql://h/n?prepare_threshold=0", "postgresql://h/n"),
        ("sqlite:////srv/a@b.db?timeout=3", "sqlite:////srv/a@b.db"),
    ],
)
def test_the_address_of_a_database_is_shown_without_a_secret(tmp_path: Path, url: str, address: str) -> None:
    assert settings(tmp_path, **POSTGRESQL | {"FLASK_DATABASE_URL": url}).database_asked == address


class Told(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def test_making_a_vault_key_is_logged_once(tmp_path: Path) -> None:
    told, logger = Told(), logging.getLogger("app.config")
    logger.addHandler(told)
    for _ in range(2):
        vault_keys(tmp_path / "instance")
    logger.removeHandler(told)
    (made,) = told.records
    assert made.getMessage() == "a vault key was made: keep a copy, apart from the database"
    assert vars(made)["path"] == tmp_path / "instance" / "vault.key"


def a_database(path: Path, *, used: bool) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE index_key (id INTEGER PRIMARY KEY, sealed_key BLOB)")
        if used:
            connection.execute("INSERT INTO index_key VALUES (1, x'00')")
        connection.commit()


def test_no_vault_key_is_made_beside_a_database_that_was_sealed_under_another(tmp_path: Path) -> None:
    """A replaced container has kept its database and lost the key: a new key would open nothing."""
    a_database(tmp_path / "notifyauth.db", used=True)
    with pytest.raises(SettingError, match=r"^FLASK_VAULT_KEYS is not set and .*vault\.key is not there, though"):
        vault_keys(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notifyauth.db"]
    assert vault_keys(tmp_path, FLASK_VAULT_KEYS=new_vault_key())


def test_an_unreadable_database_is_taken_for_one_that_was_sealed(tmp_path: Path) -> None:
    (tmp_path / "notifyauth.db").write_text("no database at all, and long enough to be sure" * 40)
    with pytest.raises(SettingError, match=r"vault\.key"):
        vault_keys(tmp_path)


@pytest.mark.parametrize("tables", [True, False], ids=["migrated", "empty"])
def test_a_vault_key_is_made_beside_a_database_that_was_never_used(tmp_path: Path, *, tables: bool) -> None:
    if tables:
        a_database(tmp_path / "notifyauth.db", used=False)
    else:
        (tmp_path / "notifyauth.db").touch()
    assert vault_keys(tmp_path)


@pytest.mark.parametrize("made_before", [True, False], ids=["made before", "new"])
def test_the_instance_folder_is_its_owners_whatever_the_umask(tmp_path: Path, *, made_before: bool) -> None:
    folder = tmp_path / "instance"
    if made_before:
        folder.mkdir()
        folder.chmod(0o777)
    before = os.umask(0)
    try:
        vault_keys(folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "vault.key").stat().st_mode) == 0o600


def test_another_database_than_sqlite_needs_vault_keys(tmp_path: Path) -> None:
    with pytest.raises(
        SettingError, match=r"FLASK_VAULT_KEYS must be set .* was used with, .* flask keys new-vault-key"
    ):
        vault_keys(tmp_path, FLASK_DATABASE_URL="postgresql://db/notifyauth")


def test_a_vault_key_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "instance").write_text("a file where the folder should be")
    with pytest.raises(SettingError, match=r"vault\.key cannot be used: (Not a directory|File exists)\.$"):
        vault_keys(tmp_path / "instance")


def test_reading_settings_writes_nothing(tmp_path: Path) -> None:
    assert settings(tmp_path / "instance").vault_keys == ()
    assert settings(tmp_path / "instance", FLASK_DATABASE_URL="postgresql://db/notifyauth").vault_keys == ()
    assert list(tmp_path.iterdir()) == []


SECRET_VALUES = {
    "FLASK_DATABASE_URL": "sqlite:////srv/notifyauth.db",
    "FLASK_VAULT_KEYS": new_vault_key(),
    "FLASK_API_KEYS": "shop=k-1",
    "FLASK_TOKEN_KEYS": "vip=k-2",
    "FLASK_METRICS_KEYS": "prometheus=k-3",
}


def test_every_secret_may_come_from_a_file(tmp_path: Path) -> None:
    assert set(SECRET_VALUES) == set(SECRETS)
    for name, value in SECRET_VALUES.items():
        (tmp_path / name).write_text(value + "\r\n")
    from_files = settings(tmp_path, **{f"{name}_FILE": str(tmp_path / name) for name in SECRET_VALUES})
    assert from_files == settings(tmp_path, **SECRET_VALUES)


def test_one_newline_at_the_end_of_a_file_is_not_part_of_the_secret(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("shop=k-1\n\n")
    assert settings(tmp_path, FLASK_API_KEYS_FILE=str(tmp_path / "keys")).api_keys["shop"].reveal() == "k-1"


def test_a_byte_order_mark_is_no_part_of_a_secret(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"\xef\xbb\xbfshop=k-1\n")
    assert settings(tmp_path, FLASK_API_KEYS_FILE=str(tmp_path / "keys")).api_keys["shop"].reveal() == "k-1"


def test_a_secret_is_not_taken_from_two_places(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("k-1")
    with pytest.raises(SettingError, match=r"^FLASK_API_KEYS_FILE and FLASK_API_KEYS are both set: choose one\.$"):
        settings(tmp_path, FLASK_API_KEYS="k-2", FLASK_API_KEYS_FILE=str(tmp_path / "keys"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\xff", "cannot be read: it is no text"),
        (b"\n", "is empty"),
    ],
)
def test_a_secret_file_that_cannot_be_used_is_named_in_one_sentence(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / "keys").write_bytes(content)
    with pytest.raises(SettingError, match=rf"^FLASK_METRICS_KEYS_FILE names {tmp_path}/keys, which {problem}\.$"):
        settings(tmp_path, FLASK_METRICS_KEYS_FILE=str(tmp_path / "keys"))


def test_a_metrics_key_that_may_use_the_api_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^FLASK_METRICS_KEYS has a key \(prometheus\) that may use the API"):
        settings(tmp_path, FLASK_API_KEYS="shop=k-1", FLASK_METRICS_KEYS="prometheus=k-1")


@pytest.mark.parametrize(("seconds", "warns"), [("89999", True), ("90000", False)])
def test_a_freshness_that_loses_redeliveries_is_warned_of(tmp_path: Path, seconds: str, warns: bool) -> None:  # noqa: FBT001 -- a parameter of the test
    found = settings(tmp_path, FLASK_FRESHNESS_SECONDS=seconds).warnings
    assert [warning.startswith("FLASK_FRESHNESS_SECONDS is below 90000") for warning in found] == [True] * warns


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("FLASK_API_KEY", "FLASK_API_KEYS"),
        ("FLASK_APIKEYS", "FLASK_API_KEYS"),
        ("FLASK_DATABASE_URI", "FLASK_DATABASE_URL"),
        ("FLASK_DATABSAE_URL", "FLASK_DATABASE_URL"),
        ("FLASK_VAULT_KEYYS_FILE", "FLASK_VAULT_KEYS_FILE"),
        ("FLAS_KEYRING", "FLASK_KEYRING"),
    ],
)
def test_a_misspelled_setting_is_warned_of(tmp_path: Path, name: str, meant: str) -> None:
    (warning,) = settings(tmp_path, **{name: "a-secret"}).warnings
    assert warning == f"{name} is no setting and is ignored: {meant} is probably meant."


@pytest.mark.parametrize(
    "name", ["FLASK_APP", "FLASK_DEBUG", "FLASK_ENV", "FLASK_RUN_PORT", "FLASK_KEYS", "FLASK_KEYRING_FILE", *NAMES]
)
def test_an_unrelated_variable_is_not_warned_of(tmp_path: Path, name: str) -> None:
    given = SECRET_VALUES | {"FLASK_FRESHNESS_SECONDS": "90000", "FLASK_METRICS_OPEN": "1"}
    given["FLASK_DURABILITY"] = "local"
    assert settings(tmp_path, **{name: given.get(name, "/a-path")}).warnings == ()


@pytest.mark.parametrize("threshold", ["0", "5", "none", "None"])
def test_a_prepare_threshold_may_be_set(tmp_path: Path, threshold: str) -> None:
    url = f"postgresql://db/notifyauth?prepare_threshold={threshold}&host=other"
    assert settings(tmp_path, **POSTGRESQL | {"FLASK_DATABASE_URL": url}).database_url == url


@pytest.mark.parametrize("threshold", ["", "never", "-1", "1.5", "none1"])
def test_a_prepare_threshold_that_is_no_number_is_named(tmp_path: Path, threshold: str) -> None:
    url = f"postgresql://db/notifyauth?host=other&prepare_threshold={threshold}"
    with pytest.raises(SettingError, match=r"^FLASK_DATABASE_URL has a prepare_threshold"):
        settings(tmp_path, **POSTGRESQL | {"FLASK_DATABASE_URL": url})
