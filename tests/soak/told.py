"""Hold what endpoints were told against what has happened: every move once and in order, and each told or on record."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.events.deliveries import Status
from app.models import Authorization, Feed, FeedEvent, OutboxEvent, WebhookDelivery
from app.wiring import Service
from tests.soak.patience import run_patiently
from tests.soak.receiver import Receiver

#: The background process is started again ever more slowly when it dies often, and another waits for its leases.
_SECONDS_MAX = 180
#: As many as are read, and held in memory, at a time.
_BATCH_SIZE = 2000

#: What every code and every token begins with here.
SECRET = re.compile(rb"(?:token|code)-[0-9a-f]{32}|28(?:10|15|16)\d{36}")


@dataclass
class Told:
    """What was found of the feed and of the endpoints so far, so that each audit looks at what is new."""

    service: Service
    receivers: Mapping[str, Receiver]
    position: int = 0
    #: The newest sequence of each authorization that the feed has told of.
    sequences: dict[UUID, int] = field(default_factory=dict)
    #: What each endpoint has taken, in order, each for the first time; and what it has said so of.
    taken: dict[str, dict[str, None]] = field(default_factory=dict)
    admitted: dict[str, set[str]] = field(default_factory=dict)

    def audit(self) -> list[str]:
        """Wait until everything is told, and name whatever is wrong. Nothing may happen meanwhile."""
        stuck = self._wait()
        return [*stuck, *self._wrong_requests(), *self._wrong_feed()]

    def _wait(self) -> list[str]:
        deadline = time.monotonic() + _SECONDS_MAX
        while left := run_patiently(self.service, _left, read_only=False):
            if time.monotonic() > deadline:
                return [f"{left} events or deliveries are still to be told after {_SECONDS_MAX} seconds"]
            time.sleep(0.5)
        return []

    # --- what endpoints were sent ---

    def _wrong_requests(self) -> Iterator[str]:
        for name, receiver in self.receivers.items():
            yield from receiver.wrong
            yield from (
                f"{name} was sent {found.decode()}" for each in receiver.bodies for found in SECRET.findall(each)
            )
            taken = self.taken.setdefault(name, {})
            admitted = self.admitted.setdefault(name, set())
            for each in receiver.taken:
                taken[each.webhook_id] = None
                if each.is_admitted:
                    admitted.add(each.webhook_id)
                if each.document["id"] != each.webhook_id:
                    yield f"{name} was sent {each.document['id']} as {each.webhook_id}"
            receiver.wrong, receiver.bodies, receiver.taken = [], [], []

    # --- what is on record ---

    def _wrong_feed(self) -> Iterator[str]:
        while rows := run_patiently(self.service, partial(_page, after=self.position)):
            yield from self._wrong_positions(rows)
            yield from self._wrong_deliveries(rows)
            self.position = rows[-1].position
        yield from run_patiently(self.service, self._unlike_authorizations)

    def _wrong_positions(self, rows: Sequence[FeedEvent]) -> Iterator[str]:
        for position, row in enumerate(rows, self.position + 1):
            before = self.sequences.get(row.authorization_id, 0)
            if row.position != position:
                yield f"the feed has {row.position} in the place of {position}"
            # What tells of a call that has ended badly tells of no move.
            if row.sequence != before + (row.call_id is None):
                yield f"the feed has move {row.sequence} of {row.authorization_id} after {before}"
            self.sequences[row.authorization_id] = row.sequence

    def _unlike_authorizations(self, session: Session) -> list[str]:
        """Name the authorizations whose last move the feed has not told of."""
        last = select(Feed.last_position)
        wrong = [
            f"the feed has told of {self.sequences.get(key, 0)} moves of {key}, which has made {version}"
            for key, version in session.execute(select(Authorization.id, Authorization.version))
            if self.sequences.get(key, 0) != version
        ]
        if session.scalars(last).one() != self.position:
            wrong.append(f"the feed ends at {session.scalars(last).one()}, and has nothing after {self.position}")
        return wrong

    def _wrong_deliveries(self, events: Sequence[FeedEvent]) -> Iterator[str]:
        rows = run_patiently(self.service, partial(_deliveries, first=events[0].position, last=events[-1].position))
        by_key: dict[tuple[int, str], WebhookDelivery] = {}
        for row in rows:
            if (row.position, row.endpoint) in by_key:
                yield f"event {row.position} is to be delivered to {row.endpoint} twice"
            by_key[row.position, row.endpoint] = row
        for endpoint in self.receivers:
            last: dict[UUID, int] = {}
            taken = {webhook_id: place for place, webhook_id in enumerate(self.taken[endpoint])}
            for event in events:
                found = by_key.get((event.position, endpoint))
                if found is None:
                    yield f"event {event.position} is not to be delivered to {endpoint}"
                    continue
                yield from self._wrong_delivery(found, str(event.event_id))
                # What has failed once holds up nothing behind it.
                place = taken.get(str(event.event_id))
                if place is not None and endpoint == STEADY and found.attempts == 1:
                    if place < last.get(event.authorization_id, -1):
                        yield f"{endpoint} was told of {event.event_id} after what comes later"
                    last[event.authorization_id] = place

    def _wrong_delivery(self, row: WebhookDelivery, event_id: str) -> Iterator[str]:
        if row.status == Status.DELIVERED and event_id not in self.admitted[row.endpoint]:
            yield f"{event_id} is on record as delivered to {row.endpoint}, which has never said so"
        if row.status == Status.EXPIRED and row.expires_at is None:
            yield f"{event_id} has expired for {row.endpoint}, and tells of no code"
        if row.status not in {Status.DELIVERED, Status.EXPIRED}:
            yield f"{event_id} is {row.status} for {row.endpoint}"


#: Takes whatever comes, at once.
STEADY = "steady"
#: Fails, hangs and lies while there is a storm.
MOODY = "moody"


def _left(session: Session) -> int:
    """Count what is still to be told. What has failed is due now: nobody waits for a day."""
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.status == Status.DUE, WebhookDelivery.due_at > datetime.now(UTC))
        .values(due_at=datetime.now(UTC))
        .execution_options(synchronize_session=False)
    )
    staged = session.scalars(select(func.count()).select_from(OutboxEvent)).one()
    due = select(func.count()).select_from(WebhookDelivery).where(WebhookDelivery.status == Status.DUE)
    return staged + session.scalars(due).one()


def _page(session: Session, *, after: int) -> Sequence[FeedEvent]:
    page = select(FeedEvent).where(FeedEvent.position > after).order_by(FeedEvent.position).limit(_BATCH_SIZE)
    return session.scalars(page).all()


def _deliveries(session: Session, *, first: int, last: int) -> Sequence[WebhookDelivery]:
    return session.scalars(select(WebhookDelivery).where(WebhookDelivery.position.between(first, last))).all()
