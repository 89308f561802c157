"""Process kept notifications, each in a savepoint of its own, and settle those that waited for what it changed."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from uuid import UUID

from sqlalchemy.orm import Session

from app import authorizations, inbox, tokens
from app.alipay.notification import (
    MalformedNotificationError,
    Notification,
    parse,
)
from app.authorizations import Cause
from app.database import is_transient
from app.inbox import OPEN_OUTCOMES, Outcome
from app.logs import failure
from app.models import Authorization, InboxEntry
from app.receiver.judging import Judgment, LinkedMeanwhileError, judge
from app.state_machine import Event
from app.tokens import Grant
from app.vault import Vault

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Processed:
    """How an entry ended, this time."""

    entry_id: int
    type: str | None
    outcome: Outcome
    reason: str | None
    authorization_id: UUID | None = None


def process(
    session: Session, vault: Vault, entry_id: int, client_id: str, notification: Notification, *, now: datetime
) -> list[Processed]:
    """Process an entry that this transaction has just stored, and settle what that lets move.

    Returns the entry first, then each one settled. A failure of ours ends as outcome `failed`; only the database's
    troubles are raised.
    """

    def work() -> list[Processed]:
        judgment = judge(session, vault, client_id, notification)
        return _conclude_and_settle(session, vault, entry_id, notification, judgment, now=now)

    return _guarded(session, entry_id, notification.type, work)


def replay(session: Session, vault: Vault, entry_id: int, *, now: datetime) -> list[Processed]:
    """Process a stored entry again, if it is parked or failed, and settle what that lets move; else do nothing."""
    entry = inbox.find(session, entry_id)
    if entry is None or entry.outcome not in OPEN_OUTCOMES:
        return []

    def work() -> list[Processed]:
        judged = _judge_again(session, vault, entry)
        if judged is None:
            return []
        return _conclude_and_settle(session, vault, entry.id, *judged, now=now)

    return _guarded(session, entry_id, entry.type, work)


def settle(session: Session, vault: Vault, authorization: Authorization, *, now: datetime) -> list[Processed]:
    """Process the parked entries that wait for this authorization or a token of it, until nothing moves.

    Always the first that can be decided is next, so that of two that contradict each other the earlier one wins,
    whenever they are settled. Every move concludes an entry, which bounds the work.
    """
    settled: list[Processed] = []
    after = 0
    while (entry := inbox.first_waiting(session, authorization, after=after)) is not None:
        done = _guarded(session, entry.id, entry.type, partial(_settle_one, session, vault, entry, now=now))
        settled += [each for each in done if each.outcome is not Outcome.PARKED]
        moved = any(each.outcome is Outcome.APPLIED for each in done)
        after = 0 if moved else entry.id
    return settled


def _settle_one(session: Session, vault: Vault, entry: InboxEntry, *, now: datetime) -> list[Processed]:
    judged = _judge_again(session, vault, entry)
    if judged is None:
        return []
    return [_conclude(session, vault, entry.id, *judged, now=now)]


def _judge_again(session: Session, vault: Vault, entry: InboxEntry) -> tuple[Notification | None, Judgment] | None:
    """Judge a stored entry; `None` where somebody else has concluded it meanwhile.

    It is read unlocked, then what it is about is locked, and the entry last: the order of all locks.
    """
    try:
        notification = parse(inbox.open_body(vault, entry))
    except MalformedNotificationError as malformed:
        # It was acknowledged when reading it was broken; now it can at least be said what is wrong with it.
        return None, Judgment(Outcome.MALFORMED, f"{malformed.field}: {malformed.rule}")
    judgment = judge(session, vault, entry.client_id, notification)
    locked = inbox.lock(session, entry.id)
    if locked is None or locked.outcome not in OPEN_OUTCOMES:
        return None
    if (locked.type, locked.auth_state) != (notification.type, notification.auth_state):
        inbox.relabel(session, vault, locked, notification)
    return notification, judgment


def _conclude_and_settle(
    session: Session,
    vault: Vault,
    entry_id: int,
    notification: Notification | None,
    judgment: Judgment,
    *,
    now: datetime,
) -> list[Processed]:
    done = _conclude(session, vault, entry_id, notification, judgment, now=now)
    if judgment.event is None or judgment.authorization is None:
        return [done]
    return [done, *settle(session, vault, judgment.authorization, now=now)]


def _conclude(
    session: Session,
    vault: Vault,
    entry_id: int,
    notification: Notification | None,
    judgment: Judgment,
    *,
    now: datetime,
) -> Processed:
    """Write down how an entry ends, and move the authorization if that is how."""
    authorization = judgment.authorization
    inbox.conclude(session, entry_id, judgment.outcome, judgment.reason, authorization)
    if authorization is not None and notification is not None:
        if judgment.event is not None:
            cause = Cause("notification", at=now, notification_id=entry_id)
            _apply(session, vault, authorization, judgment.event, notification, cause)
        if judgment.outcome in {Outcome.APPLIED, Outcome.REDUNDANT}:
            authorizations.learn_user(
                vault, authorization, user_id=notification.user_id, login_id=notification.user_login_id
            )
    return Processed(
        entry_id=entry_id,
        type=notification.type if notification else None,
        outcome=judgment.outcome,
        reason=judgment.reason,
        authorization_id=authorization.id if authorization else None,
    )


def _apply(
    session: Session,
    vault: Vault,
    authorization: Authorization,
    event: Event,
    notification: Notification,
    cause: Cause,
) -> None:
    if event is Event.AUTHCODE_CREATED and notification.auth_code is not None:
        authorizations.keep_auth_code(vault, authorization, notification.auth_code, at=cause.at)
    if event is Event.TOKEN_CREATED and notification.access_token is not None:
        tokens.make_known(session, vault, authorization, Grant(notification.access_token), at=cause.at)
    authorizations.advance(session, authorization, event, cause=cause)


def _guarded(
    session: Session, entry_id: int, notification_type: str | None, work: Callable[[], list[Processed]]
) -> list[Processed]:
    """Do the work on one entry in a savepoint; when it breaks, give it up alone and say so in its outcome."""
    while True:
        try:
            with session.begin_nested():
                return work()
        except LinkedMeanwhileError:
            # A token that is known stays known, so the second time is the last.
            continue
        except Exception as error:
            if is_transient(error):
                raise
            reason = type(error).__name__
            _log.error("processing failed", extra={"entry": entry_id, **failure(error)})
            inbox.conclude(session, entry_id, Outcome.FAILED, reason)
            return [Processed(entry_id, notification_type, Outcome.FAILED, reason)]
