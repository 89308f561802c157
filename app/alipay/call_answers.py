"""What Alipay answers to calls that it has carried out, read into values without a word that is not needed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.alipay.notification import ACCESS_TOKEN_CHARACTERS_MAX
from app.alipay.token_answer import read_login_id, read_time
from app.secret import Secret

REFRESH_TOKEN_CHARACTERS_MAX = 128
URL_CHARACTERS_MAX = 2048
#: A code that is shown as a picture may be long; an answer is not longer.
_CODE_CHARACTERS_MAX = 64 * 1024


class IncompleteAnswerError(ValueError):
    """An answer of success lacks what its operation must have. The message is a sentence, without a value."""


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """What applyToken gives."""

    access_token: Secret
    access_token_expires_at: datetime | None = None
    #: None where the wallet does not refresh; in the answer to a refresh it means that the old one stays.
    refresh_token: Secret | None = None
    refresh_token_expires_at: datetime | None = None
    user_login_id: Secret | None = None


@dataclass(frozen=True, slots=True)
class CodeDetail:
    """One way of showing a code with which the user can agree on another device."""

    display_type: str
    code_value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ConsultAnswer:
    """Where the user agrees: at least one URL, each of which works once."""

    normal_url: str | None = field(default=None, repr=False)
    scheme_url: str | None = field(default=None, repr=False)
    applink_url: str | None = field(default=None, repr=False)
    app_identifier: str | None = None
    code_details: tuple[CodeDetail, ...] = ()


def read_grant(answer: Mapping[str, Any]) -> TokenAnswer:
    """Read the answer of applyToken. Raises `IncompleteAnswerError` where it has no token."""
    access_token = _text(answer, "accessToken", ACCESS_TOKEN_CHARACTERS_MAX)
    if access_token is None:
        message = f"Alipay's answer has no accessToken of 1 to {ACCESS_TOKEN_CHARACTERS_MAX} characters."
        raise IncompleteAnswerError(message)
    refresh_token = _text(answer, "refreshToken", REFRESH_TOKEN_CHARACTERS_MAX)
    return TokenAnswer(
        Secret(access_token),
        _time(answer, "accessTokenExpiryTime"),
        None if refresh_token is None else Secret(refresh_token),
        _time(answer, "refreshTokenExpiryTime"),
        read_login_id(answer.get("userLoginId")),
    )


def read_consult(answer: Mapping[str, Any]) -> ConsultAnswer:
    """Read the answer of a consult. Raises `IncompleteAnswerError` where it has no URL."""
    normal, scheme, applink = (
        _text(answer, name, URL_CHARACTERS_MAX) for name in ("normalUrl", "schemeUrl", "applinkUrl")
    )
    if not (normal or scheme or applink):
        message = "Alipay's answer has none of normalUrl, schemeUrl and applinkUrl."
        raise IncompleteAnswerError(message)
    form = answer.get("authCodeForm")
    details = form.get("codeDetails") if isinstance(form, Mapping) else None
    return ConsultAnswer(
        normal,
        scheme,
        applink,
        _text(answer, "appIdentifier", URL_CHARACTERS_MAX),
        tuple(_code_details(details if isinstance(details, list) else ())),
    )


def _code_details(details: Iterable[object]) -> Iterable[CodeDetail]:
    for each in details:
        if isinstance(each, Mapping):
            display_type = _text(each, "displayType", URL_CHARACTERS_MAX)
            code_value = _text(each, "codeValue", _CODE_CHARACTERS_MAX)
            if display_type is not None and code_value is not None:
                yield CodeDetail(display_type, code_value)


def _text(document: Mapping[str, Any], name: str, characters_max: int) -> str | None:
    """Return the value if it is a good one; null, empty, of another type or too long is the same as absent."""
    value = document.get(name)
    return value if isinstance(value, str) and 0 < len(value) <= characters_max else None


def _time(document: Mapping[str, Any], name: str) -> datetime | None:
    value = document.get(name)
    return read_time(value) if isinstance(value, str) else None
