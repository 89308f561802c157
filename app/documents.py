"""Serializers: authorizations, notifications and events as JSON documents, without secrets, for HTTP and the shell."""

import json
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app import authorizations, call_statements, tokens
from app.events import deliveries
from app.events.feed import PublishedEvent
from app.inbox_admin import of_authorization
from app.models import Authorization, Call, CallAttempt, InboxEntry, Transition, WebhookAttempt, WebhookDelivery
from app.vocabulary import CauseKind

Document = dict[str, Any]


def timestamp(time: datetime | None) -> str | None:
    """Write a time as RFC 3339, in UTC, to the millisecond."""
    if time is None:
        return None
    # Nearly every time is in UTC already.
    time = time if time.tzinfo is UTC else time.astimezone(UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def authorization_summaries(session: Session, listed: Collection[Authorization]) -> list[Document]:
    """Show authorizations as they are listed: each with the end of its token and its newest call."""
    ids = [each.id for each in listed]
    ends, newest = tokens.current_expiries(session, ids), call_statements.newest(session, ids)
    return [
        {
            **_authorization(each),
            "accessTokenExpiryTime": timestamp(ends.get(each.id)),
            "call": _call(newest.get(each.id)),
        }
        for each in listed
    ]


def _authorization(authorization: Authorization) -> Document:
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
    (summary,) = authorization_summaries(session, [authorization])
    return {
        **summary,
        "history": [move_document(move) for move in authorizations.history(session, authorization.id)],
        "notifications": [_linked(entry) for entry in of_authorization(session, authorization)],
    }


def call_summary(call: Call) -> Document:
    """Show a call as it is listed."""
    return {
        "id": str(call.id),
        "kind": call.kind,
        "status": call.status,
        "attempts": call.attempts,
        "isInFlight": call.is_in_flight,
        "dueAt": timestamp(call.due_at),
        "deadlineAt": timestamp(call.deadline_at),
        "resultCode": call.result_code,
        "reason": call.reason,
        "cause": call.cause,
        "by": call.by,
        "createdAt": timestamp(call.created_at),
        "finishedAt": timestamp(call.finished_at),
    }


def call_summaries(session: Session, listed: Collection[Call]) -> list[Document]:
    """Show calls as they are listed by themselves: each with its authorization."""
    keys = call_statements.auth_state_keys(session, listed)
    return [{**call_summary(each), **_subject(each, keys[each.authorization_id][1])} for each in listed]


def _subject(call: Call, auth_state: str) -> Document:
    return {"clientId": call.client_id, "authorizationId": str(call.authorization_id), "authState": auth_state}


def call_document(session: Session, call: Call, authorization: Authorization) -> Document:
    """Show a call whole: with its authorization and every attempt that was made."""
    return {
        **call_summary(call),
        **_subject(call, authorization.auth_state),
        "attemptsMade": [_call_attempt(each) for each in call_statements.attempts_of(session, call.id)],
    }


def _call(call: Call | None) -> Document | None:
    return None if call is None else call_summary(call)


def _call_attempt(attempt: CallAttempt) -> Document:
    return {
        "number": attempt.number,
        "startedAt": timestamp(attempt.started_at),
        "milliseconds": attempt.milliseconds,
        "httpStatus": attempt.http_status,
        "resultStatus": attempt.result_status,
        "resultCode": attempt.result_code,
        "error": attempt.error,
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
    at = timestamp(event.at)
    data: Document = {
        "authorizationId": str(event.authorization_id),
        "clientId": event.client_id,
        "authState": event.auth_state,
        "userRef": event.user_ref,
        "customerBelongsTo": event.customer_belongs_to,
        "sequence": event.sequence,
        "from": event.from_state,
        "to": event.to_state,
        "cause": event.cause,
        "learnedAt": timestamp(event.learned_at) or at,
        "at": at,
    }
    if event.expires_at is not None:
        data["expiresAt"] = timestamp(event.expires_at)
    if event.call_id is not None:
        # A call that ended badly moves nothing.
        data |= {"from": event.to_state, "cause": CauseKind.GATEWAY, "learnedAt": timestamp(event.at)}
        data["call"] = {"id": str(event.call_id), "status": event.call_status, "resultCode": event.result_code}
    # What Standard Webhooks puts beside the data.
    return {"id": str(event.event_id), "type": event.type, "timestamp": at, "data": data}


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


def move_document(move: Transition) -> Document:
    """Show one line of a history."""
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
