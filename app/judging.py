"""Judge one notification: which outcome it has for the authorization it names, as the unit of work has loaded that.

Each notification is asked the same questions in the same order, so that the order of arrival does not matter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from app import authorizations
from app.alipay.notification import NotificationType
from app.inbox import CorrelationKeys
from app.models import Authorization
from app.state_machine import Event, Verdict
from app.unit_of_work import UnitOfWork
from app.vocabulary import Outcome, Reason

T = TypeVar("T")

#: Why a notification fails here that a newer release can judge, when it is processed again there.
STATE_OF_A_NEWER_RELEASE = "StateOfNewerRelease"


@dataclass(frozen=True, slots=True)
class Judgment:
    """How an entry is to end. `event` is set where it moves the authorization."""

    outcome: Outcome
    #: A `Reason`, or the field and rule of what is malformed.
    reason: str | None = None
    authorization: Authorization | None = None
    event: Event | None = None


def judge(work: UnitOfWork, keys: CorrelationKeys) -> Judgment:
    """Say how a notification ends as things stand, without changing any of them."""
    notification = keys.notification
    if not isinstance(notification.type, NotificationType):
        return Judgment(Outcome.PARKED, Reason.UNKNOWN_TYPE)
    if notification.result_status != "S":
        return Judgment(Outcome.REJECTED, Reason.UNSUCCESSFUL_RESULT, _named(work, keys))
    return _JUDGES[notification.type](work, keys)


def _named(work: UnitOfWork, keys: CorrelationKeys) -> Authorization | None:
    """Find the authorization that a notification names, by authState or by token."""
    if (key := keys.auth_state_key) is not None:
        return work.authorization(*key)
    token = work.token(*_given(keys.token_key))
    return None if token is None else work.authorization_of(token)


def _judge_authcode_created(work: UnitOfWork, keys: CorrelationKeys) -> Judgment:
    authorization = _named(work, keys)
    if authorization is None:
        return Judgment(Outcome.PARKED, Reason.UNKNOWN_AUTH_STATE)
    if authorizations.knows_code(work.vault, authorization, _given(keys.notification.auth_code)):
        return Judgment(Outcome.REDUNDANT, Reason.ALREADY_KNOWN, authorization)
    return _ask_machine(authorization, Event.AUTHCODE_CREATED)


def _judge_token_created(work: UnitOfWork, keys: CorrelationKeys) -> Judgment:
    authorization = _named(work, keys)
    if authorization is None:
        return Judgment(Outcome.PARKED, Reason.UNKNOWN_AUTH_STATE)
    token = work.token(*_given(keys.token_key))
    if token is not None and token.authorization_id == authorization.id:
        return Judgment(Outcome.REDUNDANT, Reason.ALREADY_KNOWN, authorization)
    judgment = _ask_machine(authorization, Event.TOKEN_CREATED)
    if judgment.event is not None and token is not None:
        return Judgment(Outcome.REJECTED, Reason.CONTRADICTION, authorization)
    return judgment


def _judge_token_canceled(work: UnitOfWork, keys: CorrelationKeys) -> Judgment:
    token = work.token(*_given(keys.token_key))
    if token is None:
        return Judgment(Outcome.PARKED, Reason.UNKNOWN_TOKEN)
    authorization = work.authorization_of(token)
    if token.superseded_at is not None:
        return Judgment(Outcome.REDUNDANT, Reason.SUPERSEDED_TOKEN, authorization)
    if authorizations.is_canceled(authorization):
        return Judgment(Outcome.REDUNDANT, Reason.ALREADY_KNOWN, authorization)
    return _ask_machine(authorization, Event.TOKEN_CANCELED)


def _ask_machine(authorization: Authorization, event: Event) -> Judgment:
    if not authorization.is_understood:
        return Judgment(Outcome.FAILED, STATE_OF_A_NEWER_RELEASE, authorization)
    match authorizations.decide(authorization, event).verdict:
        case Verdict.LEGAL:
            return Judgment(Outcome.APPLIED, None, authorization, event)
        case Verdict.EARLY:
            return Judgment(Outcome.PARKED, Reason.EARLY, authorization)
        case Verdict.ILLEGAL:
            return Judgment(Outcome.REJECTED, Reason.ILLEGAL_TRANSITION, authorization)


def _given(value: T | None) -> T:
    """Return a value that the parser requires of this type of notification."""
    if value is None:
        raise AssertionError
    return value


_JUDGES: dict[NotificationType, Callable[[UnitOfWork, CorrelationKeys], Judgment]] = {
    NotificationType.AUTHCODE_CREATED: _judge_authcode_created,
    NotificationType.TOKEN_CREATED: _judge_token_created,
    NotificationType.TOKEN_CANCELED: _judge_token_canceled,
}
