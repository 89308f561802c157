"""Put the parts together, once for each process, and check them before anything is served."""

import logging
import threading
from collections.abc import Mapping
from functools import cached_property, partial

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.alipay.keyring import Keyring
from app.config import Settings
from app.database import Database, DatabaseUnavailableError, UnfitDatabaseError, insert, name_of
from app.database.files import tighten
from app.models import IndexKey
from app.preflight import (
    NEWER,
    OK,
    NotMigratedError,
    OutdatedReleaseError,
    check_database,
    waits_for_standby,
)
from app.receiver import Receiver
from app.resuming import keep_looking
from app.vault import INDEX_KEY_COLUMN, Sealer, Vault, VaultError, new_index_key

_log = logging.getLogger(__name__)

#: The table has one row, and this is it.
INDEX_KEY_ID = 1

_FIND_INDEX_KEY = select(IndexKey.sealed_key).where(IndexKey.id == INDEX_KEY_ID)


class WrongVaultKeyError(Exception):
    """The vault keys are not those under which this database was sealed."""

    def __init__(self, error: VaultError) -> None:
        super().__init__(
            f"FLASK_VAULT_KEYS does not open this database. {error} Set the keys that it was used with before."
        )


class Service:
    """The parts of one service. Each is made when first needed, so that a command needs only what it uses."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._vault: Vault | None = None
        self._receiver: Receiver | None = None
        self._checks_before = {"database": OK, "migrated": OK, "vault": OK}

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
    def sealer(self) -> Sealer:
        """What seals and opens under FLASK_VAULT_KEYS."""
        return Sealer(self.settings.vault_keys)

    @property
    def vault(self) -> Vault:
        """The vault of this database, whose index key is made the first time.

        Raises `NotMigratedError`, `OutdatedReleaseError`, `WrongVaultKeyError` and `DatabaseUnavailableError`.
        """
        # No lock is held meanwhile: behind a silent database threads would wait for each other. Two do no harm.
        if self._vault is None:
            self._vault = self._made_vault()
        return self._vault

    def _made_vault(self) -> Vault:
        if (found := self._check_database()) != OK:
            _log.info("the database is newer than this release", extra={"migrated": found})
        # Looking does not wait for writers, and making it is needed once in the life of a database.
        sealed = self.database.run(_index_key, read_only=True) or self.database.run(self._made_index_key)
        return Vault(self.sealer, self._opened(sealed))

    @property
    def receiver(self) -> Receiver:
        """What receives, replays and records. Raises what its parts raise."""
        if self._receiver is None:
            self._receiver = Receiver(self.database, self.keyring, self.vault, freshness=self.settings.freshness)
        return self._receiver

    @property
    def has_receiver(self) -> bool:
        """Whether the receiver is made, so that using it asks neither a file nor the database."""
        return self._receiver is not None

    @cached_property
    def unsafe_durability_settings(self) -> dict[str, str]:
        """Under which settings of the database what is acknowledged may be gone after a power cut; logged once."""
        found = self.database.unsafe_durability_settings()
        for name, value in found.items():
            _log.warning("the database may forget what is acknowledged", extra={"setting": name, "value": value})
        return found

    @cached_property
    def has_suitable_pool(self) -> bool:
        """Whether a pool before the database, if there is one, keeps what is needed; asked until it does.

        Raises `UnfitDatabaseError` and `DatabaseUnavailableError`.
        """
        self.database.check_pool()
        return True

    def open_all(self) -> None:
        """Make every part now. Raises what they raise: a service that starts is one that can work."""
        if self.settings.sqlite_file is not None and not tighten(self.settings.sqlite_file):
            _log.warning(
                "every account of the machine may read the database", extra={"path": self.settings.sqlite_file}
            )
        _ = self.keyring, self.has_suitable_pool, self.receiver, self.unsafe_durability_settings
        if (reason := self.database.why_not_writable()) is not None:
            # It may be written to again while the service runs.
            _log.warning("the database takes nothing", extra={"reason": reason})

    def start_resuming(self) -> None:
        """Look, from now on and in a thread of its own, for parked entries that any process has left to be resumed.

        The process that leaves them goes on at once: this is for those whose process has died since.
        """
        # No daemon, which the interpreter would stop at whatever it is doing: it ends with the main thread.
        ends_with = threading.main_thread()
        look = partial(keep_looking, self._resume_unfinished, is_over=lambda: not ends_with.is_alive())
        threading.Thread(target=look, name="look").start()

    def _resume_unfinished(self) -> None:
        # The database may have been away when the process started: then the receiver is made here.
        self.receiver.resume_unfinished()

    def ready(self) -> dict[str, str]:
        """Say for the database, its migration and the vault whether each is as it must be: `ok`, or what is wrong.

        Tables that are newer than this release are as they may be: `newer (…)`. What is wrong is logged once.
        """
        checks = self._checks()
        if checks != self._checks_before:
            _log.log(logging.INFO if is_ready(checks) else logging.WARNING, "readiness changed", extra=checks)
            self._checks_before = checks
        return checks

    def _checks(self) -> dict[str, str]:
        found = {"database": OK, "migrated": OK, "vault": OK}
        try:
            # Here too: a service may have started while the database was away.
            _ = self.has_suitable_pool
            found["migrated"] = self._check_database()
            _ = self.unsafe_durability_settings
            if (reason := self.database.why_not_writable()) is not None:
                found["database"] = reason
            elif self.database.run(waits_for_standby, read_only=True):
                found["database"] = "commits wait for a synchronous standby that is not there"
            sealed = self.database.run(_index_key, read_only=True)
            if sealed is not None:
                self._opened(sealed)
        except (DatabaseUnavailableError, SQLAlchemyError) as error:
            return {"database": _trouble(error), "migrated": "unknown", "vault": "unknown"}
        except NotMigratedError:
            return found | {"migrated": "run flask db upgrade", "vault": "unknown"}
        except OutdatedReleaseError as error:
            return found | {"migrated": f"too new ({error.revision}): install a newer release", "vault": "unknown"}
        except WrongVaultKeyError:
            return found | {"vault": "does not open"}
        return found

    def _check_database(self) -> str:
        """Check what is behind FLASK_DATABASE_URL. Raises what `check_database` raises."""
        if not self.database.is_there():
            raise NotMigratedError(None)
        return self.database.run(check_database, read_only=True)

    def _made_index_key(self, session: Session) -> bytes:
        """Make the index key; of several processes at once all get the same one."""
        row = INDEX_KEY_ID.to_bytes()
        fresh = self.sealer.seal(new_index_key(), column=INDEX_KEY_COLUMN, row_key=row)
        session.execute(insert(session, IndexKey).values(id=INDEX_KEY_ID, sealed_key=fresh).on_conflict_do_nothing())
        return session.scalars(_FIND_INDEX_KEY).one()

    def _opened(self, sealed: bytes) -> bytes:
        try:
            return self.sealer.open(sealed, column=INDEX_KEY_COLUMN, row_key=INDEX_KEY_ID.to_bytes())
        except VaultError as error:
            raise WrongVaultKeyError(error) from None


def _index_key(session: Session) -> bytes | None:
    return session.scalars(_FIND_INDEX_KEY).one_or_none()


def is_ready(checks: Mapping[str, str]) -> bool:
    """Say whether a service of which this was found can do its work."""
    return all(found == OK or found.startswith(f"{NEWER} ") for found in checks.values())


def _trouble(error: DatabaseUnavailableError | SQLAlchemyError) -> str:
    if isinstance(error, UnfitDatabaseError):
        return error.cause
    return f"unreachable: {error.cause if isinstance(error, DatabaseUnavailableError) else name_of(error)}"
