"""The feed: all events in one order. It is append-only: a new event's position is above every readable one.

Events are numbered after they are committed, by one background worker at a time: it locks the row that says how far the
feed goes, and moves what it finds in the outbox into the feed, with one position after another. What it moves has been
committed, and what is committed later is moved later.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate, takewhile
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, Row, Select, bindparam, delete, select, union_all
from sqlalchemy.orm import Session, aliased

from app.database.bulk import insertion
from app.database.pipeline import Statement, execute, execute_and_commit, plain
from app.events import deliveries
from app.models import Authorization, Feed, FeedEvent, OutboxEvent, Transition

#: Events that one transaction numbers: some tens of milliseconds, during which SQLite lets nobody else write.
NUMBERED_AT_ONCE_MAX = 500
#: What it writes, the events and a delivery of each to each endpoint: with many endpoints it numbers fewer.
_ROWS_AT_ONCE_MAX = 2 * NUMBERED_AT_ONCE_MAX
#: Events that one transaction purges, with what was delivered of them.
PURGED_AT_ONCE_MAX = 500

#: Names the endpoints that are told of an event of this type.
Subscribers = Callable[[str], Collection[str]]


class PastCursorError(Exception):
    """A reader asks for what comes after an event that is purged, or that this feed never had."""

    def __init__(self, after: int, purged_through: int, last_position: int) -> None:
        self.after = after
        #: The oldest cursor that can be read on from.
        self.oldest = purged_through
        if after < purged_through:
            message = f"What came right after {after} is purged: the feed can be read on from {purged_through}."
        else:
            message = (
                f"This feed never had an event {after}: its newest is {last_position}. The cursor is another feed's, "
                f"or newer than the backup that was restored. The feed can be read on from {purged_through}."
            )
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class PublishedEvent:
    """An event with what it says, as readers of the feed and receivers of webhooks get it."""

    position: int
    event_id: UUID
    type: str
    authorization_id: UUID
    sequence: int
    expires_at: datetime | None
    at: datetime
    client_id: str
    auth_state: str
    user_ref: str | None
    customer_belongs_to: str | None
    from_state: str | None
    to_state: str
    cause: str
    learned_at: datetime | None
    #: Of a call that ended badly.
    call_id: UUID | None = None
    call_status: str | None = None
    result_code: str | None = None


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a listing shows; what is `None` does not matter."""

    type: str | None = None
    authorization_ids: Collection[UUID] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some events of the feed, in order."""

    events: Sequence[PublishedEvent]
    #: Read on from here.
    next: int
    #: Whether there are more already.
    has_more: bool


# --- numbering -------------------------------------------------------------------------------------------------------


def number(
    session: Session,
    subscribers: Subscribers,
    *,
    now: datetime,
    limit: int = NUMBERED_AT_ONCE_MAX,
    leaving_out: Collection[int] = (),
) -> int:
    """Move events from the outbox into the feed, and say how many. Each endpoint gets its deliveries with them.

    Where there are `may_have_left_some` of them, the caller comes again at once.
    """
    feed = deliveries.lock_feed(session)
    staged = session.scalars(
        select(OutboxEvent).where(*_is_not(leaving_out)).order_by(OutboxEvent.id).limit(limit)
    ).all()
    if not staged:
        return 0
    endpoints_by_type = {each: subscribers(each) for each in {each.type for each in staged}}
    rows = accumulate(1 + len(endpoints_by_type[each.type]) for each in staged)
    # The first always, however many are told of it.
    staged = staged[: max(1, sum(each <= _ROWS_AT_ONCE_MAX for each in rows))]
    events: list[dict[str, Any]] = [
        {
            "position": position,
            "event_id": each.event_id,
            "type": each.type,
            "authorization_id": each.authorization_id,
            "sequence": each.sequence,
            "call_id": each.call_id,
            "call_status": each.call_status,
            "result_code": each.result_code,
            "expires_at": each.expires_at,
            "at": each.at,
            "numbered_at": now,
        }
        for position, each in enumerate(staged, feed.last_position + 1)
    ]
    # One statement, where an INSERT of the session's takes one for each row.
    execute(session.connection(), insertion(FeedEvent, [plain(FeedEvent)(**event) for event in events]))
    pairs = [(event, endpoint) for event in events for endpoint in endpoints_by_type[event["type"]]]
    deliveries.add(session, pairs, at=now)
    session.execute(
        delete(OutboxEvent).where(OutboxEvent.id.in_([each.id for each in staged])),
        execution_options={"synchronize_session": False},
    )
    feed.last_position += len(staged)
    return len(staged)


def may_have_left_some(numbered: int, *, endpoints: int) -> bool:
    """Say whether a transaction that numbered so many events may have left others that were staged before it."""
    return numbered >= min(NUMBERED_AT_ONCE_MAX, max(1, _ROWS_AT_ONCE_MAX // (1 + endpoints)))


def first_staged(session: Session, *, leaving_out: Collection[int] = ()) -> int | None:
    """Say which event is the next to be numbered, by its id in the outbox; `None` where none waits."""
    return session.scalar(select(OutboxEvent.id).where(*_is_not(leaving_out)).order_by(OutboxEvent.id).limit(1))


def oldest_staged_at(session: Session) -> datetime | None:
    """Say since when the oldest event waits to be numbered, if one does."""
    return session.scalar(select(OutboxEvent.at).order_by(OutboxEvent.id).limit(1))


def _is_not(outbox_ids: Collection[int]) -> list[ColumnElement[bool]]:
    return [OutboxEvent.id.not_in(outbox_ids)] if outbox_ids else []


# --- reading ---------------------------------------------------------------------------------------------------------


def last_position(session: Session) -> int:
    """Say how far the feed goes."""
    return session.scalars(select(Feed.last_position)).one()


def page(session: Session, *, after: int | None, types: Collection[str] | None, limit: int) -> Page:
    """Read events of these types in order: what comes after a position, or from the oldest that is left.

    No statement may follow in this transaction. Raises `PastCursorError` where a reader with this position has missed
    events.
    """
    if after is None:
        after = session.scalars(select(Feed.purged_through)).one()
    if types is None:
        # Positions have no gap: bounded on both sides, the database knows how few it reads.
        bounds = {"first": after + 1, "last": after + limit + 1}
        feed, found = execute_and_commit(session.connection(), _FEED, _between(bounds))
        events = [PublishedEvent(*row) for row in found.rows]
        ((last_position, purged_through),) = feed.rows
    else:
        last_position, purged_through = session.execute(_FEED_ENDS).one()
        events = [_published(row) for row in session.execute(_of_types(types, after, limit + 1))]
    if (missed := _missed(after, purged_through, last_position)) is not None:
        raise missed
    if len(events) > limit:
        return Page(events[:limit], events[limit - 1].position, has_more=True)
    # There is none of these types up to the end, so that the next look need not begin at the last one found.
    return Page(events, last_position, has_more=False)


def missed(session: Session, after: int) -> PastCursorError | None:
    """Say what a reader with this position has missed, if so."""
    last_position, purged_through = session.execute(_FEED_ENDS).one()
    return _missed(after, purged_through, last_position)


def _missed(after: int, purged_through: int, last_position: int) -> PastCursorError | None:
    if purged_through <= after <= last_position:
        return None
    return PastCursorError(after, purged_through, last_position)


def listing(
    session: Session, wanted: EventFilter, *, limit: int, before: int | None = None, after: int | None = None
) -> Sequence[PublishedEvent]:
    """List events, newest first, from the one before a position; or as the feed has them, from the one after it."""
    conditions = [] if before is None else [FeedEvent.position < before]
    if after is not None:
        conditions.append(FeedEvent.position > after)
    if wanted.type is not None:
        conditions.append(FeedEvent.type == wanted.type)
    if wanted.authorization_ids is not None:
        conditions.append(FeedEvent.authorization_id.in_(wanted.authorization_ids))
    order = FeedEvent.position.desc() if after is None else FeedEvent.position.asc()
    return [_published(row) for row in session.execute(_PUBLISHED.where(*conditions).order_by(order).limit(limit))]


def find(session: Session, event_id: UUID) -> PublishedEvent | None:
    """Find an event of the feed by its id."""
    row = session.execute(_PUBLISHED.where(FeedEvent.event_id == event_id)).one_or_none()
    return None if row is None else _published(row)


def at_positions(session: Session, positions: Collection[int]) -> dict[int, PublishedEvent]:
    """Read the events with these positions."""
    rows = session.execute(_PUBLISHED.where(FeedEvent.position.in_(positions)))
    return {row.position: _published(row) for row in rows}


_COLUMNS = (
    FeedEvent.position,
    FeedEvent.event_id,
    FeedEvent.type,
    FeedEvent.authorization_id,
    FeedEvent.sequence,
    FeedEvent.expires_at,
    FeedEvent.at,
    Authorization.client_id,
    Authorization.auth_state,
    Authorization.user_ref,
    Authorization.customer_belongs_to,
    Transition.from_state,
    Transition.to_state,
    Transition.cause,
    Transition.learned_at,
    FeedEvent.call_id,
    FeedEvent.call_status,
    FeedEvent.result_code,
)
_PUBLISHED: Select[*tuple[object, ...]] = (
    select(*_COLUMNS)
    .join(Authorization, Authorization.id == FeedEvent.authorization_id)
    .join(
        Transition,
        (Transition.authorization_id == FeedEvent.authorization_id) & (Transition.sequence == FeedEvent.sequence),
    )
)


_FEED_ENDS = select(Feed.last_position, Feed.purged_through)
_FEED = Statement(lambda _dialect: _FEED_ENDS, lambda _dialect: {})
_BETWEEN = _PUBLISHED.where(
    FeedEvent.position.between(bindparam("first", type_=BigInteger), bindparam("last", type_=BigInteger))
).order_by(FeedEvent.position)


def _between(bounds: Mapping[str, int]) -> Statement:
    return Statement(lambda _dialect: _BETWEEN, lambda _dialect: bounds)


def _published(row: Row[*tuple[object, ...]]) -> PublishedEvent:
    return PublishedEvent(**row._mapping)  # noqa: SLF001 -- its public name


def _of_types(types: Collection[str], after: int, limit: int) -> Select[*tuple[object, ...]]:
    """Select the first events of these types after a position, looking each type up by itself.

    Else the database might read all events in their order, to find a few of a type that is rare.
    """
    of_each = [
        aliased(
            select(FeedEvent.position)
            .where(FeedEvent.type == each, FeedEvent.position > after)
            .order_by(FeedEvent.position)
            .limit(limit)
            .subquery()
        )
        for each in sorted(types)
    ]
    positions = union_all(*(select(each.c.position) for each in of_each)).subquery()
    is_among_them = FeedEvent.position.in_(select(positions.c.position))
    return _PUBLISHED.where(is_among_them).order_by(FeedEvent.position).limit(limit)


# --- purging ---------------------------------------------------------------------------------------------------------


def purge(session: Session, *, before: datetime) -> int:
    """Delete the oldest events that were numbered before a time, and what was delivered of them; say how many.

    The caller comes again where there are as many as one transaction takes. Purging stops at
    the first event with a due delivery.
    """
    feed = deliveries.lock_feed(session)
    oldest = session.execute(
        select(FeedEvent.position, FeedEvent.numbered_at).order_by(FeedEvent.position).limit(PURGED_AT_ONCE_MAX)
    ).all()
    first = feed.purged_through + 1
    old = [row.position for row in takewhile(lambda row: row.numbered_at < before, oldest)]
    if not old:
        return 0
    through = deliveries.finished_through(session, first=first, last=old[-1])
    deliveries.purge(session, first=first, last=through)
    session.execute(
        delete(FeedEvent).where(FeedEvent.position <= through), execution_options={"synchronize_session": False}
    )
    feed.purged_through = through
    return through - first + 1
