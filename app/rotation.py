"""Seal again, under the first vault key, what was sealed under an older one; a batch at a time, while others work."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import LargeBinary, Row, func, inspect, select, tuple_, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from app import authorizations, inbox, tokens
from app.database.contents import estimated_rows, keys_in
from app.models import AccessToken, Authorization, Base, InboxEntry, IndexKey
from app.vault import INDEX_KEY_COLUMN, Vault

#: A re-sealed batch holds its row locks, and SQLite's only one, for a tenth of a second.
BATCH_SIZE_MAX = 100
#: Keys alone are read in a few milliseconds.
WINDOW_SIZE_MAX = 1000

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column of sealed values, and which row each is sealed for."""

    column: InstrumentedAttribute[Any]
    place: str
    row: Callable[[Any], bytes]

    @property
    def model(self) -> type[Base]:
        """The table that the column is of."""
        return cast("type[Base]", self.column.class_)


#: Every column that holds sealed values; a test compares it with the models.
DRAWERS = (
    SealedColumn(Authorization.sealed_auth_code, authorizations.CODE_COLUMN, lambda row: row.id.bytes),
    SealedColumn(Authorization.sealed_login_id, authorizations.LOGIN_ID_COLUMN, lambda row: row.id.bytes),
    SealedColumn(Authorization.sealed_cancel_reason, authorizations.CANCEL_REASON_COLUMN, lambda row: row.id.bytes),
    SealedColumn(AccessToken.sealed_access_token, tokens.ACCESS_TOKEN_COLUMN, lambda row: row.token_index),
    SealedColumn(AccessToken.sealed_refresh_token, tokens.REFRESH_TOKEN_COLUMN, lambda row: row.token_index),
    SealedColumn(InboxEntry.sealed_body, inbox.BODY_COLUMN, lambda row: row.fingerprint),
    # The last: as long as it opens only under the old key, that key is still known to be needed.
    SealedColumn(IndexKey.sealed_key, INDEX_KEY_COLUMN, lambda row: row.id.to_bytes()),
)


@dataclass(frozen=True, slots=True)
class Resealed:
    """What one batch did."""

    #: How many values it sealed again.
    count: int
    #: Of how many it looked at.
    seen: int
    #: The key of the last row it looked at; `None` when there is nothing further.
    up_to: Key | None


def reseal_batch(
    session: Session,
    vault: Vault,
    drawer: SealedColumn,
    *,
    after: Key | None,
    limit: int = BATCH_SIZE_MAX,
    window: int = WINDOW_SIZE_MAX,
) -> Resealed:
    """Seal again up to `limit` values among the next `window` rows, in the order of their keys.

    Rows without a value, or with one that is sealed as it should be, count too: a search for the next ones that are not
    could read a whole table. A value that somebody else writes at the same moment is left to them: it is under the
    first key already. Raises `VaultError` where a value opens under none of the keys.
    """
    model, column, prefix = drawer.model, drawer.column, vault.sealer.sealing_prefix
    keys = _primary_key(model)
    is_outdated = func.substr(column, 1, len(prefix), type_=LargeBinary) != prefix
    statement = select(*keys, is_outdated.label("is_outdated")).order_by(*keys).limit(window)
    if after is not None:
        statement = statement.where(tuple_(*keys) > tuple_(*after))
    seen = session.execute(statement).all()
    outdated = [number for number, row in enumerate(seen) if row.is_outdated]
    if len(outdated) > limit:
        outdated = outdated[:limit]
        seen = seen[: outdated[-1] + 1]
    count = 0
    for row in rows_of(session, drawer, [_key_of(seen[number], keys) for number in outdated]):
        count += _reseal(session, vault, drawer, keys, row)
    return Resealed(count, len(seen), _key_of(seen[-1], keys) if seen else None)


def rows_of(session: Session, drawer: SealedColumn, wanted: Sequence[Key]) -> Sequence[Base]:
    """Read the rows with these keys, in their order."""
    if not wanted:
        return []
    keys = _primary_key(drawer.model)
    return session.scalars(select(drawer.model).where(keys_in(keys, wanted)).order_by(*keys)).all()


def _reseal(
    session: Session, vault: Vault, drawer: SealedColumn, keys: Sequence[InstrumentedAttribute[Any]], row: Base
) -> int:
    """Seal the value of one row again, unless somebody else has written it; return how many that were."""
    old = getattr(row, drawer.column.key)
    plain = vault.open_bytes(old, column=drawer.place, row_key=drawer.row(row))
    fresh = vault.seal(plain, column=drawer.place, row_key=drawer.row(row))
    same = [column == value for column, value in zip(keys, _key_of(row, keys), strict=True)]
    replaced = session.execute(
        update(drawer.model).where(*same, drawer.column == old).values({drawer.column.key: fresh}).returning(keys[0]),
        execution_options={"synchronize_session": False},
    )
    return len(replaced.all())


def rows_to_look_at(session: Session) -> int | None:
    """Estimate how many rows a whole re-sealing looks at, for a progress bar; `None` where nobody knows."""
    estimates = [estimated_rows(session, drawer.model) for drawer in DRAWERS]
    known = [each for each in estimates if each is not None]
    return sum(known) if known else None


def _primary_key(model: type[Base]) -> Sequence[InstrumentedAttribute[Any]]:
    return [getattr(model, column.name) for column in inspect(model).primary_key]


def _key_of(row: Base | Row[*tuple[Any, ...]], keys: Sequence[InstrumentedAttribute[Any]]) -> Key:
    return tuple(getattr(row, column.key) for column in keys)
