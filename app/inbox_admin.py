"""Work of operators on the inbox: list and count entries, dismiss what is not ours, purge what has long been final.

Nothing here is on the path of a delivery.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain

from sqlalchemy import CompoundSelect, delete, func, literal, select, tuple_, union, union_all
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from app.database.contents import any_of_keys
from app.inbox import IS_NOT_APPLIED, IS_PARKED
from app.models import AccessToken, Authorization, InboxEntry
from app.tokens import TokenKey
from app.vocabulary import OPEN_OUTCOMES, REPLAYABLE_OUTCOMES, Outcome, Reason

#: Gauges count no further, so that a scrape costs milliseconds however many entries there are.
COUNTED_MAX = 10_000

#: Every reason for which an entry is parked.
PARKED_REASONS = (Reason.UNKNOWN_AUTH_STATE, Reason.UNKNOWN_TOKEN, Reason.EARLY, Reason.UNKNOWN_TYPE)
_AGES = {
    "1m": timedelta(minutes=1),
    "10m": timedelta(minutes=10),
    "1h": timedelta(hours=1),
    "1d": timedelta(days=1),
}

#: A deleted batch holds its row locks for well under a second.
PURGE_BATCH_SIZE_MAX = 1000

#: An operator's words are a sentence, and no place for what a notification said.
DISMISSAL_REASON_CHARACTERS_MAX = 256

#: The time of an entry and the time that it is compared with may come from two hosts.
CLOCKS_DIFFER_BY_MAX = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries a listing shows; what is `None` does not matter."""

    outcome: str | None = None
    type: str | None = None
    reason: str | None = None
    auth_state: str | None = None


def listing(
    session: Session, wanted: Filter, *, limit: int, oldest_first: bool = False, after: int | None = None
) -> Sequence[InboxEntry]:
    """List entries, newest or oldest first, from the one that comes after the entry with the id `after`."""
    conditions = [
        getattr(InboxEntry, name) == value
        for name in ("outcome", "type", "reason", "auth_state")
        if (value := getattr(wanted, name)) is not None
    ]
    if after is not None:
        conditions.append(InboxEntry.id > after if oldest_first else InboxEntry.id < after)
    order = InboxEntry.id.asc() if oldest_first else InboxEntry.id.desc()
    return session.scalars(select(InboxEntry).where(*conditions).order_by(order).limit(limit)).all()


def of_authorization(session: Session, authorization: Authorization) -> Sequence[InboxEntry]:
    """List every entry about an authorization, whatever its outcome, in inbox sequence.

    Those that could not be understood or processed, or wait, are linked to none, and found by what they name: the
    authState or, where there is none, a token of the authorization.
    """
    ids = _ids_about(authorization)
    return session.scalars(select(InboxEntry).where(InboxEntry.id.in_(ids)).order_by(InboxEntry.id)).all()


def next_about(connection: Connection, authorization: Authorization, *, after: int, limit: int) -> Sequence[int]:
    """Find the next entries about an authorization, as `of_authorization` lists them, without locking them."""
    about = _ids_about(authorization).subquery()
    return connection.scalars(select(about.c.id).where(about.c.id > after).order_by(about.c.id).limit(limit)).all()


def _ids_about(authorization: Authorization) -> CompoundSelect[int]:
    is_unlinked = InboxEntry.authorization_id.is_(None)
    is_of_client = InboxEntry.client_id == authorization.client_id
    its_tokens = select(AccessToken.token_index).where(AccessToken.authorization_id == authorization.id)
    return union(
        select(InboxEntry.id).where(InboxEntry.authorization_id == authorization.id),
        select(InboxEntry.id).where(is_unlinked, is_of_client, InboxEntry.auth_state == authorization.auth_state),
        select(InboxEntry.id).where(
            # One that names an authState is about the authorization of that.
            *(IS_NOT_APPLIED, is_unlinked, is_of_client, InboxEntry.auth_state.is_(None)),
            InboxEntry.token_index.in_(its_tokens),
        ),
    )


def of_tokens(session: Session, keys: Sequence[TokenKey], *, limit: int) -> Sequence[InboxEntry]:
    """List the entries that name one of these tokens, newest first.

    One that was applied made its token known, or ended it, and is found by the authorization of the token.
    """
    its_authorizations = select(AccessToken.authorization_id).where(
        any_of_keys((AccessToken.client_id, AccessToken.token_index), keys)
    )
    names_it = any_of_keys((InboxEntry.client_id, InboxEntry.token_index), keys)
    indexes = [token_index for _, token_index in keys]
    ids = union(
        select(InboxEntry.id).where(InboxEntry.authorization_id.in_(its_authorizations), names_it),
        select(InboxEntry.id).where(IS_NOT_APPLIED, InboxEntry.token_index.in_(indexes), names_it),
    )
    statement = select(InboxEntry).where(InboxEntry.id.in_(ids)).order_by(InboxEntry.id.desc()).limit(limit)
    return session.scalars(statement).all()


