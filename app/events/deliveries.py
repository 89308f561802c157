"""Webhook deliveries: each tells one event to one endpoint, and ends delivered, expired or dead.

What is due and how each attempt ended is on record, so the sending process may die at any moment: an event is then sent
twice, and never lost.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, delete, func, insert, select, tuple_, update
from sqlalchemy.orm import Session

from app.database.bulk import insertion
from app.database.pipeline import execute, plain
from app.models import Authorization, Feed, FeedEvent, WebhookAttempt, WebhookDelivery

#: Events that one transaction of a recovery looks at: it keeps the numbering waiting for some tens of milliseconds.
RECOVERED_AT_ONCE_MAX = 500
#: Figures for people count no further: what is due may be very much.
COUNTED_MAX = 10_000


class Status(StrEnum):
    """How a webhook delivery stands."""

    DUE = "due"
    #: The endpoint has answered 2xx.
    DELIVERED = "delivered"
    #: What it tells is of no use any more: the code's minute is over, or its six attempts failed.
    EXPIRED = "expired"
    #: Given up: attempts exhausted, too old, event deleted or endpoint removed.
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one request to an endpoint ended, and what becomes of its webhook delivery."""

    delivery_id: int
    number: int
    at: datetime
    milliseconds: int
    http_status: int | None
    error: str | None
    answer: str | None
    #: The status of the delivery from now on.
    status: Status
    #: When it is due again, if it is.
    due_at: datetime | None
    finished_at: datetime | None


def add(session: Session, pairs: Iterable[tuple[Mapping[str, Any], str]], *, at: datetime) -> None:
    """Make a webhook delivery of each pair, an event and an endpoint, due at once."""
    rows = [
        plain(WebhookDelivery)(
            position=event["position"],
            authorization_id=event["authorization_id"],
            endpoint=endpoint,
            status=Status.DUE,
            attempts=0,
            due_at=at,
            expires_at=event["expires_at"],
            created_at=at,
        )
        for event, endpoint in pairs
    ]
    execute(session.connection(), insertion(WebhookDelivery, rows))


# --- sending ---------------------------------------------------------------------------------------------------------


def due(
    session: Session, endpoint: str, *, now: datetime, limit: int, busy: Collection[UUID] = ()
) -> Sequence[WebhookDelivery]:
    """List what is to be sent to an endpoint now, the longest due first. Nothing is claimed: the sender has a lease.

    What tells of authorizations that are busy, since the sender is telling of them, is left out.
    """
    return session.scalars(_due(endpoint, WebhookDelivery.due_at <= now, *_is_free(busy)).limit(limit)).all()


def due_codes(
    session: Session, endpoint: str, *, now: datetime, limit: int, busy: Collection[UUID] = ()
) -> Sequence[WebhookDelivery]:
    """List what of that tells of a code, which is never behind anything else."""
    is_code = WebhookDelivery.expires_at.is_not(None)
    return session.scalars(_due(endpoint, is_code, WebhookDelivery.due_at <= now, *_is_free(busy)).limit(limit)).all()


def due_before(
    session: Session, endpoint: str, codes: Sequence[WebhookDelivery], *, now: datetime
) -> Sequence[WebhookDelivery]:
    """List what tells an endpoint of the authorizations of these codes, is due too, and has not been tried yet."""
    # Two look-ups by index: joined, the database may go through all that is due.
    positions = session.scalars(
        select(FeedEvent.position).where(FeedEvent.authorization_id.in_([each.authorization_id for each in codes]))
    ).all()
    return session.scalars(
        select(WebhookDelivery).where(
            WebhookDelivery.position.in_(positions),
            WebhookDelivery.endpoint == endpoint,
            WebhookDelivery.status == Status.DUE,
            WebhookDelivery.attempts == 0,
            WebhookDelivery.due_at <= now,
        )
    ).all()


