"""The index key: the key of all blind indexes of a database, made once and stored sealed in a table of one row.

Under a wrong vault key that row does not open, which is how the start notices it.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.database.bulk import insertion
from app.database.pipeline import execute, plain
from app.models import IndexKey
from app.vault import INDEX_KEY_COLUMN, Sealer, VaultError, new_index_key

#: The id of the one row.
INDEX_KEY_ID = 1

_FIND = select(IndexKey.sealed_key).where(IndexKey.id == INDEX_KEY_ID)


class WrongVaultKeyError(Exception):
    """The vault keys are not those under which this database was sealed."""

    def __init__(self, error: VaultError) -> None:
        super().__init__(
            f"FLASK_VAULT_KEYS does not open this database. {error} Set the keys that it was used with before."
        )


def find_sealed(session: Session) -> bytes | None:
    """Return the sealed index key; `None` where it was never made."""
    return session.scalars(_FIND).one_or_none()


def make_sealed(session: Session, sealer: Sealer) -> bytes:
    """Make the index key, and return it sealed; of several processes at once all get the same one."""
    fresh = sealer.seal(new_index_key(), column=INDEX_KEY_COLUMN, row_key=INDEX_KEY_ID.to_bytes())
    row = plain(IndexKey)(id=INDEX_KEY_ID, sealed_key=fresh)
    execute(session.connection(), insertion(IndexKey, [row], on_conflict="leave"))
    return session.scalars(_FIND).one()


def unseal(sealer: Sealer, sealed: bytes) -> bytes:
    """Open the index key. Raises `WrongVaultKeyError`."""
    try:
        return sealer.open(sealed, column=INDEX_KEY_COLUMN, row_key=INDEX_KEY_ID.to_bytes())
    except VaultError as error:
        raise WrongVaultKeyError(error) from None
