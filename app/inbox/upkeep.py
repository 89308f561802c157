"""Look through what is kept, and delete what has been concluded for long enough."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import and_, delete, func, select
from sqlalchemy.orm import Session

from app.inbox import IS_PARKED, OPEN_OUTCOMES, REPLAYABLE_OUTCOMES, Outcome
from app.models import InboxEntry

#: A deleted batch holds its row locks for well under a second.
PURGE_BATCH_SIZE_MAX = 1000


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries a listing shows; what is `None` does not matter."""

    outcome: str | None = None
    type: str | None = None
    auth_state: str | None = None


def listing(session: Session, wanted: Filter, *, limit: int) -> Sequence[InboxEntry]:
    """List entries, newest first."""
    conditions = [
        getattr(InboxEntry, name) == value
        for name in ("outcome", "type", "auth_state")
        if (value := getattr(wanted, name)) is not None
    ]
    return session.scalars(select(InboxEntry).where(*conditions).order_by(InboxEntry.id.desc()).limit(limit)).all()


def of_authorization(session: Session, authorization_id: UUID) -> Sequence[InboxEntry]:
    """List every entry that is linked to an authorization, whatever its outcome, in inbox sequence."""
    return session.scalars(
        select(InboxEntry).where(InboxEntry.authorization_id == authorization_id).order_by(InboxEntry.id)
    ).all()


def replayable_ids(session: Session, outcomes: frozenset[Outcome], *, after: int, limit: int) -> Sequence[int]:
    """List the next entries that may still end otherwise, in inbox sequence, for a replay to walk through."""
    return session.scalars(
        select(InboxEntry.id)
        .where(InboxEntry.outcome.in_(outcomes & REPLAYABLE_OUTCOMES), InboxEntry.id > after)
        .order_by(InboxEntry.id)
        .limit(limit)
    ).all()


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many entries are parked for one reason, and since when the oldest is."""

    reason: str
    count: int
    oldest_received_at: datetime


def parked_by_reason(session: Session) -> list[Waiting]:
    """Count what is parked: the figure to be alerted by."""
    rows = session.execute(
        select(InboxEntry.reason, func.count(), func.min(InboxEntry.received_at).label("oldest"))
        .where(IS_PARKED)
        .group_by(InboxEntry.reason)
    )
    return [Waiting(reason or "", count, oldest) for reason, count, oldest in rows]


@dataclass(frozen=True, slots=True)
class Purged:
    """What one batch of a purge did."""

    #: How many entries it deleted.
    deleted: int
    #: Up to which sequence it looked; `None` when there is nothing further.
    up_to: int | None


def purge_batch(session: Session, *, older_than: datetime, after: int, limit: int = PURGE_BATCH_SIZE_MAX) -> Purged:
    """Delete concluded entries among the next `limit`, and say where the next batch begins.

    Parked and failed entries stay whatever their age, and so does one that was redelivered lately.
    """
    seen = session.execute(
        select(InboxEntry.id, InboxEntry.received_at).where(InboxEntry.id > after).order_by(InboxEntry.id).limit(limit)
    ).all()
    # Sequence and time grow together but for the moments between two processes.
    if not seen or seen[0].received_at >= older_than:
        return Purged(deleted=0, up_to=None)
    up_to = seen[-1].id
    result = session.execute(
        delete(InboxEntry)
        .where(
            and_(InboxEntry.id > after, InboxEntry.id <= up_to),
            InboxEntry.last_received_at < older_than,
            InboxEntry.outcome.not_in(OPEN_OUTCOMES),
        )
        .returning(InboxEntry.id)
    )
    return Purged(deleted=len(result.all()), up_to=up_to)