def record(session: Session, attempts: Sequence[Attempt]) -> None:
    """Put attempts on record, and what becomes of their webhook deliveries.

    An attempt of a background worker that has lost the lease changes nothing where another worker has recorded one.
    Where the user was erased while the event was on its way, nothing is kept of the answer.
    """
    # Locked, so that nobody records between this look and the update; in order, so that no two wait for each other.
    counted = (
        select(WebhookDelivery.id, WebhookDelivery.attempts, Authorization.erased_at)
        .outerjoin(Authorization, Authorization.id == WebhookDelivery.authorization_id)
        .where(WebhookDelivery.id.in_([each.delivery_id for each in attempts]), WebhookDelivery.status == Status.DUE)
        .order_by(WebhookDelivery.id)
        .with_for_update(of=WebhookDelivery)
    )
    so_far = {row.id: row for row in session.execute(counted)}
    counting = [
        each for each in attempts if each.delivery_id in so_far and so_far[each.delivery_id].attempts == each.number - 1
    ]
    if not counting:
        return
    session.execute(
        update(WebhookDelivery),
        [
            {
                "id": each.delivery_id,
                "attempts": each.number,
                "status": each.status,
                "due_at": each.due_at,
                "finished_at": each.finished_at,
            }
            for each in counting
        ],
    )
    session.execute(
        insert(WebhookAttempt),
        [
            {
                "delivery_id": each.delivery_id,
                "number": each.number,
                "at": each.at,
                "milliseconds": each.milliseconds,
                "http_status": each.http_status,
                "error": each.error,
                "answer": each.answer if so_far[each.delivery_id].erased_at is None else None,
            }
            for each in counting
        ],
    )


def give_up(session: Session, delivery_ids: Collection[int], status: Status, *, now: datetime) -> None:
    """End webhook deliveries that are not sent any more: their code has expired, or they are too old."""
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id.in_(delivery_ids), WebhookDelivery.status == Status.DUE)
        .values(status=status, due_at=None, finished_at=now)
        .execution_options(synchronize_session=False)
    )


def endpoints_with_due(session: Session) -> list[str]:
    """Name the endpoints that something is to be sent to, also those that are configured no more."""
    found: list[str] = []
    statement = (
        select(WebhookDelivery.endpoint)
        .where(WebhookDelivery.status == Status.DUE)
        .order_by(WebhookDelivery.endpoint)
        .limit(1)
    )
    # With one look into the index for each.
    while (
        name := session.scalar(statement.where(WebhookDelivery.endpoint > found[-1]) if found else statement)
    ) is not None:
        found.append(name)
    return found


def oldest_due_at(session: Session, endpoint: str) -> datetime | None:
    """Say since when the most urgent webhook delivery of an endpoint is due, or will be."""
    return session.scalar(
        select(WebhookDelivery.due_at)
        .where(WebhookDelivery.status == Status.DUE, WebhookDelivery.endpoint == endpoint)
        .order_by(WebhookDelivery.due_at, WebhookDelivery.id)
        .limit(1)
    )


def _is_free(busy: Collection[UUID]) -> list[ColumnElement[bool]]:
    return [WebhookDelivery.authorization_id.not_in(busy)] if busy else []


def _due(endpoint: str, *conditions: ColumnElement[bool]) -> Select[WebhookDelivery]:
    return (
        select(WebhookDelivery)
        .where(WebhookDelivery.status == Status.DUE, WebhookDelivery.endpoint == endpoint, *conditions)
        .order_by(WebhookDelivery.due_at, WebhookDelivery.id)
    )


# --- looking ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which webhook deliveries a listing shows; what is `None` does not matter."""

    status: str | None = None
    endpoint: str | None = None
    #: The event that they tell of.
    event: UUID | None = None


def find(session: Session, delivery_id: int) -> WebhookDelivery | None:
    """Find a webhook delivery by its id."""
    return session.get(WebhookDelivery, delivery_id)


