"""Serializers: authorizations, notifications and events as JSON documents, without secrets, for HTTP and the shell."""

import json
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app import authorizations
from app.events import deliveries
from app.events.feed import PublishedEvent
from app.inbox_admin import of_authorization
from app.models import Authorization, InboxEntry, Transition, WebhookAttempt, WebhookDelivery

Document = dict[str, Any]


def timestamp(time: datetime | None) -> str | None:
    """Write a time as RFC 3339, in UTC, to the millisecond."""
    if time is None:
        return None
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def authorization_summary(authorization: Authorization) -> Document:
    """Show an authorization as it is listed."""
    return {
        "id": str(authorization.id),
        "clientId": authorization.client_id,
        "authState": authorization.auth_state,
        "flow": authorization.flow,
        "state": authorization.state,
        "userRef": authorization.user_ref,
        "userId": authorization.user_id,
        "customerBelongsTo": authorization.customer_belongs_to,
        "createdAt": timestamp(authorization.created_at),
        "updatedAt": timestamp(authorization.updated_at),
    }


def authorization_document(session: Session, authorization: Authorization) -> Document:
    """Show an authorization whole: with its history and every notification linked to it."""
    return {
        **authorization_summary(authorization),
        "history": [_move(move) for move in authorizations.history(session, authorization.id)],
        "notifications": [_linked(entry) for entry in of_authorization(session, authorization)],
    }


def entry_summary(entry: InboxEntry) -> Document:
    """Show an inbox entry as it is listed."""
    return {
        "id": str(entry.id),
        "clientId": entry.client_id,
        "type": entry.type,
        "authState": entry.auth_state,
        "outcome": entry.outcome,
        "reason": entry.reason,
        "deliveries": entry.deliveries,
        "receivedAt": timestamp(entry.received_at),
        "lastReceivedAt": timestamp(entry.last_received_at),
        "authorizationId": None if entry.authorization_id is None else str(entry.authorization_id),
    }


def event_document(event: PublishedEvent) -> Document:
    """Show an event as the feed has it and as an endpoint is told it: thin, without a code, a token or a login id."""
    data = {
        "authorizationId": str(event.authorization_id),
        "clientId": event.client_id,
        "authState": event.auth_state,
        "userRef": event.user_ref,
        "customerBelongsTo": event.customer_belongs_to,
        "sequence": event.sequence,
        "from": event.from_state,
        "to": event.to_state,
        "cause": event.cause,
        "learnedAt": timestamp(event.learned_at or event.at),
        "at": timestamp(event.at),
    }
    if event.expires_at is not None:
        data["expiresAt"] = timestamp(event.expires_at)
    # What Standard Webhooks puts beside the data.
    return {"id": str(event.event_id), "type": event.type, "timestamp": timestamp(event.at), "data": data}


def event_body(event: PublishedEvent) -> str:
    """Write an event as the body of a webhook: the same bytes, and so the same signature, whenever it is written."""
    # In ASCII, since an authState may be text that UTF-8 cannot write.
    return json.dumps(event_document(event), separators=(",", ":"))


def delivery_summaries(session: Session, listed: Collection[WebhookDelivery]) -> list[Document]:
    """Show deliveries as they are listed."""
    events = deliveries.events_of(session, listed)
    return [_delivery(each, *events[each.position]) for each in listed]


def delivery_document(session: Session, delivery: WebhookDelivery) -> Document:
    """Show a delivery whole: with every attempt that was made."""
    (summary,) = delivery_summaries(session, [delivery])
    return {**summary, "attemptsMade": [_attempt(each) for each in deliveries.attempts_of(session, delivery.id)]}


def _delivery(delivery: WebhookDelivery, event_id: UUID, event_type: str) -> Document:
    return {
        "id": str(delivery.id),
        "eventId": str(event_id),
        "type": event_type,
        "endpoint": delivery.endpoint,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "dueAt": timestamp(delivery.due_at),
        "expiresAt": timestamp(delivery.expires_at),
        "createdAt": timestamp(delivery.created_at),
        "finishedAt": timestamp(delivery.finished_at),
        "resendOf": None if delivery.resend_of is None else str(delivery.resend_of),
    }


def _attempt(attempt: WebhookAttempt) -> Document:
    return {
        "number": attempt.number,
        "at": timestamp(attempt.at),
        "milliseconds": attempt.milliseconds,
        "httpStatus": attempt.http_status,
        "error": attempt.error,
        "answer": attempt.answer,
    }


def _linked(entry: InboxEntry) -> Document:
    return {
        "id": str(entry.id),
        "type": entry.type,
        "outcome": entry.outcome,
        "reason": entry.reason,
        "deliveries": entry.deliveries,
        "receivedAt": timestamp(entry.received_at),
    }


def _move(move: Transition) -> Document:
    return {
        "sequence": move.sequence,
        "event": move.event,
        "from": move.from_state,
        "to": move.to_state,
        "cause": move.cause,
        "by": move.by,
        "reason": move.reason,
        "notificationId": None if move.notification_id is None else str(move.notification_id),
        "learnedAt": timestamp(move.learned_at or move.at),
        "at": timestamp(move.at),
    }
