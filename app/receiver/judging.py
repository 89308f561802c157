"""Judge what one notification means for the authorization it names, and hold the locks that keep it true.

The order of the questions is part of the promise: whatever way the notifications arrived, the same ones are asked of
each. Locks are taken in one order everywhere, so that no two transactions can wait for each other: the rendezvous of an
authState, the authorization, the rendezvous of a token, other inbox entries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.orm import Session

from app import authorizations, tokens
from app.alipay.notification import Notification, NotificationType
from app.inbox import Outcome, Reason
from app.models import Authorization
from app.state_machine import Event, Verdict
from app.vault import Vault

T = TypeVar("T")


class LinkedMeanwhileError(Exception):
    """The token became known while its cancellation waited to be parked: judge it again, from the beginning."""


@dataclass(frozen=True, slots=True)
class Judgment:
    """How an entry is to end. `event` is set where it moves the authorization."""

    outcome: Outcome
    #: A `Reason`, or the field and rule of what is malformed.
    reason: str | None = None
    authorization: Authorization | None = None
    event: Event | None = None


def judge(session: Session, vault: Vault, client_id: str, notification: Notification) -> Judgment:
    """Say how a notification ends as things stand, without changing any of them.

    Raises `LinkedMeanwhileError` with locks held that only giving up the savepoint releases.
    """
    if not notification.known_type:
        return Judgment(Outcome.PARKED, Reason.UNKNOWN_TYPE)
    if notification.result_status != "S":
        return Judgment(Outcome.REJECTED, Reason.UNSUCCESSFUL_RESULT, _named(session, vault, client_id, notification))
    judge_type = _JUDGES[NotificationType(notification.type)]
    return judge_type(session, vault, client_id, notification)


def _named(session: Session, vault: Vault, client_id: str, notification: Notification) -> Authorization | None:
    """Find the authorization that an unsuccessful notification belongs to, for the record only."""
    if notification.auth_state is not None:
        return authorizations.find(session, client_id, notification.auth_state)
    token = tokens.find(session, client_id, tokens.index(vault, client_id, _given(notification.access_token)))
    return None if token is None else session.get(Authorization, token.authorization_id)


def _judge_authcode_created(session: Session, vault: Vault, client_id: str, notification: Notification) -> Judgment:
    auth_state, code = _given(notification.auth_state), _given(notification.auth_code)
    authorization = authorizations.lock_or_meet(session, client_id, auth_state)
    if authorization is None:
        return Judgment(Outcome.PARKED, Reason.UNKNOWN_AUTH_STATE)
    if authorizations.auth_code(vault, authorization) == code:
        return Judgment(Outcome.REDUNDANT, Reason.ALREADY_KNOWN, authorization)
    return _ask_machine(authorization, Event.AUTHCODE_CREATED)


def _judge_token_created(session: Session, vault: Vault, client_id: str, notification: Notification) -> Judgment:
    auth_state, access_token = _given(notification.auth_state), _given(notification.access_token)
    authorization = authorizations.lock_or_meet(session, client_id, auth_state)
    if authorization is None:
        return Judgment(Outcome.PARKED, Reason.UNKNOWN_AUTH_STATE)
    token_index = tokens.index(vault, client_id, access_token)
    token = tokens.find(session, client_id, token_index)
    if token is not None and token.authorization_id == authorization.id:
        return Judgment(Outcome.REDUNDANT, Reason.ALREADY_KNOWN, authorization)
    judgment = _ask_machine(authorization, Event.TOKEN_CREATED)
    # Only now, for whoever does not make the token known has no business at its rendezvous.
    if judgment.event is not None and tokens.find_or_meet(session, client_id, token_index) is not None:
        return Judgment(Outcome.REJECTED, Reason.CONTRADICTION, authorization)
    return judgment


def _judge_token_canceled(session: Session, vault: Vault, client_id: str, notification: Notification) -> Judgment:
    token_index = tokens.index(vault, client_id, _given(notification.access_token))
    token = tokens.find(session, client_id, token_index)
    if token is None:
        if tokens.find_or_meet(session, client_id, token_index) is not None:
            # Its authorization must be locked before the rendezvous that is locked already.
            raise LinkedMeanwhileError
        return Judgment(Outcome.PARKED, Reason.UNKNOWN_TOKEN)
    authorization = _given(authorizations.lock(session, token.authorization_id))
    # A refresh may have replaced the token while the lock was awaited.
    token = _given(tokens.find(session, client_id, token_index))
    if token.superseded_at is not None:
        return Judgment(Outcome.REDUNDANT, Reason.SUPERSEDED_TOKEN, authorization)
    if authorizations.is_canceled(authorization):
        return Judgment(Outcome.REDUNDANT, Reason.ALREADY_KNOWN, authorization)
    return _ask_machine(authorization, Event.TOKEN_CANCELED)


def _ask_machine(authorization: Authorization, event: Event) -> Judgment:
    match authorizations.verdict(authorization, event).verdict:
        case Verdict.LEGAL:
            return Judgment(Outcome.APPLIED, None, authorization, event)
        case Verdict.EARLY:
            return Judgment(Outcome.PARKED, Reason.EARLY, authorization)
        case Verdict.ILLEGAL:
            return Judgment(Outcome.REJECTED, Reason.ILLEGAL_TRANSITION, authorization)


def _given(value: T | None) -> T:
    """Take what must be there: the parser requires it of this type, or a foreign key of this row."""
    if value is None:
        raise AssertionError
    return value


_JUDGES: dict[NotificationType, Callable[[Session, Vault, str, Notification], Judgment]] = {
    NotificationType.AUTHCODE_CREATED: _judge_authcode_created,
    NotificationType.TOKEN_CREATED: _judge_token_created,
    NotificationType.TOKEN_CANCELED: _judge_token_canceled,
}
