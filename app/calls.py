"""Calls to Alipay as rows: what is to be asked, how it ends, and which moves leave nothing for a call to bring.

An attempt is on record before its request goes out, so that whatever dies, it is known that Alipay may have done it.
"""

from datetime import datetime, timedelta
from typing import Literal

from uuid_utils.compat import uuid7

from app.alipay.call_requests import exchange_body, refresh_body, revoke_body
from app.authorizations import REPLACED_A_CODE, Cause
from app.database.pipeline import plain
from app.models import AccessToken, Authorization, Call
from app.secret import Secret
from app.state_machine import Event
from app.vault import Vault
from app.vocabulary import CallKind, CallStatus, CauseKind

REQUEST_COLUMN = "calls.sealed_request"
ANSWER_COLUMN = "calls.sealed_answer"

#: How long a code lives.
CODE_TIME = timedelta(minutes=1)
#: An exchange is given up so long after its code came: the event that tells of it comes while the code lives.
EXCHANGE_TIME = timedelta(seconds=58)

#: For how long a call that has ended is tried when somebody asks for it once more.
RETRY_TIME = timedelta(minutes=1)
#: A refresh is tried for so long of a token without an end, and of one that has ended.
REFRESH_TIME_MAX = timedelta(days=5)
REFRESH_TIME_MIN = timedelta(minutes=1)

#: Why a call is not made. Alipay wants the wallet with both kinds of applyToken.
NO_WALLET = "The wallet is not known: name it as customerBelongsTo in the consult."
#: Why a call ends as unneeded: what it was to bring comes otherwise, or cannot come any more.
WALLET_KNOWN = "The wallet is known now: another call exchanges the code."
ANOTHER_CODE = "Another code has taken the place of this one."
TOKEN_CAME_OTHERWISE = "The token has come otherwise."  # noqa: S105 -- a sentence
REFRESHED_OTHERWISE = "The token was refreshed otherwise."
CANCELED_OTHERWISE = "The authorization was canceled otherwise."
#: Why a revoke is done whose request went out, and whose answer is not known.
TOLD_OF = "Alipay has told that the token is gone."


def new(
    vault: Vault,
    authorization: Authorization,
    kind: CallKind,
    *,
    body: bytes,
    subject: Secret | None,
    cause: Cause,
    deadline_at: datetime | None,
) -> Call:
    """Make the row of a call that is due at once. The subject is the code or token that it is about."""
    call = plain(Call)(
        id=uuid7(),
        authorization_id=authorization.id,
        client_id=authorization.client_id,
        kind=kind,
        status=CallStatus.DUE,
        attempts=0,
        is_in_flight=False,
        is_uncertain=False,
        due_at=cause.at,
        deadline_at=deadline_at,
        cause=cause.kind,
        by=cause.by,
        created_at=cause.at,
    )
    set_request(vault, call, body, subject)
    return call


def set_request(vault: Vault, call: Call, body: bytes, subject: Secret | None) -> None:
    """Say what is sent, and which code or token it is about."""
    call.sealed_request = seal_request(vault, call, body)
    call.subject_index = None if subject is None else subject_index(vault, call.client_id, subject)


def seal_request(vault: Vault, call: Call, body: bytes) -> bytes:
    """Seal what is sent."""
    return vault.seal(body.decode(), column=REQUEST_COLUMN, row_key=call.id.bytes)


def subject_index(vault: Vault, client_id: str, subject: Secret) -> bytes:
    """Make the blind index of a code or token that a call is about."""
    return vault.blind_index("call", client_id, subject.reveal())


def request_body(vault: Vault, call: Call) -> bytes:
    """Open what is sent: the same bytes with each attempt. Raises `VaultError` where it does not open."""
    if call.sealed_request is None:
        return b""
    return vault.open_text(call.sealed_request, column=REQUEST_COLUMN, row_key=call.id.bytes).encode()


def set_answer(vault: Vault, call: Call, answer: str) -> None:
    """Keep what a consult was answered, sealed: a URL in it opens the wallet of a user."""
    call.sealed_answer = vault.seal(answer, column=ANSWER_COLUMN, row_key=call.id.bytes)


def answer(vault: Vault, call: Call) -> str | None:
    """Open what a consult was answered. Raises `VaultError` where it does not open."""
    if call.sealed_answer is None:
        return None
    return vault.open_text(call.sealed_answer, column=ANSWER_COLUMN, row_key=call.id.bytes)


