"""Understand what an authentic body says: one frozen value, or one reason why it cannot be understood."""

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

from app.alipay.json_text import UnreadableJsonError, json_text, shallow_json_text
from app.secret import Secret

#: The longest values of the wire protocol, in characters. Where the documents disagree, the larger number counts.
TYPE_CHARACTERS_MAX = 32
AUTH_STATE_CHARACTERS_MAX = 256
AUTH_CODE_CHARACTERS_MAX = 128
ACCESS_TOKEN_CHARACTERS_MAX = 128
USER_ID_CHARACTERS_MAX = 64
USER_LOGIN_ID_CHARACTERS_MAX = 64
REASON_CHARACTERS_MAX = 256
#: The documents know S, F and U. Any other text is understood too, as not a success; the bound is resultCode's.
RESULT_STATUS_CHARACTERS_MAX = 64


class NotificationType(StrEnum):
    """What happened, in Alipay's own words."""

    AUTHCODE_CREATED = "AUTHCODE_CREATED"
    TOKEN_CREATED = "TOKEN_CREATED"  # noqa: S105 -- the name of a type, not a token
    TOKEN_CANCELED = "TOKEN_CANCELED"  # noqa: S105 -- the name of a type, not a token


_TYPES = {each.value: each for each in NotificationType}

#: What the types of all families look like. Anything else may be a secret, and is not repeated.
_TYPE_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Named:
    """What a body that is not understood as a whole names all the same, to be found by."""

    type: str | None = None
    auth_state: str | None = None
    access_token: Secret | None = None


@dataclass(frozen=True, slots=True)
class Notification:
    """What Alipay says happened. A field that its type does not correlate by is None, also when it was sent along."""

    #: Text where it is none that moves an authorization; new ones have appeared before and will again.
    type: NotificationType | str
    result_status: str
    auth_state: str | None = None
    auth_code: Secret | None = None
    access_token: Secret | None = None
    user_id: str | None = None
    user_login_id: Secret | None = None


class MalformedNotificationError(ValueError):
    """An authentic body is not JSON, not an object, or something that its type cannot do without is missing or wrong.

    It names the field and the rule, and never the value: that may be a token.
    """

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field} is {rule}")
        self.field = field
        self.rule = rule


def parse(body: bytes, *, nesting_bounded: bool = True) -> Notification:
    """Read a notification from the exact bytes that were verified.

    Only the type, the result's status and the keys that the type requires can make it malformed: losing a cancellation
    because an optional field is a character too long would charge a user who said stop. Nothing is trimmed. What was
    acknowledged before nesting was bounded is read without that bound. Raises `MalformedNotificationError` and nothing
    else, whatever the bytes.
    """
    document = _json_object(body, nesting_bounded=nesting_bounded)
    _refuse_other_family(document)
    notification_type = _required(document, "authorizationNotifyType", TYPE_CHARACTERS_MAX)
    result_status = _result_status(document)
    auth_state = auth_code = access_token = None
    # A cancellation names its token and nothing else: an authState sent along must not choose the authorization.
    if notification_type in {NotificationType.AUTHCODE_CREATED, NotificationType.TOKEN_CREATED}:
        auth_state = _required(document, "authState", AUTH_STATE_CHARACTERS_MAX)
    if notification_type == NotificationType.AUTHCODE_CREATED:
        auth_code = Secret(_required(document, "authCode", AUTH_CODE_CHARACTERS_MAX))
    if notification_type in {NotificationType.TOKEN_CREATED, NotificationType.TOKEN_CANCELED}:
        access_token = Secret(_required(document, "accessToken", ACCESS_TOKEN_CHARACTERS_MAX))
    user_login_id = _optional(document, "userLoginId", USER_LOGIN_ID_CHARACTERS_MAX)
    return Notification(
        type=_TYPES.get(notification_type, notification_type),
        result_status=result_status,
        auth_state=auth_state,
        auth_code=auth_code,
        access_token=access_token,
        user_id=_optional(document, "userId", USER_ID_CHARACTERS_MAX),
        user_login_id=None if user_login_id is None else Secret(user_login_id),
    )


