"""Look through what is kept, and delete what has been concluded for long enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import and_, delete, func, literal, select, union_all
from sqlalchemy.orm import Session

from app.inbox import IS_PARKED, OPEN_OUTCOMES, REPLAYABLE_OUTCOMES, Outcome, Reason
from app.models import InboxEntry

#: Figures count no further, so that being asked every few seconds costs milliseconds however much there is.
COUNTED_MAX = 10_000

#: Whoever parks has one of these.
PARKED_REASONS = (Reason.UNKNOWN_AUTH_STATE, Reason.UNKNOWN_TOKEN, Reason.EARLY, Reason.UNKNOWN_TYPE)
_AGES = {
    "1m": timedelta(minutes=1),
    "10m": timedelta(minutes=10),
    "1h": timedelta(hours=1),
    "1d": timedelta(days=1),
}

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
    """How many entries are parked for one reason, for how long the oldest is, and how many for longer than an age."""

    reason: str
    count: int
    oldest_seconds: float
    older_than: Mapping[str, int]


def parked_by_reason(session: Session, *, now: datetime) -> list[Waiting]:
    """Count what is parked, up to `COUNTED_MAX` for each reason, the oldest first: the figures to be alerted by."""
    ages = list(_AGES.values())
    selects = []
    for reason in PARKED_REASONS:
        oldest = (
            select(InboxEntry.received_at)
            .where(IS_PARKED, InboxEntry.reason == reason)
            .order_by(InboxEntry.received_at)
            .limit(COUNTED_MAX)
            .subquery()
        )
        at = oldest.c.received_at
        older = [func.count().filter(at < now - age) for age in ages]
        selects.append(select(literal(reason.value), func.count(), func.min(at), *older).select_from(oldest))
    return [
        Waiting(
            reason,
            count,
            0 if first is None else max(0, (now - first).total_seconds()),
            dict(zip(_AGES, older, strict=True)),
        )
        for reason, count, first, *older in session.execute(union_all(*selects))
    ]


def failed_count(session: Session) -> int:
    """Count what failed and was not replayed since, up to `COUNTED_MAX`."""
    some = select(InboxEntry.id).where(InboxEntry.outcome == Outcome.FAILED).limit(COUNTED_MAX).subquery()
    return session.scalars(select(func.count()).select_from(some)).one()


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
