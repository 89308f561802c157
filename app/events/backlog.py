"""The backlog: what is still to be numbered or sent, how late it is, and what was given up. Metrics show it.

No count goes further than a bound, so that to look costs the same however much there is.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.events import deliveries, feed
from app.events.deliveries import COUNTED_MAX, Status
from app.models import Lease, WebhookDelivery

#: A worker shows that it lives every two seconds. So long without means that none runs.
SILENCE_MAX = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class EndpointBacklog:
    """What one endpoint is still to be told, and what it was never told."""

    #: How long the delivery has waited that is due the longest.
    oldest_due_seconds: float
    due: int
    dead: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What there is to do in the background."""

    #: How long the oldest event has waited for its place in the feed.
    oldest_not_numbered_seconds: float
    by_endpoint: Mapping[str, EndpointBacklog]
    #: When any worker last showed that it lives.
    worker_seen_at: datetime | None


def look(session: Session, endpoints: Collection[str], *, now: datetime) -> Backlog:
    """Look what is still to be done, for these endpoints."""
    dead = _dead_by_endpoint(session)
    return Backlog(
        oldest_not_numbered_seconds=_seconds_since(feed.oldest_staged_at(session), now),
        by_endpoint={
            name: EndpointBacklog(
                oldest_due_seconds=_seconds_since(deliveries.oldest_due_at(session, name), now),
                due=_due_count(session, name),
                dead=dead.get(name, 0),
            )
            for name in endpoints
        },
        worker_seen_at=worker_seen_at(session),
    )


def worker_seen_at(session: Session) -> datetime | None:
    """Say when any worker last showed that it lives; `None` if none ever did."""
    return session.scalar(select(func.max(Lease.at)))


def _seconds_since(at: datetime | None, now: datetime) -> float:
    # What fails is due again at a time to come.
    return 0 if at is None else max(0.0, (now - at).total_seconds())


def _due_count(session: Session, endpoint: str) -> int:
    some = (
        select(WebhookDelivery.id)
        .where(WebhookDelivery.status == Status.DUE, WebhookDelivery.endpoint == endpoint)
        .limit(COUNTED_MAX)
        .subquery()
    )
    return session.scalars(select(func.count()).select_from(some)).one()


def _dead_by_endpoint(session: Session) -> Mapping[str, int]:
    """Count the newest dead deliveries of each endpoint."""
    some = (
        select(WebhookDelivery.endpoint)
        .where(WebhookDelivery.status == Status.DEAD)
        .order_by(WebhookDelivery.id.desc())
        .limit(COUNTED_MAX)
        .subquery()
    )
    counted = select(some.c.endpoint, func.count()).group_by(some.c.endpoint)
    return {endpoint: count for endpoint, count in session.execute(counted)}  # noqa: C416 -- rows are no pairs to a type checker
