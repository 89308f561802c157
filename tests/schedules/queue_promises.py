"""What is promised of the queue of what is told, whatever happens, and a reader of the feed who looks after it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.database import Database
from app.events import feed
from app.events.deliveries import Status
from app.models import Authorization, Feed, Transition, WebhookAttempt, WebhookDelivery


class BrokenPromiseError(AssertionError):
    """The queue did what it must not do; says what."""


def broken(what: str) -> NoReturn:
    """Raise `BrokenPromiseError`."""
    raise BrokenPromiseError(what)


@dataclass
class Promises:
    """Looks after each step whether every promise still holds."""

    database: Database
    #: Every request that reached an endpoint, in order, by endpoint: the event, and whether it was told so.
    received: dict[str, list[tuple[UUID, bool]]] = field(default_factory=lambda: defaultdict(list))
    #: What a reader of the feed has read, in order.
    read: list[feed.PublishedEvent] = field(default_factory=list)
    cursor: int = 0
    #: Of each position, the endpoints that were to be told of it.
    subscribed: dict[int, Sequence[str]] = field(default_factory=dict)
    #: What was still to be delivered after the last step, by position and endpoint.
    due: set[tuple[int, str]] = field(default_factory=set)
    #: A clock that was set, and an endpoint that fails: then first attempts need not be in order.
    is_order_promised: bool = True

    def look(self) -> None:
        """See that every promise holds now. Raises `BrokenPromiseError`."""
        self._read_on()
        self._require_gapless()
        self._require_consistent_deliveries()
        if self.is_order_promised:
            self._require_order()

    def _read_on(self) -> None:
        """Read what the feed has more than at the last step, as a reader does who keeps a cursor."""
        try:
            page = self.database.run(partial(feed.page, after=self.cursor, types=None, limit=1000), read_only=True)
        except feed.PastCursorError:
            broken("what was not read yet is purged")
        if page.has_more:
            broken("there are more events than were ever made")
        self.read += page.events
        self.cursor = page.next

    def _require_gapless(self) -> None:
        if [each.position for each in self.read] != list(range(1, len(self.read) + 1)):
            broken("the feed has a gap, or something was added behind a reader")
        by_authorization: dict[UUID, list[int]] = defaultdict(list)
        for each in self.read:
            by_authorization[each.authorization_id].append(each.sequence)
        for sequences in by_authorization.values():
            if sequences != list(range(1, len(sequences) + 1)):
                broken(f"the moves of one authorization are in the feed as {sequences}")

    def _require_consistent_deliveries(self) -> None:
        rows, attempts = self.database.run(_deliveries_and_attempts)
        event_ids = {each.position: each.event_id for each in self.read}
        purged_through = self.database.run(lambda session: session.scalars(select(Feed.purged_through)).one())
        if purged := [key for key in self.due if key[0] <= purged_through]:
            broken(f"{purged} are purged, and were still to be delivered")
        self.due = {(row.position, row.endpoint) for row in rows if row.status == Status.DUE}
        first = {(row.position, row.endpoint): row for row in rows if row.resend_of is None}
        wanted = {
            (position, endpoint)
            for position, endpoints in self.subscribed.items()
            for endpoint in endpoints
            if position > purged_through
        }
        if set(first) != wanted or len(first) != len([row for row in rows if row.resend_of is None]):
            broken(f"deliveries are there for {sorted(first)}, not for {sorted(wanted)}")
        for row in rows:
            if (row.status == Status.DUE) != (row.due_at is not None) or (row.due_at is None) != (
                row.finished_at is not None
            ):
                broken(f"delivery {row.id} is {row.status}, due {row.due_at}, finished {row.finished_at}")
            if attempts.get(row.id, []) != list(range(1, row.attempts + 1)):
                broken(f"delivery {row.id} has the attempts {attempts.get(row.id)} on record, not {row.attempts}")
            was_taken = (event_ids[row.position], True) in self.received[row.endpoint]
            if row.status == Status.DELIVERED and not was_taken:
                broken(f"delivery {row.id} is delivered, and {row.endpoint} has never said so")
            if row.status == Status.EXPIRED and row.expires_at is None:
                broken(f"delivery {row.id} is expired, and tells of no code")

    def _require_order(self) -> None:
        """See that each endpoint got the events of an authorization in order, each for the first time."""
        events = {each.event_id: each for each in self.read}
        for endpoint, received in self.received.items():
            last: dict[UUID, int] = {}
            for event_id in dict.fromkeys(event_id for event_id, _ in received):
                told = events[event_id]
                if told.position < last.get(told.authorization_id, 0) and not self._was_late(endpoint, told):
                    broken(f"{endpoint} was told of {told.type} after what comes later")
                last[told.authorization_id] = told.position

    def _was_late(self, endpoint: str, told: feed.PublishedEvent) -> bool:
        """Say whether an event had failed before: it holds up no other."""
        failed = select(WebhookAttempt.delivery_id).join(
            WebhookDelivery, WebhookDelivery.id == WebhookAttempt.delivery_id
        )
        mine = failed.where(
            WebhookDelivery.position == told.position,
            WebhookDelivery.endpoint == endpoint,
            WebhookAttempt.error.is_not(None),
        )
        return self.database.run(lambda session: session.scalar(mine.limit(1))) is not None

    def require_all_told(self, prefix: str) -> None:
        """See that the feed has had every move of these authorizations once. Raises `BrokenPromiseError`."""
        moves = self.database.run(partial(_moves, prefix=prefix))
        if sorted((each.authorization_id, each.sequence) for each in self.read) != sorted(moves):
            broken("the feed has not had every move once")


def _deliveries_and_attempts(session: Session) -> tuple[Sequence[WebhookDelivery], Mapping[int, list[int]]]:
    attempts: dict[int, list[int]] = defaultdict(list)
    for each in session.scalars(select(WebhookAttempt).order_by(WebhookAttempt.delivery_id, WebhookAttempt.number)):
        attempts[each.delivery_id].append(each.number)
    return list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id))), attempts


def _moves(session: Session, *, prefix: str) -> list[tuple[UUID, int]]:
    mine = select(Transition.authorization_id, Transition.sequence).join(
        Authorization, Authorization.id == Transition.authorization_id
    )
    return [tuple(row) for row in session.execute(mine.where(Authorization.auth_state.startswith(prefix)))]  # type: ignore[misc]
