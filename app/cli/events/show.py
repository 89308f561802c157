"""`flask events show`: one event, to whom it was told, and how each attempt was answered."""

from collections.abc import Sequence
from uuid import UUID

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app import documents
from app.cli import options
from app.cli.current_service import look_up
from app.cli.events.finding import find_event
from app.cli.tables import ending, moment, print_facts, print_json, print_table
from app.events import deliveries
from app.events.deliveries import DeliveryFilter
from app.events.feed import PublishedEvent
from app.models import WebhookAttempt, WebhookDelivery

#: Each is shown with all its attempts. More are made only where somebody resends for hours.
_DELIVERIES_MAX = 1000

Delivered = Sequence[tuple[WebhookDelivery, Sequence[WebhookAttempt]]]


@click.command()
@with_appcontext
@click.argument("event_id", metavar="ID", type=click.UUID)
@options.as_json
def show(event_id: UUID, *, as_json: bool) -> None:
    """Show an event with its deliveries, and how each attempt of them was answered."""
    wanted = DeliveryFilter(event=event_id)

    def document(session: Session) -> documents.Document:
        event = find_event(session, event_id)
        found = deliveries.listing(session, wanted, limit=_DELIVERIES_MAX)
        return {
            "cursor": str(event.position),
            **documents.event_document(event),
            "deliveries": [documents.delivery_document(session, each) for each in found],
        }

    def whole(session: Session) -> tuple[PublishedEvent, Delivered]:
        event = find_event(session, event_id)
        found = deliveries.listing(session, wanted, limit=_DELIVERIES_MAX)
        return event, [(each, deliveries.attempts_of(session, each.id)) for each in found]

    if as_json:
        print_json(look_up(document))
        return
    event, delivered = look_up(whole)
    print_facts(_facts(event))
    click.echo("\nDeliveries")
    if not delivered:
        click.echo("none")
        return
    print_table(
        ("ID", "ENDPOINT", "STATUS", "ATTEMPTS", "MADE", "DUE", "AGAIN"),
        [
            (each.id, each.endpoint, each.status, each.attempts, moment(each.created_at), moment(each.due_at), again)
            for each, _ in delivered
            for again in [each.resend_of and f"of {each.resend_of}"]
        ],
    )
    if not any(attempts for _, attempts in delivered):
        return
    click.echo("\nAttempts")
    print_table(
        ("DELIVERY", "#", "AT", "MS", "STATUS", "ANSWER"),
        [
            (each.delivery_id, each.number, moment(each.at), each.milliseconds, each.http_status, _answer(each))
            for _, attempts in delivered
            for each in attempts
        ],
        last="ANSWER",
    )


def _facts(event: PublishedEvent) -> dict[str, object]:
    return {
        "id": event.event_id,
        "type": event.type,
        "cursor": event.position,
        "at": moment(event.at),
        "learned": moment(event.learned_at or event.at),
        "authState": event.auth_state,
        "client": event.client_id,
        "user": event.user_ref,
        "wallet": event.customer_belongs_to,
        "authorization": event.authorization_id,
        "sequence": event.sequence,
        # A call that ended badly moves nothing.
        "from": event.from_state if event.call_id is None else event.to_state,
        "to": event.to_state,
        "cause": event.cause,
        "call": event.call_id,
        "call ended": event.call_status and ending(event.call_status, event.result_code),
        "code expires": event.expires_at and moment(event.expires_at),
    }


def _answer(attempt: WebhookAttempt) -> str | None:
    """Write why an attempt failed, and what was answered."""
    return " ".join(filter(None, (attempt.error, attempt.answer))) or None
