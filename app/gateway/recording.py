"""Record how attempts at calls ended, each with the report that it leads to, in one transaction.

A call that Alipay has carried out ends together with the move of its authorization, so that neither is on record alone.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from app import authorizations, calls, reports, tokens
from app.alipay.call import Done, Refused, Unknown
from app.alipay.call_answers import read_grant
from app.alipay.call_requests import revoke_body
from app.authorizations import Cause
from app.database.pipeline import plain
from app.gateway.attempts import Answer, BegunAttempt, EndedAttempt
from app.gateway.endings import ending_of, late_reason, late_status
from app.gateway.recorded_call import RecordedCall
from app.key_locks import AuthStateKey
from app.models import Authorization, Call, CallAttempt
from app.report_errors import ReportRefusedError
from app.reports import CanceledReport, Recorded, TokenReport
from app.secret import Secret
from app.state_machine import AuthorizationState
from app.tokens import Grant, TokenKey
from app.unit_of_work import SavepointFailedError, UnitOfWork
from app.vocabulary import CallKind, CallStatus, CauseKind

#: What a call says whose token was granted for an authorization that had been canceled by then.
_CANCELED_BY_THEN = "The authorization had been canceled by then: the token is not active, and is being revoked."
#: What a call says whose token is not the newest.
_REPLACED_BY_THEN = "The token was replaced by a newer one before its answer was recorded."
#: A revoke waits so long for a refresh whose outcome is not known.
_REFRESH_PAUSE = timedelta(seconds=10)
#: What a call says whose token is on record with another expiry time or refresh token, which stay.
_ON_RECORD_OTHERWISE = "The token is on record otherwise, and stays so."


def record_attempts(
    work: UnitOfWork, ended: Sequence[EndedAttempt], *, now: datetime, spread: Callable[[], float]
) -> list[RecordedCall]:
    """Record how attempts ended, and what they lead to.

    An error in that is raised, and nothing is recorded; with savepoints it only makes the call fail, which keeps the
    answer: `retry` records that again. `spread`, from 0 to 1, says how much shorter than the schedule a pause is.
    """
    work.lock_and_load(states={each.attempt.auth_state_key for each in ended}, token_keys=_granted_tokens(work, ended))
    locked = work.lock_calls([each.attempt.call_id for each in ended])
    work.note_ended_attempts([_row_of(each) for each in ended])
    done = []
    for each in ended:
        call = locked.get(each.attempt.call_id)
        authorization = work.authorization(*each.attempt.auth_state_key)
        if call is not None and authorization is not None:
            done.append(_record_attempt(work, authorization, call, each, now=now, spread=spread))
    return done


def _granted_tokens(work: UnitOfWork, ended: Sequence[EndedAttempt]) -> list[TokenKey]:
    """Return the keys of the tokens that Alipay has given."""
    return [
        (client_id, tokens.index(work.vault, client_id, read_grant(each.answer.answer).access_token))
        for each in ended
        if isinstance(each.answer, Done) and "accessToken" in each.answer.answer
        for client_id in [each.attempt.auth_state_key[0]]
    ]


def end_overdue(work: UnitOfWork, overdue: Sequence[tuple[UUID, AuthStateKey]], *, now: datetime) -> list[RecordedCall]:
    """End the calls that are past their deadline without a final answer."""
    work.lock_and_load(states={key for _, key in overdue})
    at = work.database_time(now)
    locked = work.lock_calls([call_id for call_id, _ in overdue])
    ended = []
    for call_id, key in overdue:
        call, authorization = locked.get(call_id), work.authorization(*key)
        if call is None or authorization is None or call.status != CallStatus.DUE or (call.deadline_at or at) > at:
            continue
        if call.kind == CallKind.EXCHANGE and authorization.state != AuthorizationState.AUTHCODE_ISSUED:
            # A process of another release, or with another keyring, has taken in the token.
            calls.finish(call, CallStatus.UNNEEDED, calls.TOKEN_CAME_OTHERWISE, at=at)
            ended.append(RecordedCall(call))
            continue
        # An attempt that is under way may still bring the token; then the call is done after all.
        is_uncertain = call.is_uncertain or call.is_in_flight
        reason = late_reason(call.reason) if call.due_at is not None or call.attempts else call.reason
        calls.finish(call, late_status(is_uncertain=is_uncertain), reason or late_reason(None), at=at)
        work.tell_of_failed_call(authorization, call, at=now)
        ended.append(RecordedCall(call, is_counted=True))
    return ended


def _row_of(ended: EndedAttempt) -> CallAttempt:
    """Make the row of an attempt, as far as its end says it."""
    attempt, answer = ended.attempt, ended.answer
    result_status, result_code, error = _result_of(answer)
    return plain(CallAttempt)(
        call_id=attempt.call_id,
        number=attempt.number,
        milliseconds=answer.milliseconds,
        http_status=answer.http_status,
        result_status=result_status,
        result_code=result_code,
        error=error,
    )


def _result_of(answer: Answer) -> tuple[str | None, str | None, str | None]:
    """Give the status and the code of an answer, and what is wrong with it, in words."""
    match answer:
        case Done():
            return "S", "SUCCESS", None
        case Refused():
            return "F", answer.code or None, answer.message or None
        case Unknown():
            return "U" if answer.code else None, answer.code, answer.why


def _record_attempt(
    work: UnitOfWork,
    authorization: Authorization,
    call: Call,
    ended: EndedAttempt,
    *,
    now: datetime,
    spread: Callable[[], float],
) -> RecordedCall:
    at = work.database_time(now)
    ending = ending_of(call, ended.answer, now=at, spread=spread())
    if call.attempts == ended.attempt.number:
        call.is_in_flight = False
    elif ending.status is not CallStatus.DONE:
        # Another worker has taken it for abandoned and made it again: what that attempt brings decides.
        return RecordedCall(call)
    is_open = call.status == CallStatus.DUE
    if not is_open and ending.status is not CallStatus.DONE:
        # It has ended otherwise while this attempt was under way.
        call.is_uncertain = ending.is_uncertain
        return RecordedCall(call)
    call.result_code, call.is_uncertain = ending.result_code, ending.is_uncertain
    if ending.status is CallStatus.DUE:
        call.due_at, call.reason = ending.due_at, ending.reason
        return RecordedCall(call)
    if ending.status is not CallStatus.DONE:
        if call.kind == CallKind.REFRESH and not names_current_refresh_token(work, authorization, call):
            # Two refreshes kill each other: after a refusal it counts whether another has won.
            calls.finish(call, CallStatus.UNNEEDED, calls.REFRESHED_OTHERWISE, at=at)
            return RecordedCall(call)
        calls.finish(call, ending.status, ending.reason, at=at)
        work.tell_of_failed_call(authorization, call, at=now)
        return RecordedCall(call, is_counted=True)
    return _record_success(work, authorization, call, ended, reason=ending.reason, now=now)


def _record_success(
    work: UnitOfWork,
    authorization: Authorization,
    call: Call,
    ended: EndedAttempt,
    *,
    reason: str | None,
    now: datetime,
) -> RecordedCall:
    """End a call that Alipay has carried out, with the move of its authorization."""
    answer, at = ended.answer, work.database_time(now)
    if call.kind == CallKind.REVOKE:
        newer = _newer_token(work, authorization, ended.attempt)
        if newer is not None:
            _revoke_newer(work, call, newer, now=at)
            return RecordedCall(call)
        if isinstance(answer, Refused) and _may_be_refreshed(work, authorization):
            # The token that is gone may have been followed by one that nobody has seen yet.
            call.status, call.finished_at, call.due_at = CallStatus.DUE, None, at + _REFRESH_PAUSE
            call.reason = "Whether the token was refreshed is not known: that is asked first."
            return RecordedCall(call)
    said = answer.answer if isinstance(answer, Done) else {}
    if call.kind == CallKind.CONSULT:
        calls.set_answer(work.vault, call, json.dumps(said))
    try:
        if work.has_savepoints:
            # What is on record of the attempt must stay when what it leads to cannot be recorded.
            work.write()
        with work.savepoint():
            recorded, why = apply_success(work, authorization, call, said, now=now)
    except SavepointFailedError as failed:
        # The token would be lost: the answer is kept, and is recorded again when the call is retried.
        is_told = call.status in {CallStatus.FAILED, CallStatus.UNDETERMINED}
        calls.set_answer(work.vault, call, json.dumps(said))
        calls.finish(call, CallStatus.FAILED, not_recorded(failed.error), at=at)
        if not is_told:
            work.tell_of_failed_call(authorization, call, at=now)
        return RecordedCall(call, is_counted=not is_told)
    calls.finish(call, CallStatus.DONE, why or reason, at=at)
    received_at = authorization.auth_code_received_at if call.kind == CallKind.EXCHANGE else None
    return RecordedCall(call, is_counted=True, recorded=recorded, code_received_at=received_at)


def apply_success(
    work: UnitOfWork,
    authorization: Authorization,
    call: Call,
    answer: Mapping[str, Any],
    *,
    now: datetime,
) -> tuple[Recorded | None, str | None]:
    """Record what a call has brought; return what that led to, and what there is to say of it.

    Raises `ReportRefusedError` and `UnfinishedError`.
    """
    cause = Cause(CauseKind.GATEWAY, at=now, by=call.by)
    if call.kind == CallKind.CONSULT:
        return None, None
    if call.kind == CallKind.REVOKE:
        return reports.apply(work, authorization, CanceledReport(authorization.id), cause=cause), None
    return _take_grant(work, authorization, call, answer, cause)


def not_recorded(error: Exception) -> str:
    """Say that Alipay has carried out a call, and why that cannot be recorded."""
    why = str(error) if isinstance(error, ReportRefusedError) else type(error).__name__
    return f"Alipay has done it, and that cannot be recorded: {why}"


def _take_grant(
    work: UnitOfWork, authorization: Authorization, call: Call, answer: Mapping[str, Any], cause: Cause
) -> tuple[Recorded | None, str | None]:
    """Record a token that Alipay gave, whatever has happened to the authorization since it was asked for."""
    granted = read_grant(answer)
    client_id, vault = authorization.client_id, work.vault
    current = work.current_token(authorization)
    known = work.token(client_id, tokens.index(vault, client_id, granted.access_token))
    if authorizations.is_canceled(authorization):
        if known is None:
            work.begin_call(calls.revoke_of(vault, authorization, granted.access_token, cause=cause))
        return None, _CANCELED_BY_THEN
    is_own = known is not None and known.authorization_id == authorization.id
    if is_own and known is not current:
        return None, _REPLACED_BY_THEN
    if current is not None and known is None and _is_of_older_code(work, authorization, call):
        # It never was the authorization's; that Alipay has given it stays on record.
        calls.set_answer(vault, call, json.dumps(answer))
        return None, _REPLACED_BY_THEN
    report = TokenReport(
        authorization.id,
        Grant(
            granted.access_token,
            granted.access_token_expires_at,
            granted.refresh_token,
            granted.refresh_token_expires_at,
        ),
        auth_code=_code_of(work, call),
        user_login_id=granted.user_login_id,
    )
    if current is not None and (call.kind == CallKind.REFRESH or known is not current):
        # Also the token of a second code: it takes the place of the first one's, as that of a refresh does.
        report = replace(report, replaces=tokens.reveal(vault, current))
    elif known is not None and tokens.differs(vault, known, report.grant):
        return None, _ON_RECORD_OTHERWISE
    return reports.apply(work, authorization, report, cause=cause), None


def _is_of_older_code(work: UnitOfWork, authorization: Authorization, call: Call) -> bool:
    """Say whether a newer code of this authorization was exchanged than the one of this exchange.

    An answer is recorded late by a worker that has stalled, and when a call is retried whose answer was kept.
    """
    if call.kind != CallKind.EXCHANGE:
        return False
    newest = work.newest_call(authorization, CallKind.EXCHANGE)
    return newest is not None and newest.id != call.id and newest.status == CallStatus.DONE


def _code_of(work: UnitOfWork, call: Call) -> Secret | None:
    """Return the code that an exchange has exchanged."""
    if call.kind != CallKind.EXCHANGE or call.sealed_request is None:
        return None
    return Secret(json.loads(calls.request_body(work.vault, call))["authCode"])


def _newer_token(work: UnitOfWork, authorization: Authorization, attempt: BegunAttempt) -> Secret | None:
    """Return the token of an authorization, if it is alive and another one than an attempt was to revoke."""
    current = work.current_token(authorization)
    if current is None or authorizations.is_canceled(authorization):
        return None
    token = tokens.reveal(work.vault, current)
    return token if attempt.subject_index != calls.subject_index(work.vault, authorization.client_id, token) else None


def _revoke_newer(work: UnitOfWork, call: Call, token: Secret, *, now: datetime) -> None:
    """Let a revoke go on with the token that has followed the one it named, unless it does so already."""
    if call.subject_index == calls.subject_index(work.vault, call.client_id, token):
        return
    calls.set_request(work.vault, call, revoke_body(token), token)
    call.status, call.due_at, call.finished_at = CallStatus.DUE, now, None
    call.reason = "The token was refreshed in between: the new one is to be revoked."


def _may_be_refreshed(work: UnitOfWork, authorization: Authorization) -> bool:
    """Say whether a refresh is open that Alipay may have carried out."""
    return any(each.kind == CallKind.REFRESH and each.is_uncertain for each in work.open_calls(authorization))


def names_current_refresh_token(work: UnitOfWork, authorization: Authorization, call: Call) -> bool:
    """Say whether a refresh names the refresh token of the token that is current now."""
    current = work.current_token(authorization)
    secret = None if current is None else tokens.reveal_refresh_token(work.vault, current)
    return secret is not None and call.subject_index == calls.subject_index(work.vault, call.client_id, secret)
