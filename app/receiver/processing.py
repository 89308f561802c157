"""Process kept notifications, and settle those that waited for what that changes.

Any number at once: what they are about is laid out, each is judged in turn, and what comes of them is written together.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from app import authorizations, inbox
from app.alipay.notification import MalformedNotificationError, Notification, parse
from app.database import is_transient
from app.database.messages import ask, ask_last
from app.inbox import REPLAYABLE_OUTCOMES, Kept, Outcome
from app.logs import failure
from app.models import Authorization, InboxEntry
from app.receiver.cases import Case, Subject
from app.receiver.docket import Docket, KnownMeanwhileError, lay_out
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
    authorization_id: UUID | None

    @classmethod
    def of(cls, entry: InboxEntry) -> "Processed":
        """Say it of a stored entry."""
        return cls(entry.id, entry.type, Outcome(entry.outcome), entry.reason, entry.authorization_id)


@dataclass(frozen=True, slots=True)
class Together:
    """What came of entries that were processed together."""

    #: Those of them that were on record already, by fingerprint.
    known: dict[bytes, Kept]
    #: The entries beside them that were settled.
    settled: list[Processed]


def process_together(
    connection: Connection, vault: Vault, cases: Sequence[Case], *, times: Counter[bytes], now: datetime
) -> Together:
    """Process entries that are not stored yet, in this order, settle what that lets move, and store them as they ended.

    Those without a subject are only stored, and of those that are on record already it is counted how many `times` they
    came. That ends the transaction. Whatever breaks is raised, and nothing is committed: what was to be processed
    together is then processed each alone.
    """
    docket = lay_out(connection, vault, cases, careful=False)
    settled = []
    for draft, subject in docket.cases:
        if subject is not None:
            settled += _process(docket, draft, subject, now=now)[1:]
            if draft.outcome == Outcome.PARKED:
                docket.park(draft)
    drafts = [case.entry for case in docket.cases]
    repeated = Counter({kept.id: times[fingerprint] for fingerprint, kept in docket.known.items()})
    stored, *_ = ask_last(
        connection,
        *inbox.store(drafts),
        *docket.left_to_write(),
        *docket.left_to_part(),
        *inbox.count(repeated, at=now),
    )
    inbox.number(drafts, stored)
    return Together(docket.known, [Processed.of(entry) for entry in settled if entry not in docket.drafts])


def process(
    connection: Connection, vault: Vault, entry: InboxEntry, subject: Subject, *, now: datetime
) -> list[Processed]:
    """Process one entry that this transaction has just stored, and settle what that lets move.

    Returns the entry first, then each one settled. A failure of ours ends as outcome `failed`; only the database's
    troubles are raised.
    """

    def work() -> list[Processed]:
        docket = lay_out(connection, vault, [Case(entry, subject)], careful=True)
        return _close(docket, _process(docket, entry, subject, now=now))

    return _guarded(connection, entry, work)


def replay(connection: Connection, vault: Vault, entry_id: int, *, now: datetime) -> list[Processed]:
    """Process a stored entry again, if it may end otherwise, and settle what that lets move; else do nothing."""
    entry = inbox.find(connection, entry_id)
    if entry is None or entry.outcome not in REPLAYABLE_OUTCOMES:
        return []

    def work() -> list[Processed]:
        subject = _read_again(vault, entry)
        cases = [] if isinstance(subject, MalformedNotificationError) else [Case(entry, subject)]
        docket = lay_out(connection, vault, cases, careful=True, replayed=entry)
        locked = docket.replayed
        if locked is None or locked.outcome not in REPLAYABLE_OUTCOMES:
            # Somebody else has concluded it while its locks were awaited.
            return _close(docket, [])
        return _close(docket, _move(docket, locked, _decide_again(docket, locked, now=now), now=now))

    return _guarded(connection, entry, work)


def settle(session: Session, vault: Vault, authorization: Authorization, *, now: datetime) -> list[Processed]:
    """Process the parked entries that wait for an authorization that a report has moved, until nothing moves.

    From then on it may be otherwise on record than the session knows.
    """
    # What is asked past the session must find what it has changed.
    session.flush()
    key = (authorization.client_id, authorization.auth_state)
    docket = lay_out(session.connection(), vault, [], careful=True, named=[key])
    moved = docket.authorization(*key)
    return _close(docket, [] if moved is None else _settle(docket, moved, now=now))


def _close(docket: Docket, done: list[InboxEntry]) -> list[Processed]:
    docket.close()
    return [Processed.of(entry) for entry in done]


def _process(docket: Docket, entry: InboxEntry, subject: Subject, *, now: datetime) -> list[InboxEntry]:
    return _move(docket, entry, _decide(docket, entry, subject, now=now), now=now)


def _move(docket: Docket, entry: InboxEntry, moved: Authorization | None, *, now: datetime) -> list[InboxEntry]:
    """Settle what waited for an authorization that an entry has moved."""
    return [entry] if moved is None else [entry, *_settle(docket, moved, now=now)]


def _settle(docket: Docket, authorization: Authorization, *, now: datetime) -> list[InboxEntry]:
    """Process what waits until nothing moves.

    Always the first that can be decided is next, so that of two that contradict each other the earlier one wins,
    whenever they are settled. Every move concludes an entry, which bounds the work.
    """
    if docket.is_careful:
        # Whatever breaks in writing what moved it is not the fault of what waited.
        docket.write()
    settled: list[InboxEntry] = []
    while True:
        for entry in docket.waiting(authorization):
            moved = _settle_one(docket, entry, now=now)
            if entry.outcome != Outcome.PARKED:
                settled.append(entry)
            if moved is not None:
                break
        else:
            return settled


def _settle_one(docket: Docket, entry: InboxEntry, *, now: datetime) -> Authorization | None:
    try:
        with docket.guarded():
            return _decide_again(docket, entry, now=now)
    except Exception as error:
        if is_transient(error) or not docket.is_careful:
            raise
        _fail(docket.connection, entry, error)
        return None


def _decide_again(docket: Docket, entry: InboxEntry, *, now: datetime) -> Authorization | None:
    """Judge a stored entry anew, and write down how it ends."""
    subject = _read_again(docket.vault, entry)
    if isinstance(subject, MalformedNotificationError):
        # It was acknowledged when reading it was broken; now it can at least be said what is wrong with it.
        docket.conclude(entry, Outcome.MALFORMED, f"{subject.field}: {subject.rule}")
        return None
    if (entry.type, entry.auth_state) != (subject.notification.type, subject.notification.auth_state):
        inbox.relabel(docket.vault, entry, subject.notification)
    return _decide(docket, entry, subject, now=now)


def _read_again(vault: Vault, entry: InboxEntry) -> Subject | MalformedNotificationError:
    try:
        return Subject.read(vault, entry.client_id, parse(inbox.open_body(vault, entry)))
    except MalformedNotificationError as malformed:
        return malformed


def _decide(docket: Docket, entry: InboxEntry, subject: Subject, *, now: datetime) -> Authorization | None:
    """Judge an entry, write down how it ends, and move the authorization, which is returned, if that is how."""
    judgment = judge(docket, subject)
    authorization, notification = judgment.authorization, subject.notification
    docket.conclude(entry, judgment.outcome, judgment.reason, authorization)
    if authorization is None:
        return None
    if judgment.event is not None:
        _apply(docket, authorization, judgment.event, entry, notification, at=now)
        docket.move(authorization, judgment.event, entry, at=now)
    if judgment.outcome in {Outcome.APPLIED, Outcome.REDUNDANT}:
        docket.learn_user(authorization, notification)
    return authorization if judgment.event is not None else None


def _apply(
    docket: Docket,
    authorization: Authorization,
    event: Event,
    entry: InboxEntry,
    notification: Notification,
    *,
    at: datetime,
) -> None:
    if event is Event.AUTHCODE_CREATED and notification.auth_code is not None:
        # However long it has waited here, its minute began with its first delivery.
        authorizations.keep_auth_code(docket.vault, authorization, notification.auth_code, at=entry.received_at)
    if event is Event.TOKEN_CREATED and notification.access_token is not None:
        docket.make_known(authorization, Grant(notification.access_token), at=at)


def _guarded(connection: Connection, entry: InboxEntry, work: Callable[[], list[Processed]]) -> list[Processed]:
    """Do the work on one entry in a savepoint; when it breaks, give it up alone and say so in its outcome."""
    while True:
        try:
            with connection.begin_nested():
                return work()
        except KnownMeanwhileError:
            # What is known stays known, so there is an end to it.
            continue
        except Exception as error:
            if is_transient(error):
                raise
            return _give_up(connection, entry, error)


def _give_up(connection: Connection, entry: InboxEntry, error: Exception) -> list[Processed]:
    """Say of an entry that its processing broke, unless somebody else has concluded it meanwhile."""
    locked = inbox.lock_all(connection, {entry.id})
    if any(each.outcome not in REPLAYABLE_OUTCOMES for each in locked):
        return []
    _fail(connection, entry, error)
    return [Processed.of(entry)]


def _fail(connection: Connection, entry: InboxEntry, error: Exception) -> None:
    _log.error("processing failed", extra={"entry": entry.id, **failure(error)})
    inbox.conclude(entry, Outcome.FAILED, type(error).__name__)
    ask(connection, *inbox.save([entry]))
