"""Wiring: the parts of one process (database, keyring, endpoints, vault, receiver), opened and checked.

A server opens all of them before it serves; a command only those that it uses.
"""

import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from app import inbox, index_key
from app.alipay.keyring import Keyring, KeyringError
from app.config import SettingError, Settings, open_vault_keys
from app.database import Database, DatabaseUnavailableError, UnfitDatabaseError, name_of
from app.database.files import tighten
from app.events.backlog import SILENCE_MAX, worker_seen_at
from app.events.endpoints import Endpoints
from app.index_key import WrongVaultKeyError
from app.long_polling import LongPolling
from app.preflight import (
    NEWER,
    OK,
    NoDatabaseFileError,
    NotMigratedError,
    OutdatedReleaseError,
    check_database,
    waits_for_standby,
    why_not_replicated,
)
from app.quarantine import Quarantine
from app.receiver import Receiver
from app.resuming import keep_looking
from app.vault import Sealer, UnknownVaultKeyError, Vault

_log = logging.getLogger(__name__)

#: How a database is named that is worked on although its operator has chosen that a power cut may take commits back.
FORGETS = "set to forget"
#: Begins what is said where no standby confirms commits, and FLASK_DURABILITY wants it.
NOT_REPLICATED = "not replicated: "
WAITS = "commits wait for a synchronous standby that is not there"
UNKNOWN = "unknown"
NOT_MIGRATED = "run flask db upgrade"
TOO_NEW = "too new"