def names(body: bytes) -> Named:
    """Read what a malformed body can still be found by: each of these fields that is a good one by itself.

    Of a body that is not JSON nothing is read: where a text is cut off, or a quote is missing, only guesses are left.
    """
    try:
        document = _json_object(body)
    except MalformedNotificationError:
        return Named()
    notification_type = _optional(document, "authorizationNotifyType", TYPE_CHARACTERS_MAX)
    token = _optional(document, "accessToken", ACCESS_TOKEN_CHARACTERS_MAX)
    is_cancellation = notification_type == NotificationType.TOKEN_CANCELED
    return Named(
        type=notification_type,
        # As in a whole one, an authState sent along must not say whose cancellation it is.
        auth_state=None if is_cancellation else _optional(document, "authState", AUTH_STATE_CHARACTERS_MAX),
        access_token=None if token is None else Secret(token),
    )


def cancel_reason(body: bytes) -> Secret | None:
    """Read why the user canceled, if the wallet says so: the words of a person, who may have named somebody."""
    try:
        reason = _optional(_json_object(body, nesting_bounded=False), "reason", REASON_CHARACTERS_MAX)
    except MalformedNotificationError:
        return None
    return None if reason is None else Secret(reason)


def _json_object(body: bytes, *, nesting_bounded: bool = True) -> dict[str, Any]:
    """Decode strict UTF-8 and strict JSON (RFC 8259).

    Of a key that is there twice the last value counts, as in every parser at either end; refusing would make Alipay
    resend for a day and then lose the message. Integers are read as floats because no number means anything to us, and
    Python refuses to build an integer of thousands of digits, which a field we ignore may hold.
    """
    try:
        text = json_text(body) if nesting_bounded else shallow_json_text(body)
        document = json.loads(text, parse_int=float, parse_constant=_refuse_constant)
    except UnreadableJsonError as error:
        raise MalformedNotificationError("body", error.rule) from None
    except ValueError:
        raise MalformedNotificationError("body", "not JSON") from None
    if not isinstance(document, dict):
        raise MalformedNotificationError("body", "not an object")
    return document


def _refuse_other_family(document: dict[str, Any]) -> None:
    """Name what was registered for the wrong URL: only our family's notifications have an authorizationNotifyType.

    Those of payments, vaulting and subscriptions carry a notifyType in its place.
    """
    other_type = document.get("notifyType")
    if document.get("authorizationNotifyType") or not other_type:
        return
    shown = isinstance(other_type, str) and _TYPE_NAME.fullmatch(other_type)
    named = f"notifyType is {other_type}" if shown else "there is a notifyType"
    rule = f"missing, but {named}: this is a notification of another family, whose URL is not this one"
    raise MalformedNotificationError("authorizationNotifyType", rule)


def _refuse_constant(_name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python's parser accepts and JSON does not have."""
    raise ValueError


def _result_status(document: dict[str, Any]) -> str:
    result = document.get("result")
    if result is None:
        raise MalformedNotificationError("result", "missing")
    if not isinstance(result, dict):
        raise MalformedNotificationError("result", "not an object")
    return _required(result, "resultStatus", RESULT_STATUS_CHARACTERS_MAX)


def _required(document: dict[str, Any], name: str, characters_max: int) -> str:
    value = document.get(name)
    if value is None:
        raise MalformedNotificationError(name, "missing")
    if not isinstance(value, str):
        raise MalformedNotificationError(name, "not a string")
    if not value:
        raise MalformedNotificationError(name, "empty")
    if len(value) > characters_max:
        raise MalformedNotificationError(name, f"longer than {characters_max} characters")
    return value


def _optional(document: dict[str, Any], name: str, characters_max: int) -> str | None:
    """Return the value if it is a good one; null, empty, of another type or too long is the same as absent."""
    value = document.get(name)
    return value if isinstance(value, str) and 0 < len(value) <= characters_max else None
