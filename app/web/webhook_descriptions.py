"""Describe in OpenAPI what endpoints are sent: one webhook for each type of event (Standard Webhooks 1.0)."""

from typing import Any

from app.events.staging import EventType

_SUMMARIES = {
    EventType.CONSULTED: "An authorization was opened",
    EventType.AUTHCODE_ISSUED: "There is an auth code, for a minute",
    EventType.TOKEN_ACTIVE: "There is a token: the authorization stands",
    EventType.TOKEN_REFRESHED: "The token was replaced by a refresh",
    EventType.CANCELED: "The authorization was canceled, for good",
    EventType.EXCHANGE_FAILED: "The auth code was lost: it could not be exchanged within its minute",
    EventType.REFRESH_FAILED: "The token could not be refreshed, and still lives for a while",
    EventType.REVOKE_FAILED: "Alipay has refused to revoke the token",
}
_OF_CALLS = frozenset({EventType.EXCHANGE_FAILED, EventType.REFRESH_FAILED, EventType.REVOKE_FAILED})
#: Each with what it says.
_HEADERS = {
    "webhook-id": "The event's id, the same at every attempt: an event that is told again is known by it.",
    "webhook-timestamp": "When this attempt was made, in seconds since 1970.",
    "webhook-signature": "One signature for each secret of the endpoint, `v1,…`, with spaces between them.",
}
_RESPONSES = {
    "2XX": "The event is taken, and not sent again.",
    "default": "The event is not taken, and sent again later. Retry-After is honoured up to an hour.",
}


def webhooks() -> dict[str, Any]:
    """Describe the webhook of every type."""
    return {kind.value: {"post": _webhook(kind, summary)} for kind, summary in _SUMMARIES.items()}


def _webhook(kind: EventType, summary: str) -> dict[str, Any]:
    event: dict[str, Any] = {"properties": {"type": {"const": kind.value}}}
    if kind is EventType.AUTHCODE_ISSUED:
        event["properties"]["data"] = {"required": ["expiresAt"]}
    if kind in _OF_CALLS:
        event["properties"]["data"] = {"required": ["call"]}
    schema = {"allOf": [{"$ref": "#/components/schemas/EventDocument"}, event]}
    return {
        "summary": summary,
        "operationId": "on" + "".join(word.capitalize() for word in kind.replace(".", "_").split("_")),
        "tags": ["events"],
        "security": [],
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": said, "schema": {"type": "string"}}
            for name, said in _HEADERS.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {status: {"description": said} for status, said in _RESPONSES.items()},
    }
