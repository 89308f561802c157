"""Read the body of a call: one frozen value, or the sentence with which the gateway refuses it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from app.alipay.json_text import UnreadableJsonError, json_text

#: The longest values of the documents, in characters.
_WALLET_MAX = 64
_AUTH_STATE_MAX = 256
_SECRET_MAX = 128
_URL_MAX = 1024
_SCOPES_MAX = 4
_CLIENT_ID_MAX = 64
_REGION_MAX = 2

#: What a Location header can carry, and no browser reads as another address than it looks like.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[!-\[\]-~]+")
#: Addresses of these schemes run or show what stands in them.
_NO_ADDRESSES = {"javascript", "data", "vbscript", "file", "blob", "about", "view-source"}


class Operation(StrEnum):
    """What is asked of the gateway. applyToken is two: an exchange of a code, or a refresh."""

    CONSULT = "consult"
    EXCHANGE = "exchange"
    REFRESH = "refresh"
    REVOKE = "revoke"
    #: What a user does is none of a call, but notifications come of it, and those can be lost.
    CONSENT = "consent"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class ConsultRequest:
    """Asks for a page on which the user can consent."""

    wallet: str
    redirect_url: str
    scopes: tuple[str, ...]
    auth_state: str
    auth_client_id: str | None = None
    notify_url: str | None = None
    terminal_type: str | None = None

    @property
    def subject(self) -> str:
        """What the call is about."""
        return self.auth_state


@dataclass(frozen=True, slots=True)
class ExchangeRequest:
    """Asks for the token of a code."""

    wallet: str
    code: str = field(repr=False)

    @property
    def subject(self) -> str:
        """What the call is about."""
        return self.code


@dataclass(frozen=True, slots=True)
class RefreshRequest:
    """Asks for a new token."""

    wallet: str
    refresh_token: str = field(repr=False)

    @property
    def subject(self) -> str:
        """What the call is about."""
        return self.refresh_token


@dataclass(frozen=True, slots=True)
class RevokeRequest:
    """Asks for the end of a token."""

    access_token: str = field(repr=False)

    @property
    def subject(self) -> str:
        """What the call is about."""
        return self.access_token


Request = ConsultRequest | ExchangeRequest | RefreshRequest | RevokeRequest


class ParamIllegalError(ValueError):
    """A body is not as the documents say. It names the field and the rule, and never the value."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field} {rule}")


def read_request(name: str, body: bytes) -> Request:
    """Read the body of the call of this name: consult, applyToken or revoke. Raises `ParamIllegalError`."""
    document = _json_object(body)
    _refuse_other_than_strings("body", document)
    match name:
        case "consult":
            return _consult(document)
        case "applyToken":
            return _apply_token(document)
        case _:
            return RevokeRequest(_required(document, "accessToken", _SECRET_MAX))


def operation_of(request: Request) -> Operation:
    """Say what a request asks for."""
    match request:
        case ConsultRequest():
            return Operation.CONSULT
        case ExchangeRequest():
            return Operation.EXCHANGE
        case RefreshRequest():
            return Operation.REFRESH
        case RevokeRequest():
            return Operation.REVOKE


def _consult(document: Mapping[str, Any]) -> ConsultRequest:
    scopes = document.get("scopes")
    if not isinstance(scopes, list) or not 0 < len(scopes) <= _SCOPES_MAX or not all(map(_is_text, scopes)):
        raise ParamIllegalError("scopes", f"is not a list of 1 to {_SCOPES_MAX} texts")
    _optional(document, "merchantRegion", _REGION_MAX)
    env = document.get("env")
    terminal = document.get("terminalType") or (env.get("terminalType") if isinstance(env, dict) else None)
    notify_url = _optional(document, "authNotifyUrl", _URL_MAX)
    return ConsultRequest(
        wallet=_required(document, "customerBelongsTo", _WALLET_MAX),
        redirect_url=_address("authRedirectUrl", _required(document, "authRedirectUrl", _URL_MAX)),
        scopes=tuple(scopes),
        auth_state=_required(document, "authState", _AUTH_STATE_MAX),
        auth_client_id=_optional(document, "authClientId", _CLIENT_ID_MAX),
        notify_url=None if notify_url is None else _address("authNotifyUrl", notify_url),
        terminal_type=terminal if isinstance(terminal, str) else None,
    )


def _apply_token(document: Mapping[str, Any]) -> ExchangeRequest | RefreshRequest:
    wallet = _required(document, "customerBelongsTo", _WALLET_MAX)
    _optional(document, "merchantRegion", _REGION_MAX)
    match document.get("grantType"):
        case "AUTHORIZATION_CODE":
            return ExchangeRequest(wallet, _required(document, "authCode", _SECRET_MAX))
        case "REFRESH_TOKEN":
            return RefreshRequest(wallet, _required(document, "refreshToken", _SECRET_MAX))
        case _:
            raise ParamIllegalError("grantType", "is neither AUTHORIZATION_CODE nor REFRESH_TOKEN")


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(json_text(body))
    except UnreadableJsonError as error:
        raise ParamIllegalError("body", f"is {error.rule}") from None
    except ValueError:
        raise ParamIllegalError("body", "is not JSON") from None
    if not isinstance(document, dict):
        raise ParamIllegalError("body", "is not an object")
    return document


def _refuse_other_than_strings(where: str, value: object) -> None:
    """Every scalar of Alipay's is a JSON string, numbers and booleans too."""
    match value:
        case dict():
            for name, each in value.items():
                _refuse_other_than_strings(name, each)
        case list():
            for each in value:
                _refuse_other_than_strings(where, each)
        case str():
            pass
        case _:
            raise ParamIllegalError(where, "is not a string")


def _required(document: Mapping[str, Any], name: str, characters_max: int) -> str:
    value = _optional(document, name, characters_max)
    if value is None:
        raise ParamIllegalError(name, "is missing")
    return value


def _optional(document: Mapping[str, Any], name: str, characters_max: int) -> str | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= characters_max:
        raise ParamIllegalError(name, f"is not a text of 1 to {characters_max} characters")
    return value


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _address(name: str, url: str) -> str:
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        scheme = ""
    if not _URL.fullmatch(url) or not scheme or scheme in _NO_ADDRESSES:
        raise ParamIllegalError(name, "is not an address that a browser can be sent to")
    return url
