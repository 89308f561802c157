"""Call Alipay: one signed request and its verified answer, values in and values out (Antom's "Authorization" APIs).

The outcome is one of three: done, refused for good, or unknown, after which the identical request may be sent again.
Nothing that cannot be shown to come from Alipay is believed, and nothing secret is in a sentence or a `repr`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import Any, NoReturn

from app.alipay.call_answers import IncompleteAnswerError, read_consult, read_grant
from app.alipay.json_text import UnreadableJsonError, json_text
from app.alipay.keyring import Client
from app.alipay.signature import NotAuthenticError, sign, verify_answer
from app.bounded_http import ConnectionPool, HttpResult, post

#: From the first look-up of the name to the last byte of the answer, enforced to 0.2 s. Nothing is sent later.
SECONDS_MAX = 10.0
#: In which the connection must be ready. What then is left of the ten seconds is time to answer.
CONNECT_SECONDS_MAX = 5.0
#: As for a notification. An answer is a few kilobytes with every field at its maximum.
ANSWER_BYTES_MAX = 64 * 1024
#: An idle connection that something between has forgotten would cost the next call all of its time.
IDLE_SECONDS_MAX = 30.0

RESULT_MESSAGE_CHARACTERS_MAX = 256

#: What all result codes look like. Anything else may be a secret, and is not repeated.
_RESULT_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
#: What a database takes as text only in part, and a terminal obeys.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
#: The fields of a request that no sentence may repeat.
_SECRET_FIELDS = ("authCode", "refreshToken", "accessToken")
_SANDBOX_PREFIX = "SANDBOX_"
_TOO_MANY = "REQUEST_TRAFFIC_EXCEED_LIMIT"


class Operation(StrEnum):
    """What Alipay is asked to do: the last part of the path."""

    CONSULT = "consult"
    #: Exchanges a code, or a refresh token, for a token.
    APPLY_TOKEN = "applyToken"  # noqa: S105 -- the name of a call, not a token
    REVOKE = "revoke"


@dataclass(frozen=True, slots=True)
class Done:
    """Alipay has done it, and signed that it has. The answer has what its operation must have."""

    answer: Mapping[str, Any] = field(repr=False)
    http_status: int
    milliseconds: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Alipay has refused for good: the same request is not sent again."""

    #: Empty where the answer names none.
    code: str
    #: Alipay's own words, for people.
    message: str
    http_status: int
    milliseconds: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may be done or not, now or later: only the identical request, sent again, can tell."""

    #: A sentence for people.
    why: str
    #: Alipay's, of an answer that says so itself, as AUTH_IN_PROCESS does.
    code: str | None
    #: None where nobody answered.
    http_status: int | None
    milliseconds: int
    #: False where no connection could be made, so that Alipay cannot have the request.
    is_sent: bool = True


class Caller:
    """Makes the calls of one client that has a gateway. Safe to share between threads, each of which makes one."""

    def __init__(self, client: Client, *, pool_size: int = 8) -> None:
        if client.gateway is None or client.merchant_private_key is None:
            message = "A client without a gateway and a private key cannot call."
            raise ValueError(message)
        self._client = client
        self._key = client.merchant_private_key
        self._pool = ConnectionPool(client.gateway.url, idle_max=pool_size, idle_seconds_max=IDLE_SECONDS_MAX)

    def call(
        self, operation: Operation, body: bytes, *, now: datetime, seconds_max: float = SECONDS_MAX
    ) -> Done | Refused | Unknown:
        """Send a request, once, and say how it ended. Never raises on account of what the other side does.

        To send it again, give the same bytes again. After `SECONDS_MAX` the outcome is unknown.
        """
        uri = path(self._client.client_id, operation)
        result = post(
            self._pool,
            uri,
            body,
            self._headers(uri, body, now),
            seconds_max=seconds_max,
            connect_seconds_max=min(CONNECT_SECONDS_MAX, seconds_max),
            body_bytes_max=ANSWER_BYTES_MAX,
            is_repeatable=False,
        )
        return _outcome(self._client, operation, uri, body, result)

    def close(self) -> None:
        """Close the connections that are kept."""
        self._pool.close()

    def _headers(self, uri: str, body: bytes, now: datetime) -> dict[str, str]:
        time = str((now - _EPOCH) // _MILLISECOND)
        client_id = self._client.client_id
        return {
            "Content-Type": "application/json; charset=UTF-8",
            "User-Agent": "notifyauth",
            "client-id": client_id,
            "request-time": time,
            "signature": sign(self._key, method="POST", uri=uri, client_id=client_id, time=time, body=body),
        }


def path(client_id: str, operation: Operation) -> str:
    """Return the path that is called, and signed: that of the sandbox is another one."""
    sandbox = "sandbox/" if client_id.startswith(_SANDBOX_PREFIX) else ""
    return f"/ams/{sandbox}api/v1/authorizations/{operation}"


def is_to_be_repeated_slowly(code: str | None) -> bool:
    """Say whether Alipay asks for fewer requests."""
    return code == _TOO_MANY


# --- what is answered ------------------------------------------------------------------------------------------------


class _NotBelievedError(ValueError):
    """An answer is not one that can be believed, or read. The message is a sentence."""


def _outcome(
    client: Client, operation: Operation, uri: str, request: bytes, response: HttpResult
) -> Done | Refused | Unknown:
    """Judge an answer (protocol.md §4)."""
    status, milliseconds = response.status, response.milliseconds
    if status is None:
        where = "Alipay did not answer." if response.is_sent else "Alipay could not be reached."
        return Unknown(f"{where} {response.error}", None, None, milliseconds, is_sent=response.is_sent)
    try:
        is_signed = _check_origin(client, uri, response)
        answer = _json_object(response.body)
        result = _result(answer)
        code = _result_code(result)
        match result.get("resultStatus"):
            case "S":
                _require_success(operation, answer, is_signed=is_signed)
                return Done(answer, status, milliseconds)
            case "F":
                return Refused(code or "", _message(result, request), status, milliseconds)
            case "U":
                why = f"Alipay does not know yet ({code or 'without a code'}): {_message(result, request)}"
                return Unknown(why, code, status, milliseconds)
            case _:
                why = "Alipay's answer has a resultStatus that is none of S, F and U."
                return Unknown(why, None, status, milliseconds)
    except (_NotBelievedError, IncompleteAnswerError) as error:
        return Unknown(str(error), None, status, milliseconds)


def _check_origin(client: Client, uri: str, response: HttpResult) -> bool:
    """Say whether an answer is signed. Raises `_NotBelievedError` where it cannot be Alipay's answer to this client.

    The gateway does not sign where it rejects the caller. Half of a signature is none.
    """
    if response.status != HTTPStatus.OK:
        is_redirect = HTTPStatus.MULTIPLE_CHOICES <= (response.status or 0) < HTTPStatus.BAD_REQUEST
        more = ", and redirects are not followed" if is_redirect else ""
        _refuse(f"Alipay's answer has HTTP status {response.status}{more}.")
    if response.error is not None:
        _refuse(f"Alipay's answer is not whole. {response.error}")
    if response.headers.get("client-id", client.client_id) != client.client_id:
        _refuse("Alipay's answer names another client id.")
    signature, time = response.headers.get("signature"), response.headers.get("response-time")
    if signature is None and time is None:
        return False
    if signature is None or time is None:
        _refuse("Alipay's answer has only one of signature and response-time.")
    try:
        verify_answer(client, uri=uri, time=time, signature=signature, body=response.body)
    except NotAuthenticError as error:
        _refuse(f"The signature of Alipay's answer cannot be verified ({error.cause}).")
    return True


def _require_success(operation: Operation, answer: Mapping[str, Any], *, is_signed: bool) -> None:
    if not is_signed:
        _refuse("Alipay's answer says success without a signature, which is not believed.")
    if operation is Operation.APPLY_TOKEN:
        read_grant(answer)
    elif operation is Operation.CONSULT:
        read_consult(answer)


def _json_object(body: bytes) -> dict[str, Any]:
    """Decode strict UTF-8 and strict JSON. Of two values under one name neither is believed."""
    try:
        answer = json.loads(
            json_text(body), parse_int=float, parse_constant=_refuse_constant, object_pairs_hook=_without_repetition
        )
    except UnreadableJsonError as error:
        _refuse(f"Alipay's answer is {error.rule}.")
    except _NotBelievedError:
        raise
    except ValueError:
        _refuse("Alipay's answer is not JSON.")
    if not isinstance(answer, dict):
        _refuse("Alipay's answer is not a JSON object.")
    return answer


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        _refuse("Alipay's answer gives one name two values.")
    return document


def _refuse_constant(_name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python's parser accepts and JSON does not have."""
    raise ValueError


def _refuse(sentence: str) -> NoReturn:
    raise _NotBelievedError(sentence)


def _result(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    result = answer.get("result")
    if not isinstance(result, Mapping):
        _refuse("Alipay's answer has no result.")
    return result


def _result_code(result: Mapping[str, Any]) -> str | None:
    code = result.get("resultCode")
    return code if isinstance(code, str) and _RESULT_CODE.fullmatch(code) else None


def _message(result: Mapping[str, Any], request: bytes) -> str:
    """Return Alipay's words, without what was sent: they might repeat it."""
    message = result.get("resultMessage")
    if not isinstance(message, str):
        return ""
    sent = json.loads(request)
    for secret in [sent[name] for name in _SECRET_FIELDS if sent.get(name)]:
        message = message.replace(secret, "***")
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", message)[:RESULT_MESSAGE_CHARACTERS_MAX]
