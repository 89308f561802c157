"""Find the event that a command is about."""

from uuid import UUID

from sqlalchemy.orm import Session

from app.cli.errors import Refusal
from app.events import feed
from app.events.feed import PublishedEvent


class NoEventError(Refusal):
    """The feed has no event with this id."""

    def __init__(self, event_id: UUID) -> None:
        super().__init__(f"There is no event {event_id} in the feed; it may have been purged, or not be numbered yet.")


def find_event(session: Session, event_id: UUID) -> PublishedEvent:
    """Find an event. Raises `NoEventError`."""
    event = feed.find(session, event_id)
    if event is None:
        raise NoEventError(event_id)
    return event
