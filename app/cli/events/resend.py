"""`flask events resend`: tell an endpoint of an event once more."""

from datetime import UTC, datetime
from uuid import UUID

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app.cli.current_service import look_up, the_service
from app.cli.endpoints.finding import find_endpoint
from app.cli.errors import Refusal
from app.cli.events.finding import find_event
from app.cli.long_running import run_step
from app.events import deliveries
from app.events.deliveries import DeliveryFilter
from app.models import WebhookDelivery

#: The newest of each endpoint is among them, but where somebody resends for hours.
_DELIVERIES_MAX = 1000


class NeverToldError(Refusal):
    """There is no delivery of this event that could be repeated."""

    def __init__(self, event_id: UUID, endpoint: str | None) -> None:
        told = "told to no endpoint of endpoints.toml" if endpoint is None else f"never told to endpoint {endpoint}"
        super().__init__(f"Event {event_id} was {told}: flask events recover --since … makes what was never made.")


@click.command()
@with_appcontext
@click.argument("event_id", metavar="ID", type=click.UUID)
@click.option("--endpoint", metavar="NAME", help="Only to this one.  [default: all that were told of it]")
def resend(event_id: UUID, endpoint: str | None) -> None:
    """Tell the endpoints of an event once more, each by a new delivery. The old ones stay as they are.

    A code that has expired is told too: somebody asked for it.
    """
    if endpoint is not None:
        find_endpoint(endpoint)
    _ = look_up(lambda session: find_event(session, event_id))
    names = set(the_service().endpoints) if endpoint is None else {endpoint}

    def again(session: Session) -> list[WebhookDelivery]:
        deliveries.lock_feed(session)
        find_event(session, event_id)
        found = deliveries.listing(session, DeliveryFilter(event=event_id), limit=_DELIVERIES_MAX)
        # The newest of each.
        newest = {each.endpoint: each for each in reversed(found) if each.endpoint in names}
        if not newest:
            raise NeverToldError(event_id, endpoint)
        return [deliveries.resend(session, each, now=datetime.now(UTC)) for each in newest.values()]

    for made in run_step(lambda: the_service().database.run(again)):
        click.echo(f"Delivery {made.id} to {made.endpoint} is due now; it repeats {made.resend_of}.")
