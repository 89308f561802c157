"""Seal again, under the first vault key, what was sealed under an older one; a batch at a time, while others work."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import func, inspect, select, tuple_, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from app import authorizations, inbox, tokens
from app.models import AccessToken, Authorization, Base, InboxEntry, IndexKey
from app.vault import INDEX_KEY_PLACE, Vault

#: A re-sealed batch holds its row locks, and SQLite's only one, for a tenth of a second.
BATCH_SIZE_MAX = 100

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Drawer:
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
    Drawer(Authorization.sealed_auth_code, authorizations.CODE_PLACE, lambda row: row.id.bytes),
    Drawer(Authorization.sealed_login_id, authorizations.LOGIN_ID_PLACE, lambda row: row.id.bytes),
    Drawer(Authorization.sealed_cancel_reason, authorizations.CANCEL_REASON_PLACE, lambda row: row.id.bytes),
    Drawer(AccessToken.sealed_access_token, tokens.ACCESS_TOKEN_PLACE, lambda row: row.token_index),
    Drawer(AccessToken.sealed_refresh_token, tokens.REFRESH_TOKEN_PLACE, lambda row: row.token_index),
    Drawer(InboxEntry.sealed_body, inbox.BODY_PLACE, lambda row: row.fingerprint),
    # The last: as long as it opens only under the old key, that key is still known to be needed.
    Drawer(IndexKey.sealed_key, INDEX_KEY_PLACE, lambda row: row.id.to_bytes()),
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
    session: Session, vault: Vault, drawer: Drawer, *, after: Key | None, limit: int = BATCH_SIZE_MAX
) -> Resealed:
    """Seal again what is outdated among the next `limit` rows that hold a value.

    A value that somebody else writes at the same moment is left to them: it is under the first key already. Raises
    `VaultError` where a value opens under none of the keys.
    """
    model = drawer.model
    keys = _primary_key(model)
    statement = select(model).where(drawer.column.is_not(None)).order_by(*keys).limit(limit)
    if after is not None:
        statement = statement.where(tuple_(*keys) > tuple_(*after))
    rows = session.scalars(statement).all()
    count = 0
    for row in rows:
        old = getattr(row, drawer.column.key)
        if old.startswith(vault.sealer.sealing_prefix):
            continue
        plain = vault.open_bytes(old, place=drawer.place, row=drawer.row(row))
        fresh = vault.seal(plain, place=drawer.place, row=drawer.row(row))
        same = [column == value for column, value in zip(keys, _key_of(row, keys), strict=True)]
        replaced = session.execute(
            update(model).where(*same, drawer.column == old).values({drawer.column.key: fresh}).returning(keys[0]),
            execution_options={"synchronize_session": False},
        )
        count += len(replaced.all())
    return Resealed(count, len(rows), _key_of(rows[-1], keys) if rows else None)


def rows_to_look_at(session: Session) -> int:
    """Count the rows a whole re-sealing looks at, for a progress bar."""
    counts: Iterable[int | None] = (
        session.scalar(select(func.count()).select_from(drawer.model).where(drawer.column.is_not(None)))
        for drawer in DRAWERS
    )
    return sum(count or 0 for count in counts)


def _primary_key(model: type[Base]) -> Sequence[InstrumentedAttribute[Any]]:
    return [getattr(model, column.name) for column in inspect(model).primary_key]


def _key_of(row: Base, keys: Sequence[InstrumentedAttribute[Any]]) -> Key:
    return tuple(getattr(row, column.key) for column in keys)
