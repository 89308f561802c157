"""Process kept notifications, and settle those that waited for what that changes.

Any number at once: what they are about is laid out, each is judged in turn, and what comes of them is written together.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from app import authorizations, inbox
from app.alipay.notification import MalformedNotificationError, Notification, parse
from app.authorizations import Cause
from app.database import is_transient
from app.inbox import OPEN_OUTCOMES, Conclusion, Outcome
from app.logs import failure
from app.models import Authorization, InboxEntry
from app.receiver.docket import Docket, LinkedMeanwhileError, Subject, lay_out
from app.receiver.judging import judge
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


def process_together(
    session: Session, vault: Vault, new: Sequence[tuple[int, Subject]], *, now: datetime
) -> dict[int, list[Processed]]:
    """Process entries that this transaction has just stored, in inbox sequence, and settle what that lets move.

    Returns for each of them itself first, then each one settled. Whatever breaks is raised, and nothing may be
    committed: what was to be processed together is then processed each alone.
    """
    docket = lay_out(session, vault, [subject for _, subject in new], careful=False)
    done = {entry_id: _process(docket, entry_id, subject, now=now) for entry_id, subject in sorted(new)}
    docket.close()
    return done


def process(session: Session, vault: Vault, entry_id: int, subject: Subject, *, now: datetime) -> list[Processed]:
    """Process one entry that this transaction has just stored, and settle what that lets move.

    Returns the entry first, then each one settled. A failure of ours ends as outcome `failed`; only the database's
    troubles are raised.
    """

    def work() -> list[Processed]:
        docket = lay_out(session, vault, [subject], careful=True)
        done = _process(docket, entry_id, subject, now=now)
        docket.close()
        return done

    return _guarded(session, entry_id, subject.notification.type, work)


def replay(session: Session, vault: Vault, entry_id: int, *, now: datetime) -> list[Processed]:
    """Process a stored entry again, if it is parked or failed, and settle what that lets move; else do nothing."""
    entry = inbox.find(session, entry_id)
    if entry is None or entry.outcome not in OPEN_OUTCOMES:
        return []

    def work() -> list[Processed]:
        subject = _read_again(vault, entry)
        subjects = [] if isinstance(subject, MalformedNotificationError) else [subject]
        docket = lay_out(session, vault, subjects, careful=True, entry=entry)
        # Somebody else may have concluded it while its locks were awaited.
        done = _move(docket, *_decide_again(docket, entry, now=now), now=now) if entry.outcome in OPEN_OUTCOMES else []
        docket.close()
        return done

    return _guarded(session, entry_id, entry.type, work)


def settle(session: Session, vault: Vault, authorization: Authorization, *, now: datetime) -> list[Processed]:
    """Process the parked entries that wait for an authorization that a report has moved, until nothing moves."""
    docket = lay_out(session, vault, [], careful=True, held=authorization)
    settled = _settle(docket, authorization, now=now)
    docket.close()
    return settled


def _process(docket: Docket, entry_id: int, subject: Subject, *, now: datetime) -> list[Processed]:
    return _move(docket, *_decide(docket, entry_id, subject, now=now), now=now)


def _move(docket: Docket, done: Processed, moved: Authorization | None, *, now: datetime) -> list[Processed]:
    """Settle what waited for an authorization that has moved."""
    return [done] if moved is None else [done, *_settle(docket, moved, now=now)]


def _settle(docket: Docket, authorization: Authorization, *, now: datetime) -> list[Processed]:
    """Process what waits until nothing moves.

    Always the first that can be decided is next, so that of two that contradict each other the earlier one wins,
    whenever they are settled. Every move concludes an entry, which bounds the work.
    """
    settled: list[Processed] = []
    after = 0
    while (entry := docket.first_waiting(authorization, after=after)) is not None:
        done, moved = _settle_one(docket, entry, now=now)
        if done.outcome is not Outcome.PARKED:
            settled.append(done)
        after = entry.id if moved is None else 0
    return settled


def _settle_one(docket: Docket, entry: InboxEntry, *, now: datetime) -> tuple[Processed, Authorization | None]:
    entry_id, notification_type = entry.id, entry.type
    try:
        with docket.guarded():
            return _decide_again(docket, entry, now=now)
    except Exception as error:
        if is_transient(error) or not docket.is_careful:
            raise
        return _failed(docket.session, entry_id, notification_type, error), None


def _decide_again(docket: Docket, entry: InboxEntry, *, now: datetime) -> tuple[Processed, Authorization | None]:
    """Judge a stored entry anew, and write down how it ends."""
    subject = _read_again(docket.vault, entry)
    if isinstance(subject, MalformedNotificationError):
        # It was acknowledged when reading it was broken; now it can at least be said what is wrong with it.
        reason = f"{subject.field}: {subject.rule}"
        docket.conclude(Conclusion(entry.id, Outcome.MALFORMED, reason), entry)
        return Processed(entry.id, None, Outcome.MALFORMED, reason), None
    if (entry.type, entry.auth_state) != (subject.notification.type, subject.notification.auth_state):
        inbox.relabel(docket.vault, entry, subject.notification)
    return _decide(docket, entry.id, subject, entry=entry, now=now)


def _read_again(vault: Vault, entry: InboxEntry) -> Subject | MalformedNotificationError:
    try:
        return Subject(entry.client_id, parse(inbox.open_body(vault, entry)))
    except MalformedNotificationError as malformed:
        return malformed


def _decide(
    docket: Docket, entry_id: int, subject: Subject, *, entry: InboxEntry | None = None, now: datetime
) -> tuple[Processed, Authorization | None]:
    """Judge an entry, write down how it ends, and move the authorization, which is returned, if that is how."""
    judgment = judge(docket, subject)
    authorization, notification = judgment.authorization, subject.notification
    conclusion = Conclusion(
        entry_id,
        judgment.outcome,
        judgment.reason,
        found_state=authorization.state if authorization else None,
        authorization_id=authorization.id if authorization else None,
    )
    docket.conclude(conclusion, entry)
    if authorization is not None:
        if judgment.event is not None:
            cause = Cause("notification", at=now, notification_id=entry_id)
            _apply(docket, authorization, judgment.event, notification, cause)
        if judgment.outcome in {Outcome.APPLIED, Outcome.REDUNDANT}:
            authorizations.learn_user(
                docket.vault, authorization, user_id=notification.user_id, login_id=notification.user_login_id
            )
    processed = Processed(entry_id, notification.type, judgment.outcome, judgment.reason, conclusion.authorization_id)
    return processed, authorization if judgment.event is not None else None


def _apply(
    docket: Docket, authorization: Authorization, event: Event, notification: Notification, cause: Cause
) -> None:
    if event is Event.AUTHCODE_CREATED and notification.auth_code is not None:
        authorizations.keep_auth_code(docket.vault, authorization, notification.auth_code, at=cause.at)
    if event is Event.TOKEN_CREATED and notification.access_token is not None:
        docket.make_known(authorization, Grant(notification.access_token), at=cause.at)
    authorizations.advance(docket.session, authorization, event, cause=cause)


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
            return [_failed(session, entry_id, notification_type, error)]


def _failed(session: Session, entry_id: int, notification_type: str | None, error: Exception) -> Processed:
    reason = type(error).__name__
    _log.error("processing failed", extra={"entry": entry_id, **failure(error)})
    inbox.conclude(session, [Conclusion(entry_id, Outcome.FAILED, reason)])
    return Processed(entry_id, notification_type, Outcome.FAILED, reason)