def finish(call: Call, status: CallStatus, reason: str | None, *, at: datetime) -> None:
    """End a call. What it would send again is forgotten, but for a consult, which may be asked for again."""
    call.status, call.reason, call.due_at, call.finished_at = status, reason, None, at
    if call.kind != CallKind.CONSULT and status not in {CallStatus.FAILED, CallStatus.UNDETERMINED}:
        call.sealed_request = None


def forget(call: Call) -> None:
    """Take out what was sent and answered, which holds codes, tokens, and what names the user."""
    call.sealed_request = call.sealed_answer = call.subject_index = None


def exchange_of(vault: Vault, authorization: Authorization, code: Secret, *, at: datetime) -> Call:
    """Make the call that exchanges the code on record, which the service makes of its own accord."""
    received_at = authorization.auth_code_received_at or at
    call = new(
        vault,
        authorization,
        CallKind.EXCHANGE,
        body=exchange_body(
            code,
            customer_belongs_to=authorization.customer_belongs_to or "",
            merchant_region=authorization.merchant_region,
        ),
        subject=code,
        cause=Cause(CauseKind.GATEWAY, at=at),
        deadline_at=received_at + EXCHANGE_TIME,
    )
    if authorization.customer_belongs_to is None:
        make_overdue(call, NO_WALLET, at=call.created_at)
    return call


def revoke_of(
    vault: Vault,
    authorization: Authorization,
    token: Secret,
    *,
    cause: Cause,
) -> Call:
    """Make the call that revokes a token. It is repeated until it is gone."""
    return new(
        vault,
        authorization,
        CallKind.REVOKE,
        body=revoke_body(token),
        subject=token,
        cause=cause,
        deadline_at=None,
    )


def refresh_of(
    vault: Vault,
    authorization: Authorization,
    token: AccessToken,
    refresh_token: Secret,
    *,
    cause: Cause,
) -> Call:
    """Make the call that refreshes a token.

    It is repeated until half of the time is over that is left: then the user can still authorize again.
    """
    at, ends_at = cause.at, token.access_token_expires_at
    call = new(
        vault,
        authorization,
        CallKind.REFRESH,
        body=refresh_body(
            refresh_token,
            customer_belongs_to=authorization.customer_belongs_to or "",
            merchant_region=authorization.merchant_region,
        ),
        subject=refresh_token,
        cause=cause,
        deadline_at=at + _refresh_time(at, ends_at),
    )
    if authorization.customer_belongs_to is None:
        make_overdue(call, NO_WALLET, at=call.created_at)
    return call


def _refresh_time(at: datetime, ends_at: datetime | None) -> timedelta:
    """Say for how long a refresh is tried."""
    if ends_at is None:
        return REFRESH_TIME_MAX
    return (ends_at - at) / 2 if ends_at > at else REFRESH_TIME_MIN


def why_unneeded(call: Call, event: Event | Literal["consult"], reason: str | None) -> str | None:
    """Say why a move of its authorization leaves nothing for an open call to bring, if so."""
    if call.kind == CallKind.EXCHANGE:
        if event == Event.AUTHCODE_CREATED and reason == REPLACED_A_CODE:
            return ANOTHER_CODE
        if event in {Event.TOKEN_CREATED, Event.TOKEN_CANCELED}:
            return TOKEN_CAME_OTHERWISE
    if call.kind == CallKind.REFRESH and event == Event.TOKEN_REFRESHED:
        return REFRESHED_OTHERWISE
    if event == Event.TOKEN_CANCELED:
        return CANCELED_OTHERWISE
    return None


def end_unneeded(call: Call, reason: str, *, at: datetime) -> None:
    """End a call whose effect has come otherwise.

    Of a code that another has replaced, whether Alipay has exchanged it is not known once a request went out. A revoke
    that went out is what was told of.
    """
    if call.kind == CallKind.REVOKE and (call.is_uncertain or call.is_in_flight):
        finish(call, CallStatus.DONE, TOLD_OF, at=at)
        return
    is_unknown = reason == ANOTHER_CODE and (call.is_uncertain or call.is_in_flight)
    finish(call, CallStatus.UNDETERMINED if is_unknown else CallStatus.UNNEEDED, reason, at=at)


def make_overdue(call: Call, reason: str, *, at: datetime) -> None:
    """Leave a call that is not made to the background worker, which ends it as overdue and tells of it."""
    call.due_at, call.deadline_at, call.reason = None, at, reason
