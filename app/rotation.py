"""Key rotation: seal again, under the first vault key, what was sealed under an older one.

A batch is a transaction of its own, so that the service goes on working.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import LargeBinary, Row, func, inspect, select, tuple_, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from app import authorizations, calls, inbox, quarantine, tokens
from app.database.contents import any_of_keys, estimated_rows
from app.models import AccessToken, Authorization, Base, Call, InboxEntry, IndexKey, RefusedDelivery
from app.vault import INDEX_KEY_COLUMN, Vault

#: A re-sealed batch holds its row locks, and SQLite's only one, for a tenth of a second.
RESEALED_BATCH_SIZE_MAX = 100
#: Reading only the keys of so many rows takes a few milliseconds.
WINDOW_SIZE_MAX = 1000

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column of sealed values, and what each is sealed for: see `Vault.seal`."""

    attribute: InstrumentedAttribute[Any]
    #: `table.column`, which is authenticated with each value.
    name: str
    #: Says, of a row, the bytes that are authenticated with its value.
    row_key: Callable[[Any], bytes]

    @property
    def model(self) -> type[Base]:
        """The table that the column is of."""
        return cast("type[Base]", self.attribute.class_)


#: Every column that holds sealed values; a test compares it with the models.
SEALED_COLUMNS = (
    SealedColumn(Authorization.sealed_auth_code, authorizations.CODE_COLUMN, lambda row: row.id.bytes),
    SealedColumn(Authorization.sealed_login_id, authorizations.LOGIN_ID_COLUMN, lambda row: row.id.bytes),
    SealedColumn(Authorization.sealed_cancel_reason, authorizations.CANCEL_REASON_COLUMN, lambda row: row.id.bytes),
    SealedColumn(AccessToken.sealed_access_token, tokens.ACCESS_TOKEN_COLUMN, lambda row: row.token_index),
    SealedColumn(AccessToken.sealed_refresh_token, tokens.REFRESH_TOKEN_COLUMN, lambda row: row.token_index),
    SealedColumn(InboxEntry.sealed_body, inbox.BODY_COLUMN, lambda row: row.fingerprint),
    SealedColumn(Call.sealed_request, calls.REQUEST_COLUMN, lambda row: row.id.bytes),
    SealedColumn(Call.sealed_answer, calls.ANSWER_COLUMN, lambda row: row.id.bytes),
    SealedColumn(RefusedDelivery.sealed_head, quarantine.HEAD_COLUMN, lambda row: row.id.bytes),
    SealedColumn(RefusedDelivery.sealed_body, quarantine.BODY_COLUMN, lambda row: row.id.bytes),
    # The last: until it is resealed, the old key is known to be needed.
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
    sealed_column: SealedColumn,
    *,
    after: Key | None,
    limit: int = RESEALED_BATCH_SIZE_MAX,
    window: int = WINDOW_SIZE_MAX,
) -> Resealed:
    """Seal again up to `limit` values among the next `window` rows, in the order of their keys.

    Rows without a value, or with one that is sealed as it should be, count too: a search for the next ones that are not
    could read a whole table. A value that another process writes at the same moment is left alone: it is under
    the first key already. Raises `VaultError` where a value opens under none of the keys.
    """
    model, attribute, prefix = sealed_column.model, sealed_column.attribute, vault.sealer.sealing_prefix
    keys = _primary_key(model)
    is_outdated = func.substr(attribute, 1, len(prefix), type_=LargeBinary) != prefix
    statement = select(*keys, is_outdated.label("is_outdated")).order_by(*keys).limit(window)
    if after is not None:
        statement = statement.where(tuple_(*keys) > tuple_(*after))
    seen = session.execute(statement).all()
    outdated = [number for number, row in enumerate(seen) if row.is_outdated]
    if len(outdated) > limit:
        outdated = outdated[:limit]
        seen = seen[: outdated[-1] + 1]
    count = 0
    for row in rows_of(session, sealed_column, [_key_of(seen[number], keys) for number in outdated]):
        count += _reseal(session, vault, sealed_column, keys, row)
    return Resealed(count, len(seen), _key_of(seen[-1], keys) if seen else None)


def rows_of(session: Session, sealed_column: SealedColumn, wanted: Sequence[Key]) -> Sequence[Base]:
    """Read the rows with these keys, in their order."""
    if not wanted:
        return []
    keys = _primary_key(sealed_column.model)
    return session.scalars(select(sealed_column.model).where(any_of_keys(keys, wanted)).order_by(*keys)).all()


def _reseal(
    session: Session, vault: Vault, sealed_column: SealedColumn, keys: Sequence[InstrumentedAttribute[Any]], row: Base
) -> int:
    """Seal the value of one row again, unless another process has written it; return how many that were."""
    old = getattr(row, sealed_column.attribute.key)
    plain = vault.open_bytes(old, column=sealed_column.name, row_key=sealed_column.row_key(row))
    fresh = vault.seal(plain, column=sealed_column.name, row_key=sealed_column.row_key(row))
    same = [column == value for column, value in zip(keys, _key_of(row, keys), strict=True)]
    replaced = session.execute(
        update(sealed_column.model)
        .where(*same, sealed_column.attribute == old)
        .values({sealed_column.attribute.key: fresh})
        .returning(keys[0]),
        execution_options={"synchronize_session": False},
    )
    return len(replaced.all())


def rows_to_look_at(session: Session) -> int | None:
    """Estimate how many rows a whole re-sealing looks at, for a progress bar; `None` where there is no estimate."""
    estimates = [estimated_rows(session, sealed_column.model) for sealed_column in SEALED_COLUMNS]
    known = [each for each in estimates if each is not None]
    return sum(known) if known else None


def _primary_key(model: type[Base]) -> Sequence[InstrumentedAttribute[Any]]:
    return [getattr(model, column.name) for column in inspect(model).primary_key]


def _key_of(row: Base | Row[*tuple[Any, ...]], keys: Sequence[InstrumentedAttribute[Any]]) -> Key:
    return tuple(getattr(row, column.key) for column in keys)
