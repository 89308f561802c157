"""Stage events: with each move of an authorization, in the same transaction, goes the event that tells of it.

A feed that is read by a number taken at the insert would lose events, since numbers are taken before commits. So an
event waits in an outbox, and gets its position in the feed once it is committed.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from uuid_utils.compat import uuid7

from app.database.bulk import insertion
from app.database.pipeline import Statement, plain
from app.models import Authorization, Call, OutboxEvent
from app.state_machine import Event
from app.vocabulary import CallKind

#: How long applyToken takes a code, from when it came.
CODE_LIFETIME = timedelta(minutes=1)


class EventType(StrEnum):
    """What an event tells of."""

    CONSULTED = "authorization.consulted"
    AUTHCODE_ISSUED = "authorization.authcode_issued"
    TOKEN_ACTIVE = "authorization.token_active"  # noqa: S105 -- no token
    TOKEN_REFRESHED = "authorization.token_refreshed"  # noqa: S105 -- no token
    CANCELED = "authorization.canceled"
    EXCHANGE_FAILED = "authorization.exchange_failed"
    REFRESH_FAILED = "authorization.refresh_failed"
    REVOKE_FAILED = "authorization.revoke_failed"


_TYPES: dict[Event | Literal["consult"], EventType] = {
    "consult": EventType.CONSULTED,
    Event.AUTHCODE_CREATED: EventType.AUTHCODE_ISSUED,
    Event.TOKEN_CREATED: EventType.TOKEN_ACTIVE,
    Event.TOKEN_REFRESHED: EventType.TOKEN_REFRESHED,
    Event.TOKEN_CANCELED: EventType.CANCELED,
}


def event_of(authorization: Authorization, event: Event | Literal["consult"], *, at: datetime) -> OutboxEvent:
    """Make the event of the move that an authorization has just made."""
    kind = _TYPES[event]
    code_came_at = authorization.auth_code_received_at if kind is EventType.AUTHCODE_ISSUED else None
    return plain(OutboxEvent)(
        event_id=uuid7(),
        type=kind,
        authorization_id=authorization.id,
        sequence=authorization.version,
        expires_at=None if code_came_at is None else code_came_at + CODE_LIFETIME,
        at=at,
    )


#: A consult has none: the request that asked for it is answered.
_FAILED: dict[str, EventType] = {
    CallKind.EXCHANGE: EventType.EXCHANGE_FAILED,
    CallKind.REFRESH: EventType.REFRESH_FAILED,
    CallKind.REVOKE: EventType.REVOKE_FAILED,
}


def event_of_call(authorization: Authorization, call: Call, *, at: datetime) -> OutboxEvent | None:
    """Make the event of a call that has ended badly; of a consult there is none."""
    kind = _FAILED.get(call.kind)
    if kind is None:
        return None
    return plain(OutboxEvent)(
        event_id=uuid7(),
        type=kind,
        authorization_id=authorization.id,
        sequence=authorization.version,
        call_id=call.id,
        call_status=call.status,
        result_code=call.result_code,
        at=at,
    )


def event_insertion(events: Sequence[OutboxEvent]) -> Statement:
    """Insert events into the outbox, in this order."""
    return insertion(OutboxEvent, events)
