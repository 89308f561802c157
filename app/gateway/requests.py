"""Begin the calls that somebody asks for: a consult, a refresh, a revoke, and one that failed once more.

A call is begun in the transaction that finds it allowed. Asking again for what is under way begins nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from app import authorizations, calls, reports, tokens
from app.alipay.call_answers import read_grant
from app.alipay.call_requests import ConsultRequest, consult_body
from app.alipay.keyring import Keyring
from app.authorizations import Cause
from app.gateway.recording import apply_success, names_current_refresh_token
from app.models import AccessToken, Authorization, Call
from app.report_errors import (
    AuthorizationNotFoundError,
    CallNotFoundError,
    CallNotRepeatableError,
    ConsultContradictedError,
    ConsultOverError,
    NoActiveTokenError,
    NoGatewayError,
    NoRefreshTokenError,
)
from app.reports import Consult, Recorded
from app.state_machine import AuthorizationState
from app.unit_of_work import UnfinishedError, UnitOfWork
from app.vocabulary import CallKind, CallStatus

#: A user waits for the page of the wallet.
CONSULT_TIME = timedelta(seconds=10)
#: Calls whose outcome may still be had by asking again.
_REPEATABLE = frozenset({CallStatus.FAILED, CallStatus.UNDETERMINED})


@dataclass(frozen=True, slots=True)
class AskedConsult:
    """A consult that somebody has asked for: its call, and what registering it led to."""

    call_id: UUID
    recorded: Recorded


def ask_consult(
    work: UnitOfWork, keyring: Keyring, consult: Consult, request: ConsultRequest, *, cause: Cause
) -> AskedConsult:
    """Register a consult, and begin the call that asks the wallet for its page.

    The same again is the same call: it is repeated where its outcome is unknown. Raises `ReportRefusedError`, with
    `ConsultContradictedError` among them where the same authState was consulted with other words.
    """
    recorded = reports.record(work, keyring, consult, cause=cause)
    authorization = work.authorization_by_id(recorded.authorization_id)
    _require_gateway(work, authorization)
    body = consult_body(request)
    call = work.newest_call(authorization, CallKind.CONSULT)
    if authorization.state != AuthorizationState.CONSULTED and (call is None or call.status != CallStatus.DONE):
        raise ConsultOverError(authorization.state)
    if call is None:
        call = calls.new(
            work.vault,
            authorization,
            CallKind.CONSULT,
            body=body,
            subject=None,
            cause=cause,
            deadline_at=cause.at + CONSULT_TIME,
        )
        work.begin_call(call)
    elif (difference := _first_difference(calls.request_body(work.vault, call), body)) is not None:
        raise ConsultContradictedError(difference)
    elif call.status in {CallStatus.UNDETERMINED, CallStatus.UNNEEDED} or (
        call.status == CallStatus.FAILED and call.result_code is None
    ):
        _repeat(work, call, cause, deadline_after=CONSULT_TIME)
    return AskedConsult(call.id, recorded)


def _first_difference(on_record: bytes, said: bytes) -> str | None:
    """Name the first field in which two consults differ; the order of fields says nothing."""
    before, now = json.loads(on_record or b"{}"), json.loads(said)
    return next((name for name in (*now, *before) if now.get(name) != before.get(name)), None)


def ask_refresh(work: UnitOfWork, authorization_id: UUID, *, cause: Cause) -> UUID:
    """Begin the call that refreshes the current token, now, and return its id. Raises `ReportRefusedError`."""
    authorization = _lock(work, authorization_id)
    _require_gateway(work, authorization)
    token = _active_token(work, authorization)
    if authorization.revoke_asked_at is not None:
        raise NoActiveTokenError(authorization.state, is_revoke_asked=True)
    under_way = next((each for each in work.open_calls(authorization) if each.kind == CallKind.REFRESH), None)
    if under_way is None:
        under_way = _begin_refresh(work, authorization, token, cause)
    elif not under_way.is_in_flight:
        under_way.due_at = work.database_time(cause.at)
    return under_way.id


def begin_due_refresh(work: UnitOfWork, authorization_id: UUID, *, cause: Cause) -> bool:
    """Begin the call that refreshes a token in time, unless that is not wanted any more, and say whether it is."""
    authorization = _lock(work, authorization_id)
    token = work.current_token(authorization)
    gateway = work.gateways.get(authorization.client_id)
    if token is None or token.refresh_asked_at is not None or gateway is None or not gateway.refresh:
        return False
    if authorization.state != AuthorizationState.TOKEN_ACTIVE or authorization.revoke_asked_at is not None:
        # It is listed no more.
        token.refresh_asked_at = cause.at
        return False
    _begin_refresh(work, authorization, token, cause)
    return True


def _begin_refresh(work: UnitOfWork, authorization: Authorization, token: AccessToken, cause: Cause) -> Call:
    refresh_token = tokens.reveal_refresh_token(work.vault, token)
    if refresh_token is None:
        raise NoRefreshTokenError
    token.refresh_asked_at = cause.at
    call = calls.refresh_of(work.vault, authorization, token, refresh_token, cause=cause)
    work.begin_call(call)
    return call


def ask_revoke(work: UnitOfWork, authorization_id: UUID, *, cause: Cause) -> UUID | None:
    """Begin the call that revokes the current token, and return its id; that token is given to nobody from now on.

    `None` is an authorization that is canceled already. Raises `ReportRefusedError`.
    """
    authorization = _lock(work, authorization_id)
    if authorizations.is_canceled(authorization):
        return None
    _require_gateway(work, authorization)
    token = _active_token(work, authorization)
    authorization.revoke_asked_at = authorization.revoke_asked_at or cause.at
    open_calls = work.open_calls(authorization)
    for each in open_calls:
        # One that Alipay may have carried out goes on: the token that it brings is to be revoked then.
        if each.kind == CallKind.REFRESH and not each.is_in_flight and not each.is_uncertain:
            reason = "The authorization is to be revoked."
            calls.finish(each, CallStatus.UNNEEDED, reason, at=work.database_time(cause.at))
    call = next((each for each in open_calls if each.kind == CallKind.REVOKE), None)
    if call is None:
        secret = tokens.reveal(work.vault, token)
        call = calls.revoke_of(work.vault, authorization, secret, cause=cause)
        work.begin_call(call)
    elif not call.is_in_flight:
        call.due_at = work.database_time(cause.at)
    return call.id


def retry(work: UnitOfWork, call_id: UUID, authorization_id: UUID, *, cause: Cause) -> Recorded:
    """Make a call once more that failed or is undetermined; of one that only could not be recorded, record the answer.

    Raises `ReportRefusedError`.
    """
    authorization = _lock(work, authorization_id, of_call=call_id)
    call = work.lock_calls([call_id]).get(call_id)
    if call is None:
        raise CallNotFoundError(call_id)
    if call.is_in_flight:
        raise CallNotRepeatableError(call.status, "an attempt is still under way")
    if call.status == CallStatus.DUE:
        call.due_at = work.database_time(cause.at)
        return Recorded(authorization.id, changed=False)
    if call.status not in _REPEATABLE:
        raise CallNotRepeatableError(call.status)
    if any(each.kind == call.kind for each in work.open_calls(authorization)):
        raise CallNotRepeatableError(call.status, "another one is under way")
    call.cause, call.by = cause.kind, cause.by
    answer = _kept_answer(work, call)
    if answer is not None:
        call.sealed_answer = None
        recorded, why = apply_success(work, authorization, call, answer, now=cause.at)
        calls.finish(call, CallStatus.DONE, why, at=work.database_time(cause.at))
        return recorded or Recorded(authorization.id, changed=False)
    _require_gateway(work, authorization)
    if call.sealed_request is None or not _is_wanted(work, authorization, call):
        raise CallNotRepeatableError(call.status, f"the authorization is {authorization.state}")
    if _is_hopeless(call, at=work.database_time(cause.at)):
        raise CallNotRepeatableError(call.status, "a code lives for a minute, which is over; the user must agree again")
    if call.kind in {CallKind.EXCHANGE, CallKind.REFRESH} and not call.attempts:
        _name_wallet(work, authorization, call)
    _repeat(work, call, cause, deadline_after=calls.RETRY_TIME)
    return Recorded(authorization.id, changed=False)


def _kept_answer(work: UnitOfWork, call: Call) -> Mapping[str, Any] | None:
    """Open the answer of a call that Alipay has carried out, where that could not be recorded."""
    answer = None if call.kind == CallKind.CONSULT else calls.answer(work.vault, call)
    return None if answer is None else json.loads(answer)


def _name_wallet(work: UnitOfWork, authorization: Authorization, call: Call) -> None:
    """Add to a request that was never sent what was not known then. Raises `CallNotRepeatableError`."""
    if authorization.customer_belongs_to is None:
        raise CallNotRepeatableError(call.status, "the wallet is still not known")
    body = json.loads(calls.request_body(work.vault, call)) | {"customerBelongsTo": authorization.customer_belongs_to}
    if authorization.merchant_region is not None:
        body["merchantRegion"] = authorization.merchant_region
    call.sealed_request = calls.seal_request(work.vault, call, json.dumps(body, separators=(",", ":")).encode())


def _is_wanted(work: UnitOfWork, authorization: Authorization, call: Call) -> bool:
    """Say whether what a call would bring is not there yet."""
    match call.kind:
        case CallKind.EXCHANGE:
            return authorization.state == AuthorizationState.AUTHCODE_ISSUED
        case CallKind.CONSULT:
            return authorization.state == AuthorizationState.CONSULTED
        case CallKind.REFRESH:
            if authorization.state != AuthorizationState.TOKEN_ACTIVE or authorization.revoke_asked_at is not None:
                return False
            return names_current_refresh_token(work, authorization, call)
        case _:
            return authorization.state == AuthorizationState.TOKEN_ACTIVE


def _is_hopeless(call: Call, *, at: datetime) -> bool:
    """Say whether an exchange is of a code that nobody has exchanged, and that is too old by now.

    Where Alipay may have exchanged it, only to ask the same again can tell, and nothing is lost by it.
    """
    return call.kind == CallKind.EXCHANGE and not call.is_uncertain and at >= call.created_at + calls.CODE_TIME


def _repeat(work: UnitOfWork, call: Call, cause: Cause, *, deadline_after: timedelta) -> None:
    at = work.database_time(cause.at)
    call.status, call.due_at, call.finished_at = CallStatus.DUE, None if call.is_in_flight else at, None
    call.deadline_at = None if call.deadline_at is None else at + deadline_after


def _lock(work: UnitOfWork, authorization_id: UUID, *, of_call: UUID | None = None) -> Authorization:
    """Lock an authorization, and load it with its token, its open calls and the token that a call's answer keeps."""
    key = work.auth_state_key(authorization_id)
    if key is None:
        raise AuthorizationNotFoundError(authorization_id)
    call = None if of_call is None else work.find_call(of_call)
    answer = None if call is None else _kept_answer(work, call)
    granted = [] if answer is None or "accessToken" not in answer else [read_grant(answer).access_token]
    work.lock_and_load(states=[key], token_keys=[(key[0], tokens.index(work.vault, key[0], each)) for each in granted])
    authorization = work.authorization(*key)
    if authorization is None:
        raise AuthorizationNotFoundError(authorization_id)
    if authorization.resume_after is not None:
        raise UnfinishedError(authorization.id)
    return authorization


def _require_gateway(work: UnitOfWork, authorization: Authorization) -> None:
    if authorization.client_id not in work.gateways:
        raise NoGatewayError(authorization.client_id)


def _active_token(work: UnitOfWork, authorization: Authorization) -> AccessToken:
    token = work.current_token(authorization)
    is_active = authorization.state == AuthorizationState.TOKEN_ACTIVE
    if token is None or not is_active or tokens.is_forgotten(work.vault, token):
        raise NoActiveTokenError(authorization.state)
    return token
