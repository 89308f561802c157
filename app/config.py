"""Read the settings from the environment; a bad one fails at start with its name and the remedy.

Values are read as text, never as JSON, so that a key that looks like a number stays the key it is.
"""

import base64
import binascii
import contextlib
import hashlib
import logging
import os
import re
import secrets
import sqlite3
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from app.secret import Secret

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_log = logging.getLogger(__name__)

#: AES-256 takes a key of exactly this many bytes.
VAULT_KEY_BYTES = 32

DEFAULT_NOTIFY_PATH = "/alipay/notifyAuthorization"

#: Where we listen. Flask would read <…> as a variable, and no request comes to a path that begins with //.
_PATH = re.compile(r"/(?!/)[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
#: What Alipay signs: any path of a URL that can be registered and called; it ends before a ? or a #.
_PUBLIC_PATH = re.compile(r"""/[^\x00-\x20"#<>?\x7f-\U0010ffff]*""")

#: Settings that hold a secret: each may be given as the name of a file, with `_FILE` behind its own.
SECRETS = ("FLASK_DATABASE_URL", "FLASK_VAULT_KEYS", "FLASK_API_KEYS", "FLASK_TOKEN_KEYS", "FLASK_METRICS_KEYS")
_FILE = "_FILE"

#: Those that hold keys which the merchant's services send.
_KEY_LISTS = ("FLASK_API_KEYS", "FLASK_TOKEN_KEYS", "FLASK_METRICS_KEYS")
#: docker run --env-file and docker compose take a line as it is; a shell and systemd take the quotes away.
_UNQUOTED = "write NAME=value without them"

#: Every setting, but for those files.
NAMES = (
    *SECRETS,
    "FLASK_KEYRING",
    "FLASK_ENDPOINTS",
    "FLASK_METRICS_OPEN",
    "FLASK_NOTIFY_PATH",
    "FLASK_PUBLIC_NOTIFY_PATH",
    "FLASK_FRESHNESS_SECONDS",
    "FLASK_DURABILITY",
)

#: Alipay redelivers for 24 h 22 min (87 720 s) and may not sign anew; the rest is for clocks that differ.
FRESHNESS_SECONDS_MIN = 90_000

#: Paths of the service's other endpoints.
_TAKEN_PATHS = ("/v1", "/healthz", "/readyz", "/version", "/metrics", "/openapi.json")

#: Of a folder that holds keys.
_OWNER_ONLY = 0o700

#: The largest number that a port has.
_PORT_MAX = 65535

#: The remedy where a URL was split in the wrong place.
_ESCAPED = "In a user name, a password or an option, write @ as %40, : as %3A, / as %2F and % as %25."

#: The options of Python's sqlite3.connect. Of any other SQLAlchemy would only warn.
_OPTIONS_OF_SQLITE = {"timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements"}

#: The options that psycopg reads itself: libpq does not know them.
_OPTIONS_OF_PSYCOPG = {"prepare_threshold"}

#: How often a statement is run before the driver prepares it; none never prepares any.
_BAD_PREPARE_THRESHOLD = re.compile(r"[?&]prepare_threshold=(?!([0-9]{1,9}|none)(&|$))", re.IGNORECASE)

_KEY_NAME = re.compile(r"[A-Za-z0-9_.-]+")
#: A text of this length that ends in "=" may be a base64 key; a shorter one is a name with an empty key.
_UNNAMED_KEY_LENGTH_MIN = 16


class SettingError(Exception):
    """A setting cannot be used. Raised while settings are read, before anything is opened or served."""

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        super().__init__(f"{name} {problem}")


class VaultKeyLostError(SettingError):
    """The database was sealed under a vault key that is not where it was. A new one would open nothing of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            "FLASK_VAULT_KEYS",
            f"is not set and {path} is not there, though the database has been used with a vault key: put that file "
            "back, or set the key.",
        )


@dataclass(frozen=True)
class Settings:
    """Everything an operator can choose, checked. Contains secrets; its `repr` masks them."""

    #: SQLAlchemy URL; its password is a secret.
    database_url: str = field(repr=False)
    keyring_path: Path
    #: `None` where nobody is told of events.
    endpoints_path: Path | None
    #: Those of FLASK_VAULT_KEYS: the first seals, all open. Empty where it is not set: see `open_vault_keys`.
    vault_keys: tuple[bytes, ...] = field(repr=False)
    #: Bearer keys by the name they are logged under.
    api_keys: Mapping[str, Secret]
    #: Those of `api_keys` that may read codes and tokens; `None` when any may.
    token_key_names: frozenset[str] | None
    #: Bearer keys that may read `/metrics` and nothing else, by name.
    metrics_keys: Mapping[str, Secret]
    metrics_open: bool
    notify_path: str
    #: What Alipay signs: differs from `notify_path` behind a proxy that rewrites paths.
    public_notify_path: str
    #: Deliveries with an older request-time are refused; `None` accepts any age.
    freshness: timedelta | None
    #: The folder of files for which no other place is set.
    instance_path: Path
    #: Whether the service is ready only while a synchronous standby confirms commits.
    is_replicated: bool = False
    #: The files that secrets were read from: those of the settings that end in _FILE.
    secret_files: tuple[Path, ...] = field(default=(), compare=False)
    #: Sentences about settings that can be used, and are probably not meant so.
    warnings: tuple[str, ...] = ()

    @property
    def database_asked(self) -> str:
        """The address of the database, for people: without its password, and without options, which may hold one."""
        from sqlalchemy.engine import make_url  # noqa: PLC0415 -- imported late: who needs no database need not wait for it

        url = make_url(self.database_url)
        if self.uses_sqlite:
            return f"sqlite:///{url.database}"
        hosts, port = url.query.get("host", url.host or ""), url.port and f":{url.port}"
        host = ",".join([hosts] if isinstance(hosts, str) else hosts)
        user = f"{url.username}@" if url.username else ""
        return f"postgresql://{user}{host}{port or ''}/{url.database or ''}"

    @property
    def uses_default_database(self) -> bool:
        """Whether FLASK_DATABASE_URL is not set."""
        return self.database_url == _default_database_url(self.instance_path)

    @property
    def uses_only_defaults(self) -> bool:
        """Whether nothing is set that an installation has: so it is in the first steps, or where its file is not read.

        What can be set beside that makes no installation.
        """
        is_default_keyring = self.keyring_path == self.instance_path / "keyring.toml"
        return self.uses_default_database and is_default_keyring and not self.api_keys and not self.vault_keys

    @property
    def slip_for_database_url(self) -> str:
        """The sentence about a name that is probably meant to be FLASK_DATABASE_URL, which is not set; or nothing."""
        meant = ("FLASK_DATABASE_URL is probably meant.", "FLASK_DATABASE_URL_FILE is probably meant.")
        slips = [each for each in self.warnings if each.endswith(meant)]
        return slips[0] if slips and self.uses_default_database else ""

    @property
    def sqlite_file(self) -> Path | None:
        """The file of an SQLite database; `None` where its URL names it in the manner of SQLite itself."""
        return _sqlite_file(self.database_url)

    @property
    def uses_sqlite(self) -> bool:
        """Whether the embedded default database is used."""
        return self.database_url.startswith("sqlite")


def read_settings(environ: Mapping[str, str], *, instance_path: Path) -> Settings:
    """Read and check every setting, and write nothing.

    Raises `SettingError` where a setting is missing or cannot be used.
    """
    given = _given(environ)
    _refuse_quotes(given)
    database_url = _database_url(given, instance_path)
    notify_path = _notify_path(given)
    freshness = _freshness(given)
    api_keys = _bearer_keys(given, "FLASK_API_KEYS")
    token_keys = _bearer_keys(given, "FLASK_TOKEN_KEYS") if "FLASK_TOKEN_KEYS" in given else None
    return Settings(
        database_url=database_url,
        keyring_path=read_keyring_path(environ, instance_path=instance_path),
        endpoints_path=_endpoints_path(given, instance_path),
        vault_keys=_given_vault_keys(given),
        api_keys=_united("FLASK_TOKEN_KEYS", api_keys, token_keys or {}),
        token_key_names=None if token_keys is None else _names_of(token_keys, api_keys),
        metrics_keys=_metrics_keys(given, {**api_keys, **(token_keys or {})}),
        metrics_open=_switch(given, "FLASK_METRICS_OPEN"),
        notify_path=notify_path,
        public_notify_path=_public_notify_path(given, notify_path),
        freshness=freshness,
        instance_path=instance_path,
        is_replicated=_is_replicated(given, database_url),
        secret_files=tuple(Path(given[name + _FILE]) for name in sorted(SECRETS) if name + _FILE in given),
        warnings=(*_misspelled(given), *_quoted(given), *_too_fresh(freshness)),
    )


def read_keyring_path(environ: Mapping[str, str], *, instance_path: Path) -> Path:
    """Read where the keyring is, and no other setting: some commands need no more."""
    return Path(_given(environ).get("FLASK_KEYRING", instance_path / "keyring.toml"))


def _endpoints_path(given: Mapping[str, str], instance_path: Path) -> Path | None:
    """Say where the endpoints are: where the setting says, or in the instance folder, if they are there."""
    if "FLASK_ENDPOINTS" in given:
        return Path(given["FLASK_ENDPOINTS"])
    path = instance_path / "endpoints.toml"
    return path if path.exists() else None


def _given(environ: Mapping[str, str]) -> dict[str, str]:
    # A file from Windows leaves a carriage return at the end of each value; no setting has blanks around it.
    stripped = {name: value.strip() for name, value in environ.items()}
    # A variable that is set to nothing is how shells and compose files say "unset".
    return _with_files({name: value for name, value in stripped.items() if value})


def _with_files(given: Mapping[str, str]) -> dict[str, str]:
    """Read the secrets that are given as files, as Docker, Kubernetes and systemd hand them over."""
    read = dict(given)
    for name in SECRETS:
        path = given.get(name + _FILE)
        if not path:
            continue
        if name in given:
            raise SettingError(name + _FILE, f"and {name} are both set: choose one.")
        try:
            read[name] = Path(path).read_text(encoding="utf-8-sig").strip()
        except (OSError, ValueError) as error:
            raise SettingError(name + _FILE, f"names {path}, which cannot be read: {_why(error)}.") from None
        if not read[name]:
            raise SettingError(name + _FILE, f"names {path}, which is empty.")
    return read


def _misspelled(given: Mapping[str, str]) -> Iterator[str]:
    known = {name + suffix for name in NAMES for suffix in ("", _FILE) if not suffix or name in SECRETS}
    for name in sorted(given):
        if name in known:
            continue
        for meant in sorted(known):
            if _is_one_slip(name, meant):
                yield f"{name} is no setting and is ignored: {meant} is probably meant."


def _refuse_quotes(given: Mapping[str, str]) -> None:
    """Refuse a value in quotes where none can have them. Raises `SettingError`."""
    for name in NAMES:
        if name not in _KEY_LISTS and _is_quoted(given.get(name, "")):
            raise SettingError(name, f"has quotes around its value, and they are taken as part of it: {_UNQUOTED}.")


def _quoted(given: Mapping[str, str]) -> Iterator[str]:
    """Name lists of keys in quotes: a key may have any character."""
    for name in _KEY_LISTS:
        if _is_quoted(given.get(name, "")):
            yield f"{name} has quotes around its value, and they are taken as part of its keys: {_UNQUOTED}."


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] and value[0] in "'\""


def _is_one_slip(name: str, meant: str) -> bool:
    """Whether one letter is missing, added or different, or two neighbors have changed places."""
    pairs = enumerate(zip(name, meant, strict=False))
    begin = next((index for index, (letter, other) in pairs if letter != other), min(len(name), len(meant)))
    rest, rest_meant = name[begin:], meant[begin:]
    return (
        rest[1:] == rest_meant
        or rest == rest_meant[1:]
        or rest[1:] == rest_meant[1:]
        or (rest[1::-1] == rest_meant[:2] and rest[2:] == rest_meant[2:])
    )


def _too_fresh(freshness: timedelta | None) -> Iterator[str]:
    if freshness is not None and freshness < timedelta(seconds=FRESHNESS_SECONDS_MIN):
        yield (
            f"FLASK_FRESHNESS_SECONDS is below {FRESHNESS_SECONDS_MIN}: genuine redeliveries, which come for more than "
            "a day, are refused and lost."
        )


def _metrics_keys(given: Mapping[str, str], others: Mapping[str, Secret]) -> dict[str, Secret]:
    """Read the keys that may read the metrics and nothing else. None may be an API key as well."""
    keys = _bearer_keys(given, "FLASK_METRICS_KEYS")
    for label, key in keys.items():
        if key in others.values():
            raise SettingError("FLASK_METRICS_KEYS", f"has a key ({label}) that may use the API as well: make another.")
    return keys


def _database_url(given: Mapping[str, str], instance_path: Path) -> str:
    name = "FLASK_DATABASE_URL"
    if name not in given:
        return _default_database_url(instance_path)
    url = given[name].strip()
    # Hosting platforms still hand out the scheme that SQLAlchemy no longer reads.
    if url.startswith("postgres://"):
        url = "postgresql://" + url.removeprefix("postgres://")
    scheme = url.partition("://")[0]
    if scheme.partition("+")[0] not in {"sqlite", "postgresql"} or "://" not in url:
        raise SettingError(name, "must be a URL that starts with postgresql:// or sqlite:///.")
    if scheme not in {"sqlite", "postgresql", "postgresql+psycopg"}:
        raise SettingError(name, f"names the driver {scheme}, but only psycopg 3 is supported: write postgresql://.")
    if scheme == "sqlite" and (url.endswith(":memory:") or len(url) <= len("sqlite:///")):
        raise SettingError(name, "must name an SQLite file: a database in memory would forget what was acknowledged.")
    if _BAD_PREPARE_THRESHOLD.search(url):
        raise SettingError(name, "has a prepare_threshold that is neither a whole number nor none.")
    _require_usable_url(name, url)
    return url


def _is_replicated(given: Mapping[str, str], database_url: str) -> bool:
    """Say whether commits are to outlive the machine of the database."""
    name = "FLASK_DURABILITY"
    value = given.get(name, "local")
    if value not in {"local", "replicated"}:
        raise SettingError(name, "must be local or replicated.")
    if value == "replicated" and database_url.startswith("sqlite"):
        raise SettingError(name, "can be replicated with PostgreSQL only: an SQLite file is on one machine.")
    return value == "replicated"


def _default_database_url(instance_path: Path) -> str:
    return f"sqlite:///{instance_path / 'notifyauth.db'}"


def _require_usable_url(name: str, url: str) -> None:
    """Refuse a URL that a driver would refuse in a traceback, with the password in it.

    Nothing of the URL is quoted: where it is split in the wrong place, any part may be one of the password.
    """
    from psycopg import Error as DriverError  # noqa: PLC0415 -- imported late: who needs no database need not wait for it
    from sqlalchemy.engine import make_url  # noqa: PLC0415 -- imported late: who needs no database need not wait for it
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415 -- imported late: who needs no database need not wait for it

    if url.startswith("postgresql") and url.count("@") > 1:
        raise SettingError(name, f"has more than one @. {_ESCAPED}")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise SettingError(name, f"cannot be read: its port is not a number. {_ESCAPED}") from None
    try:
        if parsed.get_backend_name() == "sqlite":
            _require_sqlite_options(parsed)
        else:
            _require_libpq_options(parsed)
    except (ArgumentError, ValueError, DriverError):
        raise SettingError(
            name,
            "has a host, a port or an option behind its ? that cannot be used: with postgresql:// those are allowed "
            "that libpq knows, with sqlite:/// those of Python's sqlite3.connect.",
        ) from None


def _require_sqlite_options(url: "URL") -> None:
    # With a URI, SQLite itself reads the options.
    if "uri" not in url.query and not set(url.query) <= _OPTIONS_OF_SQLITE:
        raise ValueError
    url.get_dialect()().create_connect_args(url)


def _require_libpq_options(url: "URL") -> None:
    from psycopg.conninfo import make_conninfo, timeout_from_conninfo  # noqa: PLC0415 -- imported late: who needs no database need not wait for it

    if any(not isinstance(url.query.get(option, ""), str) for option in _OPTIONS_OF_PSYCOPG):
        # Given twice.
        raise ValueError
    _, options = url.get_dialect()().create_connect_args(url)
    given = {key: value for key, value in options.items() if key not in _OPTIONS_OF_PSYCOPG}
    make_conninfo(**given)
    timeout_from_conninfo(given)
    for port in filter(None, str(given.get("port", "")).split(",")):
        if not 0 < int(port) <= _PORT_MAX:
            raise ValueError
    if any("\0" in str(value) for value in given.values()):
        raise ValueError


def _given_vault_keys(given: Mapping[str, str]) -> tuple[bytes, ...]:
    name = "FLASK_VAULT_KEYS"
    return _vault_keys(name, given[name]) if name in given else ()


def open_vault_keys(settings: Settings) -> tuple[bytes, ...]:
    """Return the vault keys that are set or, with SQLite, those of a file, which is made with one the first time.

    Only code that seals or opens calls this, so that `--help` makes no key. Raises `SettingError`.
    """
    if settings.vault_keys:
        return settings.vault_keys
    name = "FLASK_VAULT_KEYS"
    if not settings.uses_sqlite:
        raise SettingError(
            name,
            "must be set when FLASK_DATABASE_URL is not SQLite: to what this database was used with, or for a new "
            "database to one that you make with: flask keys new-vault-key",
        )
    path = settings.instance_path / "vault.key"
    if not path.exists() and _holds_index_key(settings.sqlite_file):
        raise VaultKeyLostError(path)
    try:
        return _vault_keys(str(path), _made_once(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(name, f"is not set, and {path} cannot be used: {_why(error)}.") from None


def _why(error: OSError | ValueError) -> str:
    """Say for a person what is wrong with a file."""
    if isinstance(error, OSError):
        return error.strerror or "it cannot be read"
    return "it is no text" if isinstance(error, UnicodeDecodeError) else "its name cannot be that of a file"


def _vault_keys(name: str, text: str) -> tuple[bytes, ...]:
    return tuple(_vault_key(name, each) for each in text.split(","))


def _vault_key(name: str, text: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
        found = f"one of {len(key)} bytes" if key else "one that is empty"
    except (binascii.Error, ValueError):
        key, found = b"", "one that is no base64 (a character was lost or added)"
    if len(key) != VAULT_KEY_BYTES:
        raise SettingError(
            name,
            f"must be comma-separated base64 of 32 bytes each, and has {found}: set what this database was used with, "
            "for a new key opens nothing of it. Only for a database that was never used make one with: flask keys "
            "new-vault-key",
        )
    return key


def new_vault_key() -> str:
    """Make a vault key, as `FLASK_VAULT_KEYS` takes it: base64 of 32 random bytes."""
    return base64.b64encode(secrets.token_bytes(VAULT_KEY_BYTES)).decode()


def _sqlite_file(database_url: str) -> Path | None:
    from sqlalchemy.engine import make_url  # noqa: PLC0415 -- imported late: who needs no database need not wait for it

    url = make_url(database_url)
    is_path = url.get_backend_name() == "sqlite" and "uri" not in url.query
    return Path(url.database or "") if is_path else None


def _holds_index_key(file: Path | None) -> bool:
    """Say whether a vault key has been used with an SQLite database. For one that cannot be read the answer is yes.

    Asked only where the file of the vault key is missing, before anything else looks at the database.
    """
    if file is None or not file.exists():
        return False
    try:
        # mode=rw makes no file, and leaves no journal behind as read-only does.
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            return connection.execute("SELECT 1 FROM index_key").fetchone() is not None
    except sqlite3.OperationalError as error:
        return error.sqlite_errorcode != sqlite3.SQLITE_ERROR  # So SQLite says that there is no such table.
    except sqlite3.DatabaseError:
        return True


def make_private_folder(path: Path) -> None:
    """Make a folder that only its owner may use; of one that all may write to, make one that only the owner may."""
    path.mkdir(mode=_OWNER_ONLY, parents=True, exist_ok=True)
    if path.stat().st_mode & stat.S_IWOTH:
        path.chmod(_OWNER_ONLY)


def _made_once(path: Path) -> str:
    """Read the file, or make it with a new key; of several processes at once all get the same one."""
    if not path.exists():
        make_private_folder(path.parent)
        # A temporary file is private from the start; a link appears whole or not at all and never replaces.
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:
            file.write(new_vault_key() + "\n")
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(file.name, path)
                _log.warning("a vault key was made: keep a copy, apart from the database", extra={"path": path})
    return path.read_text(encoding="ascii")


def _bearer_keys(given: Mapping[str, str], name: str) -> dict[str, Secret]:
    """Read `key` or `name=key`, comma-separated; a key without a name goes by the start of its digest."""
    keys: dict[str, Secret] = {}
    for item in filter(None, (part.strip() for part in given.get(name, "").split(","))):
        label, _, key = item.partition("=")
        if item == f"{label}=" and len(item) < _UNNAMED_KEY_LENGTH_MIN:
            raise SettingError(name, f"gives {label} an empty key." if label else "has an empty key.")
        # Base64 ends in "=": such a key is not a name with an empty key.
        if not key.strip("=") or not _KEY_NAME.fullmatch(label):
            label, key = f"key-{hashlib.sha256(item.encode()).hexdigest()[:8]}", item
        if not key.isascii() or not key.isprintable() or " " in key:
            raise SettingError(name, f"has a key ({label}) with a character that no Authorization header can carry.")
        if label in keys:
            raise SettingError(name, f"names two keys {label}: every name goes with one key.")
        keys[label] = Secret(key)
    return keys


def _united(name: str, keys: Mapping[str, Secret], more: Mapping[str, Secret]) -> dict[str, Secret]:
    """Join the two lists: a key that may read tokens may also use the rest of the API."""
    united = dict(keys)
    for label, key in more.items():
        if label in united and united[label] != key:
            raise SettingError(name, f"gives {label} another key than FLASK_API_KEYS does: choose one.")
        if key not in united.values():
            united[label] = key
    return united


def _names_of(token_keys: Mapping[str, Secret], api_keys: Mapping[str, Secret]) -> frozenset[str]:
    """Say under which names the token keys are known, a key that both lists hold by its name as an API key."""
    known = {key.reveal(): label for label, key in api_keys.items()}
    return frozenset(known.get(key.reveal(), label) for label, key in token_keys.items())


def _switch(given: Mapping[str, str], name: str) -> bool:
    value = given.get(name, "0")
    if value not in {"0", "1"}:
        raise SettingError(name, "must be 0 or 1.")
    return value == "1"


def _notify_path(given: Mapping[str, str]) -> str:
    name = "FLASK_NOTIFY_PATH"
    path = given.get(name, DEFAULT_NOTIFY_PATH)
    if not _PATH.fullmatch(path):
        raise SettingError(name, "must be a plain path such as /alipay/notifyAuthorization: no query, no blank.")
    if "%" in path:
        raise SettingError(
            name,
            "must not have a % in it: servers decode a path before they look where it leads. "
            "Let a proxy rewrite it, and set FLASK_PUBLIC_NOTIFY_PATH to what Alipay calls.",
        )
    if any(path == taken or path.startswith(taken + "/") for taken in _TAKEN_PATHS):
        raise SettingError(name, f"must not be {path}: the service answers there itself.")
    return path


def _public_notify_path(given: Mapping[str, str], notify_path: str) -> str:
    name = "FLASK_PUBLIC_NOTIFY_PATH"
    path = given.get(name, notify_path)
    if not _PUBLIC_PATH.fullmatch(path):
        raise SettingError(
            name, "must be a plain path, as it stands in the URL that Alipay calls: no host, no query, no blank."
        )
    return path


def _freshness(given: Mapping[str, str]) -> timedelta | None:
    name = "FLASK_FRESHNESS_SECONDS"
    if name not in given:
        return None
    text = given[name]
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise SettingError(name, "must be a whole number of seconds above 0; leave it unset to accept any age.")
    return timedelta(seconds=int(text))
