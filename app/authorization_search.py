"""Listings of authorizations: by whose they are, where they stand, and when they came, changed or end, page by page.

Each listing walks one index in the order in which it lists, so that a page costs the same however large the tables are.
"""

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, select, tuple_
from sqlalchemy.orm import Session
from typing_extensions import override

from app.database.contents import distinct_values
from app.models import AccessToken, Authorization
from app.state_machine import AuthorizationState

#: An id is made at most so long after, or before, the time that its row was created at: the two are read apart.
_IDS_DIFFER_BY_MAX = timedelta(minutes=10)
_MILLISECOND = timedelta(milliseconds=1)
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: The time in a UUIDv7 has 48 bits; what follows it has 80.
_TIME_MAX, _BITS_BEHIND_TIME = 2**48 - 1, 80

_CURSOR_TIME_BYTES = 8
_CURSOR_ID_BYTES = 16
_UUID_CHARACTERS = 36


class CursorError(ValueError):
    """A cursor was not written by this listing: another one goes on elsewhere."""

    def __init__(self) -> None:
        super().__init__("The cursor is not one that this listing wrote.")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which authorizations a listing shows; a filter that is `None` is not applied.

    Times are half-open, so that the windows of two days share nothing: from `…_after` on, and not at `…_before` itself.
    """

    auth_state: str | None = None
    user_ref: str | None = None
    user_id: str | None = None
    state: str | None = None
    client_id: str | None = None
    customer_belongs_to: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    updated_after: datetime | None = None
    updated_before: datetime | None = None
    #: With `expires_before`: from when on a token ends, if not from now on.
    expires_after: datetime | None = None
    #: When the current token ends. Where no state is named, that of an active one.
    expires_before: datetime | None = None

    @property
    def is_by_update(self) -> bool:
        """Whether the listing is in the order of the last changes."""
        return self.expires_before is None and (self.updated_after is not None or self.updated_before is not None)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a listing goes on: behind an authorization, and behind a time where it is in the order of times."""

    id: UUID
    at: datetime | None = None

    @override
    def __str__(self) -> str:
        time = (
            b"" if self.at is None else ((self.at - _EPOCH) // _MICROSECOND).to_bytes(_CURSOR_TIME_BYTES, signed=True)
        )
        return base64.urlsafe_b64encode(time + self.id.bytes).decode().rstrip("=")

    @classmethod
    def read(cls, written: str) -> "Cursor":
        """Read a cursor as it was written, or the id of an authorization. Raises `CursorError`."""
        try:
            if "-" in written and len(written) == _UUID_CHARACTERS:
                return cls(UUID(written))
            raw = base64.b64decode(written + "=" * (-len(written) % 4), altchars=b"-_", validate=True)
            time, row_id = raw[:-_CURSOR_ID_BYTES], UUID(bytes=raw[-_CURSOR_ID_BYTES:])
            at = _EPOCH + int.from_bytes(time, signed=True) * _MICROSECOND if len(time) == _CURSOR_TIME_BYTES else None
        except (ValueError, OverflowError):
            raise CursorError from None
        cursor = cls(row_id, at)
        # There is one way to write it.
        if str(cursor) != written:
            raise CursorError
        return cursor


@dataclass(frozen=True, slots=True)
class Page:
    """Some authorizations in the order of the listing, and where it goes on if there are more."""

    rows: Sequence[Authorization]
    next: Cursor | None


def listing(
    session: Session,
    wanted: Filter,
    *,
    limit: int,
    now: datetime,
    after: Cursor | None = None,
    oldest_first: bool = False,
) -> Page:
    """List authorizations: the newest first, those changed last first, or those whose token ends soonest first.

    `oldest_first` turns the first two orders about. Raises `CursorError` where `after` is of another order.
    """
    is_by_time = wanted.expires_before is not None or wanted.is_by_update
    if after is not None and is_by_time != (after.at is not None):
        raise CursorError
    if wanted.expires_before is not None:
        return _by_end(session, wanted, wanted.expires_before, limit=limit, now=now, after=after)
    if wanted.is_by_update:
        found = _by_update(session, wanted, limit=limit + 1, after=after, oldest_first=oldest_first)
        return _page(found, limit, lambda each: Cursor(each.id, each.updated_at))
    conditions = [*_conditions(wanted), *_created_ids(wanted)]
    if after is not None:
        conditions.append(Authorization.id > after.id if oldest_first else Authorization.id < after.id)
    order = Authorization.id.asc() if oldest_first else Authorization.id.desc()
    rows = session.scalars(select(Authorization).where(*conditions).order_by(order).limit(limit + 1)).all()
    return _page(rows, limit, lambda each: Cursor(each.id))


def _page(rows: Sequence[Authorization], limit: int, cursor_of: Callable[[Authorization], Cursor]) -> Page:
    shown = rows[:limit]
    return Page(shown, cursor_of(shown[-1]) if len(rows) > limit else None)


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    names = ("auth_state", "user_ref", "user_id", "state", "client_id", "customer_belongs_to")
    conditions: list[ColumnElement[bool]] = [
        getattr(Authorization, name) == value for name in names if (value := getattr(wanted, name)) is not None
    ]
    for column, first, end in (
        (Authorization.created_at, wanted.created_after, wanted.created_before),
        (Authorization.updated_at, wanted.updated_after, wanted.updated_before),
    ):
        conditions += [column >= first] if first is not None else []
        conditions += [column < end] if end is not None else []
    return conditions


def _created_ids(wanted: Filter) -> Iterable[ColumnElement[bool]]:
    """Narrow a listing by the ids that can have been made then: every index ends with the id."""
    slack = _IDS_DIFFER_BY_MAX // _MILLISECOND
    if wanted.created_after is not None:
        yield Authorization.id >= _first_id(_milliseconds(wanted.created_after) - slack)
    if wanted.created_before is not None:
        yield Authorization.id <= _first_id(_milliseconds(wanted.created_before) + slack)


def _milliseconds(time: datetime) -> int:
    return (time - _EPOCH) // _MILLISECOND


def _first_id(milliseconds: int) -> UUID:
    return UUID(int=min(max(milliseconds, 0), _TIME_MAX) << _BITS_BEHIND_TIME)


def _by_update(
    session: Session, wanted: Filter, *, limit: int, after: Cursor | None, oldest_first: bool
) -> Sequence[Authorization]:
    # One state at a time, in the order of its index: for several at once a database sorts all there are.
    states = [wanted.state] if wanted.state is not None else distinct_values(session, Authorization.state)
    place = tuple_(Authorization.updated_at, Authorization.id)
    statement = select(Authorization).where(*_conditions(wanted)).limit(limit)
    if after is not None:
        here = tuple_(after.at, after.id)
        statement = statement.where(place > here if oldest_first else place < here)
    if oldest_first:
        statement = statement.order_by(Authorization.updated_at, Authorization.id)
    else:
        statement = statement.order_by(Authorization.updated_at.desc(), Authorization.id.desc())
    found = [each for state in states for each in session.scalars(statement.where(Authorization.state == state))]
    return sorted(found, key=lambda each: (each.updated_at, each.id), reverse=not oldest_first)[:limit]


def _by_end(
    session: Session, wanted: Filter, before: datetime, *, limit: int, now: datetime, after: Cursor | None
) -> Page:
    """List by the end of the current tokens, in the order of their index.

    The authorization of each is looked up by its id: the scalar subquery keeps the databases from beginning with all
    authorizations of a wallet.
    """
    conditions = _conditions(wanted)
    if wanted.state is None:
        conditions.append(Authorization.state == AuthorizationState.TOKEN_ACTIVE)
    matching = select(Authorization.id).where(Authorization.id == AccessToken.authorization_id, *conditions)
    ends_at, authorization_id = AccessToken.access_token_expires_at, AccessToken.authorization_id
    statement = (
        select(authorization_id, ends_at)
        .where(
            AccessToken.superseded_at.is_(None),
            ends_at >= (wanted.expires_after or now),
            ends_at < before,
            matching.correlate(AccessToken).scalar_subquery().is_not(None),
        )
        .order_by(ends_at, authorization_id)
        .limit(limit + 1)
    )
    if after is not None:
        statement = statement.where(tuple_(ends_at, authorization_id) > tuple_(after.at, after.id))
    found = session.execute(statement).all()
    shown = found[:limit]
    ids = [each.authorization_id for each in shown]
    rows = {each.id: each for each in session.scalars(select(Authorization).where(Authorization.id.in_(ids)))}
    last = shown[-1] if len(found) > limit else None
    cursor = None if last is None else Cursor(last.authorization_id, last.access_token_expires_at)
    return Page([rows[each] for each in ids], cursor)