def listing(
    session: Session, wanted: DeliveryFilter, *, limit: int, before: int | None = None
) -> Sequence[WebhookDelivery]:
    """List webhook deliveries, newest first, from the one that comes after the delivery with the id `before`."""
    conditions = [
        getattr(WebhookDelivery, name) == value
        for name in ("status", "endpoint")
        if (value := getattr(wanted, name)) is not None
    ]
    if wanted.event is not None:
        of_event = select(FeedEvent.position).where(FeedEvent.event_id == wanted.event).scalar_subquery()
        conditions.append(WebhookDelivery.position == of_event)
    if before is not None:
        conditions.append(WebhookDelivery.id < before)
    return session.scalars(
        select(WebhookDelivery).where(*conditions).order_by(WebhookDelivery.id.desc()).limit(limit)
    ).all()


def events_of(session: Session, listed: Collection[WebhookDelivery]) -> dict[int, tuple[UUID, str]]:
    """Find the id and type of the events that webhook deliveries tell of, by their positions."""
    of_these = FeedEvent.position.in_({each.position for each in listed})
    rows = session.execute(select(FeedEvent.position, FeedEvent.event_id, FeedEvent.type).where(of_these))
    return {row.position: (row.event_id, row.type) for row in rows}


def attempts_of(session: Session, delivery_id: int) -> Sequence[WebhookAttempt]:
    """List the attempts of a webhook delivery, first to last."""
    return session.scalars(
        select(WebhookAttempt).where(WebhookAttempt.delivery_id == delivery_id).order_by(WebhookAttempt.number)
    ).all()


@dataclass(frozen=True, slots=True)
class Standing:
    """What is still to be sent to an endpoint, and how it goes."""

    #: Counted up to `COUNTED_MAX`.
    due: int
    #: How many of those have failed before.
    failed_before: int
    #: Since when the most urgent is due, or when it will be.
    due_at: datetime | None
    #: How the newest attempt of those failed.
    last_error: str | None


def standing(session: Session, endpoint: str) -> Standing:
    """Say how an endpoint stands."""
    some = _due(endpoint).limit(COUNTED_MAX).subquery()
    due, failed_before, due_at = session.execute(
        select(func.count(), func.count().filter(some.c.attempts > 0), func.min(some.c.due_at)).select_from(some)
    ).one()
    last_error = session.scalar(
        select(WebhookAttempt.error)
        .join(some, some.c.id == WebhookAttempt.delivery_id)
        .order_by(WebhookAttempt.at.desc())
        .limit(1)
    )
    return Standing(due, failed_before, due_at, last_error)


# --- again -----------------------------------------------------------------------------------------------------------


def lock_feed(session: Session) -> Feed:
    """Lock the row of the feed until the transaction ends: nothing else numbers, recovers or purges events."""
    return session.execute(select(Feed).with_for_update()).scalar_one()


def resend(session: Session, delivery: WebhookDelivery, *, now: datetime) -> WebhookDelivery:
    """Make a new webhook delivery of the same event to the same endpoint; the old one stays as it is.

    The feed is locked, and the old one was found after that, so that its event is not purged by then. Somebody asked
    for it, so it does not expire, though the code of which it tells has.
    """
    again = WebhookDelivery(
        position=delivery.position,
        authorization_id=delivery.authorization_id,
        endpoint=delivery.endpoint,
        status=Status.DUE,
        attempts=0,
        due_at=now,
        created_at=now,
        resend_of=delivery.id,
    )
    session.add(again)
    session.flush()
    return again


@dataclass(frozen=True, slots=True)
class Recovered:
    """What one step of a recovery did."""

    #: How many deliveries it made to each endpoint.
    made: Counter[str]
    #: How many it left out, since the code of which they tell has expired.
    expired: int
    #: How many events it looked at.
    looked_at: int
    #: Up to where it looked, a time of numbering and a position; `None` when there is nothing further.
    up_to: tuple[datetime, int] | None