class Service:
    """The parts of one process. Each is made when it is first needed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._vault: Vault | None = None
        self._receiver: Receiver | None = None
        self._is_pool_checked = False
        self._checks_before = {"database": OK, "migrated": OK, "vault": OK, "worker": OK}
        self._forgets_before: dict[str, str] = {}
        #: The requests that wait for something to happen.
        self.long_polling = LongPolling()

    # --- the parts, each after those that it needs ---

    @cached_property
    def database(self) -> Database:
        """The database of FLASK_DATABASE_URL; nothing is connected yet."""
        return Database(self.settings.database_url)

    @property
    def was_asked(self) -> bool:
        """Whether anything has used the database."""
        return "database" in vars(self)

    @cached_property
    def keyring(self) -> Keyring:
        """The keys of FLASK_KEYRING. Raises `KeyringError`."""
        return Keyring.load(self.settings.keyring_path)

    @cached_property
    def endpoints(self) -> Endpoints:
        """Those of FLASK_ENDPOINTS, if there are any. Raises `EndpointsError`."""
        return Endpoints.load(self.settings.endpoints_path)

    @cached_property
    def sealer(self) -> Sealer:
        """Seals and opens under FLASK_VAULT_KEYS, or under the key that is made where it is not set.

        Raises `SettingError`.
        """
        return Sealer(open_vault_keys(self.settings))

    @property
    def sealing_key_id(self) -> str | None:
        """The id of the vault key that seals, where the keys are set or in use already: asking for it makes none."""
        return self.sealer.key_ids[0] if self.settings.vault_keys or "sealer" in vars(self) else None

    @property
    def vault(self) -> Vault:
        """The vault of this database, once the database is checked. Its index key is made the first time.

        Raises `SettingError`, `NotMigratedError`, `OutdatedReleaseError`, `WrongVaultKeyError` and
        `DatabaseUnavailableError`.
        """
        # Without a lock: behind a silent database threads would wait for each other, and a second vault does no harm.
        if self._vault is None:
            self._require_vault_keys()
            if (found := self._check_database()) != OK:
                _log.info("the database is newer than this release", extra={"migrated": found})
            # To look does not wait for writers, and the key is made once in the life of a database.
            sealed = self.database.run(index_key.find_sealed, read_only=True)
            sealed = sealed or self.database.run(partial(index_key.make_sealed, sealer=self.sealer))
            self._vault = Vault(self.sealer, index_key.unseal(self.sealer, sealed))
        return self._vault

    def _require_vault_keys(self) -> None:
        """See that the keys are set, before a database that is away can hide that they are not. Raises `SettingError`.

        With SQLite one can be made, but only once there is a database for it.
        """
        if not self.settings.uses_sqlite:
            _ = self.sealer

    @property
    def receiver(self) -> Receiver:
        """Receives, replays and records. Raises what its parts raise."""
        if self._receiver is None:
            self._receiver = Receiver(
                self.database,
                self.keyring,
                self.vault,
                freshness=self.settings.freshness,
                when_refused=Quarantine(self.database, self.vault).offer,
            )
        return self._receiver

    def never_blocks(self, path: str) -> bool:
        """Say whether a request for this path blocks nowhere: the event loop answers it without a thread.

        A notification is verified, parsed and submitted, once there is a receiver. Making one asks the database.
        """
        return path == "/healthz" or (path == self.settings.notify_path and self._receiver is not None)

    # --- at the start of a server ---

    def open_all(self) -> None:
        """Make and check every part now. Raises what they raise: a service that starts is one that can work."""
        if self.settings.sqlite_file is not None and not tighten(self.settings.sqlite_file):
            _log.warning(
                "every account of the machine may read the database", extra={"path": self.settings.sqlite_file}
            )
        _ = self.keyring, self.endpoints
        self._require_vault_keys()
        self._check_pool()
        _ = self.receiver
        self._unsafe_durability_settings()
        if (reason := self.database.why_not_writable()) is not None:
            # No error: it may become writable while the service runs.
            _log.warning("the database is not writable", extra={"reason": reason})
        elif (reason := self._why_not_confirmed()) is not None:
            _log.warning("the database does not confirm commits as it should", extra={"reason": reason})

    def start_resuming(self) -> None:
        """Resume, from now on and in a thread of its own, the parked entries that a process which died left to resume.

        A living process resumes its own at once.
        """
        # Not a daemon, which the interpreter would stop in the middle of its work: it ends with the main thread.
        ends_with = threading.main_thread()
        look = partial(keep_looking, self._resume_unfinished, is_over=lambda: not ends_with.is_alive())
        threading.Thread(target=look, name="look").start()

    def _resume_unfinished(self) -> None:
        # The database may have been away when the process started: then the receiver is made here.
        self.receiver.resume_unfinished()

    # --- readiness ---

    def ready(self) -> dict[str, str]:
        """Check the database, its migration and the vault: each is `ok`, or what is wrong with it.

        Tables that are newer than this release are in order: `newer (…)`. A database whose settings let a power
        cut take commits back is named and worked on: `set to forget (…)`. So is that no worker runs: what is received
        and reported is in order, and is told later. A change is logged once.
        """
        checks = self.check()
        if checks != self._checks_before:
            is_in_order = is_ready(checks) and checks["worker"] == OK
            _log.log(logging.INFO if is_in_order else logging.WARNING, "readiness changed", extra=checks)
            self._checks_before = checks
        return checks

    def check(self) -> dict[str, str]:
        """Check what `ready` checks, and log nothing of it."""
        found = {"database": OK, "migrated": OK, "vault": OK, "worker": UNKNOWN}
        try:
            # As at the start: the service may have started while the database was away.
            self._check_pool()
            found["migrated"] = self._check_database()
            if forgets := self._unsafe_durability_settings():
                settings = ", ".join(f"{name} = {value}" for name, value in sorted(forgets.items()))
                found["database"] = f"{FORGETS} ({settings})"
            if (reason := self.database.why_not_writable() or self._why_not_confirmed()) is not None:
                found["database"] = reason
            found["worker"] = self.worker_check()
            sealed = self.database.run(index_key.find_sealed, read_only=True)
            if sealed is not None:
                index_key.unseal(self.sealer, sealed)
                found["vault"] = self._newest_entry_check()
        except (DatabaseUnavailableError, SQLAlchemyError) as error:
            return {"database": _trouble(error), "migrated": UNKNOWN, "vault": UNKNOWN, "worker": UNKNOWN}
        except NotMigratedError:
            return found | {"migrated": NOT_MIGRATED, "vault": UNKNOWN}
        except OutdatedReleaseError as error:
            return found | {"migrated": f"{TOO_NEW} ({error.revision}): install a newer release", "vault": UNKNOWN}
        except WrongVaultKeyError:
            return found | {"vault": "does not open"}
        except SettingError as error:
            # Only where a server was started that does not open everything first, as `flask run` does.
            return found | {"vault": str(error)}
        return found

    def _newest_entry_check(self) -> str:
        """Say whether what the machines seal now opens here too. Raises `DatabaseUnavailableError`."""
        newest = self.database.run(inbox.newest_sealed_body, read_only=True)
        try:
            if newest is not None:
                self.sealer.open(newest.sealed_body, column=inbox.BODY_COLUMN, row_key=newest.fingerprint)
        except UnknownVaultKeyError as error:
            return f"does not open what another machine seals: vault key {error.key_id} is missing here"
        return OK

    def worker_check(self) -> str:
        """Say whether a background worker runs, on any machine. Raises `DatabaseUnavailableError`."""
        seen_at = self.database.run(worker_seen_at, read_only=True)
        if seen_at is not None and datetime.now(UTC) - seen_at < SILENCE_MAX:
            return OK
        since = "none has run yet" if seen_at is None else f"none has since {seen_at:%Y-%m-%dT%H:%M:%SZ}"
        what = "nothing is told, and no call to Alipay is made," if self._makes_calls() else "nothing is told"
        return f"no worker runs ({since}): {what} until flask work or flask serve without --no-work does"

    def _makes_calls(self) -> bool:
        """Say whether the service makes the calls of a client. A keyring that cannot be read now is named elsewhere."""
        with suppress(KeyringError):
            return any(each.gateway is not None for each in self.keyring.clients.values())
        return False

    # --- checks of the database ---

    def _check_pool(self) -> None:
        """Check, until it succeeds once, that a pool before the database keeps the settings of a session.

        Raises `UnfitDatabaseError` and `DatabaseUnavailableError`.
        """
        if not self._is_pool_checked:
            self.database.check_pool()
            self._is_pool_checked = True

    @property
    def no_database_file(self) -> NoDatabaseFileError:
        """The error that says of an SQLite file that is not there what is probably wrong."""
        settings = self.settings
        return NoDatabaseFileError(
            settings.sqlite_file or Path(),
            is_default=settings.uses_default_database,
            slip=settings.slip_for_database_url,
        )

    def _check_database(self) -> str:
        """Check the migration and the privileges. Raises what `check_database` raises."""
        if not self.database.is_there():
            raise self.no_database_file
        return self.database.run(check_database, read_only=True)

    def _why_not_confirmed(self) -> str | None:
        """Say why no commit is confirmed, or none as FLASK_DURABILITY wants it. Raises `DatabaseUnavailableError`."""
        if self.database.run(waits_for_standby, read_only=True):
            return WAITS
        return self.database.run(why_not_replicated, read_only=True) if self.settings.is_replicated else None

    def _unsafe_durability_settings(self) -> dict[str, str]:
        """Name the settings under which the database forgets commits in a power cut; each is logged when it changes.

        Raises `DatabaseUnavailableError`.
        """
        found = self.database.unsafe_durability_settings()
        before, self._forgets_before = self._forgets_before, found
        for name, value in found.items():
            if before.get(name) != value:
                _log.warning("the database is set to forget commits", extra={"setting": name, "value": value})
        for name in before.keys() - found.keys():
            _log.info("the database is set to keep commits again", extra={"setting": name})
        return found


def is_ready(checks: Mapping[str, str]) -> bool:
    """Say whether a service with these checks can receive and answer; a worker may run elsewhere, or later."""
    return all(
        found == OK or found.startswith((f"{NEWER} ", f"{FORGETS} "))
        for name, found in checks.items()
        if name != "worker"
    )


def conditions(checks: Mapping[str, str]) -> Mapping[str, bool]:
    """Say of everything that can be wrong with the database, by a fixed name for alerts, whether it is so."""
    database, migrated, vault = (checks[name] for name in ("database", "migrated", "vault"))
    is_unavailable, forgets = migrated == UNKNOWN, database.startswith(f"{FORGETS} ")
    waits = database == WAITS or database.startswith(NOT_REPLICATED)
    return {
        "unavailable": is_unavailable,
        "not_writable": not (is_unavailable or forgets or waits or database == OK),
        "unsafe_durability": forgets,
        "standby_missing": waits,
        "not_migrated": migrated == NOT_MIGRATED,
        "newer_schema": migrated.startswith((f"{NEWER} ", f"{TOO_NEW} ")),
        "vault_closed": vault not in {OK, UNKNOWN},
    }


def _trouble(error: DatabaseUnavailableError | SQLAlchemyError) -> str:
    if isinstance(error, UnfitDatabaseError):
        return error.cause
    return f"unreachable: {error.cause if isinstance(error, DatabaseUnavailableError) else name_of(error)}"