def replayable_ids(session: Session, outcomes: Collection[Outcome], *, after: int, limit: int) -> Sequence[int]:
    """List the next entries that may still end otherwise, in inbox sequence, for a replay to walk through."""
    # One outcome at a time, in the order of its index: for several at once a database sorts all there are.
    found = [
        session.scalars(
            select(InboxEntry.id)
            .where(InboxEntry.outcome == outcome, InboxEntry.id > after)
            .order_by(InboxEntry.id)
            .limit(limit)
        ).all()
        for outcome in sorted(REPLAYABLE_OUTCOMES.intersection(outcomes))
    ]
    return sorted(chain(*found))[:limit]


# --- dismissing ------------------------------------------------------------------------------------------------------


class NotParkedError(Exception):
    """An entry that is to be dismissed is not parked."""

    def __init__(self, entry_id: int, outcome: str | None) -> None:
        self.outcome = outcome
        super().__init__(
            f"There is no entry {entry_id} in the inbox; it may have been purged."
            if outcome is None
            else f"Entry {entry_id} is {outcome}: only those that are parked can be dismissed."
        )


def dismiss(session: Session, entry_id: int, reason: str) -> None:
    """End a parked entry, since an operator says that it is not ours. Its link to an authorization stays.

    Locks the entry and looks again, as resuming does: of the two transactions, the second sees what the first did.
    Raises `NotParkedError`.
    """
    entry = session.get(InboxEntry, entry_id, with_for_update=True)
    if entry is None or entry.outcome != Outcome.PARKED:
        raise NotParkedError(entry_id, None if entry is None else entry.outcome)
    entry.outcome, entry.reason = Outcome.DISMISSED, reason


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


#: Where a walk through the entries stands: when one was first received, and its id.
Position = tuple[datetime, int]


@dataclass(frozen=True, slots=True)
class Purged:
    """What one batch of a purge did."""

    #: How many entries it deleted.
    deleted: int
    #: How many it kept although they are old, because their last redelivery claims a time to come.
    ahead: int
    #: Up to where it looked; `None` when there is nothing further.
    up_to: Position | None


def purge_batch(
    session: Session,
    *,
    older_than: datetime,
    now: datetime,
    after: Position | None = None,
    limit: int = PURGE_BATCH_SIZE_MAX,
) -> Purged:
    """Delete concluded entries among the next `limit` that were first received before a time, oldest first.

    They are walked in the order of that time, and not of their ids, so that one with a wrong time neither ends the walk
    nor makes it longer. Parked and failed entries stay whatever their age, and so does one that was redelivered lately.
    """
    statement = (
        select(InboxEntry.received_at, InboxEntry.id, InboxEntry.last_received_at)
        .where(InboxEntry.received_at < older_than)
        .order_by(InboxEntry.received_at, InboxEntry.id)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(tuple_(InboxEntry.received_at, InboxEntry.id) > tuple_(*after))
    seen = session.execute(statement).all()
    if not seen:
        return Purged(deleted=0, ahead=0, up_to=None)
    result = session.execute(
        delete(InboxEntry)
        .where(
            InboxEntry.id.in_([each.id for each in seen]),
            InboxEntry.last_received_at < older_than,
            InboxEntry.outcome.not_in(OPEN_OUTCOMES),
        )
        .returning(InboxEntry.id)
    )
    ahead = sum(each.last_received_at > now + CLOCKS_DIFFER_BY_MAX for each in seen)
    return Purged(len(result.all()), ahead, (seen[-1].received_at, seen[-1].id))


def count_ahead(session: Session, *, now: datetime) -> int:
    """Count the entries that claim to have been first received at a time to come: their host's clock was ahead."""
    return session.scalar(select(func.count()).where(InboxEntry.received_at > now + CLOCKS_DIFFER_BY_MAX)) or 0


def oldest_received_at(session: Session) -> datetime | None:
    """Say when the oldest entry was first received, for a progress bar."""
    return session.scalar(select(InboxEntry.received_at).order_by(InboxEntry.received_at).limit(1))