def recover(
    session: Session,
    subscribers: Callable[[str], Collection[str]],
    *,
    since: datetime,
    now: datetime,
    after: tuple[datetime, int] | None = None,
    limit: int = RECOVERED_AT_ONCE_MAX,
) -> Recovered:
    """Make webhook deliveries of the next events since a time, to each endpoint without a delivered or due one of it.

    They are those that were numbered since then, among them all that have happened since. Two who recover at once wait
    for each other, as they do for the numbering, so that none makes what the other has made.
    """
    lock_feed(session)
    statement = (
        select(
            FeedEvent.position, FeedEvent.type, FeedEvent.authorization_id, FeedEvent.expires_at, FeedEvent.numbered_at
        )
        .where(FeedEvent.numbered_at >= since)
        .order_by(FeedEvent.numbered_at, FeedEvent.position)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(tuple_(FeedEvent.numbered_at, FeedEvent.position) > tuple_(*after))
    events = session.execute(statement).all()
    if not events:
        return Recovered(Counter(), 0, 0, None)
    rows = session.execute(
        select(WebhookDelivery.position, WebhookDelivery.endpoint).where(
            WebhookDelivery.position.in_([each.position for each in events]),
            WebhookDelivery.status.in_([Status.DUE, Status.DELIVERED]),
        )
    )
    already_delivered_or_due = {(row.position, row.endpoint) for row in rows}
    untold = [
        (event, endpoint)
        for event in events
        for endpoint in subscribers(event.type)
        if (event.position, endpoint) not in already_delivered_or_due
    ]
    of_use = [each for each in untold if each[0].expires_at is None or each[0].expires_at > now]
    add(session, [(event._asdict(), endpoint) for event, endpoint in of_use], at=now)
    made = Counter(endpoint for _, endpoint in of_use)
    return Recovered(made, len(untold) - len(of_use), len(events), (events[-1].numbered_at, events[-1].position))


# --- erasing ---------------------------------------------------------------------------------------------------------


def forget_answers(session: Session, *, of_authorization: UUID) -> None:
    """Take out what endpoints answered to the events of an authorization: many repeat what they were told.

    To be done once the user is erased: an attempt that is recorded from then on keeps no answer.
    """
    # Several look-ups by index: joined, the database may go through all deliveries.
    positions = session.scalars(select(FeedEvent.position).where(FeedEvent.authorization_id == of_authorization)).all()
    # Locked, so that none is missed that is being recorded.
    ids = session.scalars(
        select(WebhookDelivery.id)
        .where(WebhookDelivery.position.in_(positions))
        .order_by(WebhookDelivery.id)
        .with_for_update()
    ).all()
    session.execute(
        update(WebhookAttempt)
        .where(WebhookAttempt.delivery_id.in_(ids), WebhookAttempt.answer.is_not(None))
        .values(answer=None)
        .execution_options(synchronize_session=False)
    )


# --- purging ---------------------------------------------------------------------------------------------------------


def finished_through(session: Session, *, first: int, last: int) -> int:
    """Say up to which event, of these positions, no webhook delivery is due."""
    unfinished = session.scalar(
        select(WebhookDelivery.position)
        .where(WebhookDelivery.position.between(first, last), WebhookDelivery.status == Status.DUE)
        .order_by(WebhookDelivery.position)
        .limit(1)
    )
    return last if unfinished is None else unfinished - 1


def purge(session: Session, *, first: int, last: int) -> None:
    """Delete the webhook deliveries of these events, with their attempts."""
    theirs = select(WebhookDelivery.id).where(WebhookDelivery.position.between(first, last))
    without_session = {"synchronize_session": False}
    session.execute(
        delete(WebhookAttempt).where(WebhookAttempt.delivery_id.in_(theirs)), execution_options=without_session
    )
    session.execute(
        delete(WebhookDelivery).where(WebhookDelivery.position.between(first, last)), execution_options=without_session
    )
