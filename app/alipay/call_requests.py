"""The bodies of calls to Alipay: what is asked, as the bytes that are sent, and sent again where a call is repeated."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsultRequest:
    """What a consult asks: where a user may agree, and where the user goes from there.

    Until January 2026 the device stood in three fields, and since then it stands in `env`: what is given is sent.
    """

    auth_state: str
    customer_belongs_to: str
    auth_redirect_url: str
    scopes: tuple[str, ...]
    auth_client_id: str | None = None
    auth_notify_url: str | None = None
    merchant_region: str | None = None
    terminal_type: str | None = None
    os_type: str | None = None
    os_version: str | None = None
    env: Mapping[str, Any] | None = None


def consult_body(request: ConsultRequest) -> bytes:
    """Write the body of a consult."""
    return _body(
        customerBelongsTo=request.customer_belongs_to,
        authClientId=request.auth_client_id,
        authRedirectUrl=request.auth_redirect_url,
        scopes=request.scopes,
        authState=request.auth_state,
        authNotifyUrl=request.auth_notify_url,
        merchantRegion=request.merchant_region,
        terminalType=request.terminal_type,
        osType=request.os_type,
        osVersion=request.os_version,
        env=request.env,
    )


def exchange_body(code: Secret, *, customer_belongs_to: str, merchant_region: str | None = None) -> bytes:
    """Write the body that exchanges a code for a token."""
    return _body(
        grantType="AUTHORIZATION_CODE",
        customerBelongsTo=customer_belongs_to,
        authCode=code.reveal(),
        merchantRegion=merchant_region,
    )


def refresh_body(refresh_token: Secret, *, customer_belongs_to: str, merchant_region: str | None = None) -> bytes:
    """Write the body that exchanges a refresh token for a new token."""
    return _body(
        grantType="REFRESH_TOKEN",
        customerBelongsTo=customer_belongs_to,
        refreshToken=refresh_token.reveal(),
        merchantRegion=merchant_region,
    )


def revoke_body(access_token: Secret) -> bytes:
    """Write the body that ends a token."""
    return _body(accessToken=access_token.reveal())


def _body(**fields: object) -> bytes:
    # In ASCII, since JSON may hold half a character that UTF-8 cannot carry.
    return json.dumps(_wire_form(fields), separators=(",", ":")).encode("ascii")


def _wire_form(value: object) -> Any:  # noqa: ANN401 -- JSON
    """Leave out what is not given, and write every scalar as a string."""
    if isinstance(value, Mapping):
        return {name: _wire_form(each) for name, each in value.items() if each is not None and each != ""}
    if isinstance(value, list | tuple):
        return [_wire_form(each) for each in value]
    return value if isinstance(value, str) else json.dumps(value)
