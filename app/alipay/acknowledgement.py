"""The response to a delivery: the acknowledgement that stops redelivery, or a refusal of the same form."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.alipay.delivery import Delivery
from app.alipay.keyring import Client
from app.alipay.signature import sign

#: The one body that says "received" (Antom's "notifyAuthorization"). It does not tell the outcome.
ACKNOWLEDGEMENT = b'{"result": {"resultCode": "SUCCESS", "resultStatus": "S", "resultMessage": "success"}}'

_ACKNOWLEDGED = json.loads(ACKNOWLEDGEMENT)

#: An entry serves one second of one client and URI, so a few are alive at a time; the rest leaves room for refusals.
_SIGNATURES_KEPT_MAX = 64
#: Four times as long as Alipay documents a client id to be. A longer header is no client's, and is not sent back.
_ECHO_CHARACTERS_MAX = 256


@dataclass(frozen=True, slots=True)
class NotifyResponse:
    """An HTTP response as values, for the endpoint to copy. The result is the one that the body names."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    result_code: str
    result_status: str


def acknowledge(delivery: Delivery, client: Client | None, *, now: datetime) -> NotifyResponse:
    """Say that the notification is stored, so that Alipay never sends it again.

    Signed when the client's private key is known: Antom does not ask for it, the sibling network Alipay+ does.
    """
    return _respond(
        delivery, client, now, status=HTTPStatus.OK, body=ACKNOWLEDGEMENT, result_code="SUCCESS", result_status="S"
    )


def refuse(
    delivery: Delivery,
    *,
    status: int,
    result_code: str,
    result_status: str,
    message: str,
    client: Client | None,
    now: datetime,
) -> NotifyResponse:
    """Say why there is no acknowledgement; Alipay sends again on its schedule.

    Only an authentic delivery comes with its client and gets a signed response: no other sender chooses what we sign.
    """
    result = {"resultCode": result_code, "resultStatus": result_status, "resultMessage": message}
    return _respond(
        delivery,
        client,
        now,
        status=status,
        body=json.dumps({"result": result}).encode("ascii"),
        result_code=result_code,
        result_status=result_status,
    )


def is_acknowledgement(status: int, body: bytes) -> bool:
    """Say, as Alipay does, whether a response stops redelivery: status 200 and the fixed body, however it is spaced."""
    if status != HTTPStatus.OK:
        return False
    try:
        return bool(json.loads(body.decode("utf-8")) == _ACKNOWLEDGED)
    except (ValueError, RecursionError):
        return False


def _respond(
    delivery: Delivery,
    client: Client | None,
    now: datetime,
    *,
    status: int,
    body: bytes,
    result_code: str,
    result_status: str,
) -> NotifyResponse:
    response_time = now.astimezone(UTC).isoformat(timespec="seconds")
    headers = {"Content-Type": "application/json", "response-time": response_time}
    # Echoed unchanged or not at all: a control character could begin another header.
    if 0 < len(delivery.client_id) <= _ECHO_CHARACTERS_MAX and _is_plain(delivery.client_id):
        headers["client-id"] = delivery.client_id
    if client is not None and client.merchant_private_key is not None:
        key = client.merchant_private_key
        headers["signature"] = _signature(key, delivery.method, delivery.uri, client.client_id, response_time, body)
    return NotifyResponse(status, MappingProxyType(headers), body, result_code, result_status)


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


@functools.lru_cache(maxsize=_SIGNATURES_KEPT_MAX)
def _signature(key: RSAPrivateKey, method: str, uri: str, client_id: str, response_time: str, body: bytes) -> str:
    """Sign a response, once for all equal ones: to sign costs thirty times as much as to verify."""
    return sign(key, method=method, uri=uri, client_id=client_id, time=response_time, body=body)
