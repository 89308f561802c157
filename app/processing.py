"""Process stored notifications: judge each, apply it, resume what waited for that.

Any number at once: what they are about is loaded, each is judged in turn, and all that they change is written together.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import UUID

from app import authorizations, inbox
from app.alipay.notification import MalformedNotificationError, Notification
from app.authorizations import Cause
from app.correlation import CorrelationKeys, PendingEntry
from app.inbox import REPLAYABLE_OUTCOMES, Outcome, Reason, StoredEntry
from app.judging import Judgment, judge
from app.logs import failure
from app.models import Authorization, InboxEntry
from app.state_machine import Event
from app.tokens import Grant
from app.unit_of_work import KnownMeanwhileError, SavepointFailedError, UnfinishedError, UnitOfWork
from app.vault import Vault

_log = logging.getLogger(__name__)

#: Whatever is still to be resumed before it changes nothing about these.
_DECIDED_ANYHOW = frozenset({Reason.UNSUCCESSFUL_RESULT, Reason.SUPERSEDED_TOKEN})


class _Decide(Protocol):
    def __call__(self, work: UnitOfWork, entry: InboxEntry, *, now: datetime) -> Authorization | None: ...


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
class Done:
    """What a transaction has processed, and what it has left to others."""

    processed: list[Processed] = field(default_factory=list)
    #: Authorizations for which more parked entries wait than one transaction resumes.
    unfinished: list[UUID] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What came of entries that were processed together."""

    #: Those of them that were on record already, by fingerprint.
    known: dict[bytes, StoredEntry]
    #: The entries beside them that were resumed.
    resumed: list[Processed]
    #: Authorizations for which more parked entries wait than one transaction resumes.
    unfinished: list[UUID]


class NoLongerUnderstoodError(Exception):
    """An entry was understood and acknowledged when it came, and cannot be read now.

    That is our failure and not the sender's: Alipay will not send it again, so it stays open.
    """

    def __init__(self, entry_id: int, malformed: MalformedNotificationError) -> None:
        self.entry_id = entry_id
        super().__init__(f"Entry {entry_id} was understood before, and now its {malformed}.")


def process_batch(
    work: UnitOfWork, cases: Sequence[PendingEntry], *, times: Counter[bytes], now: datetime
) -> BatchResult:
    """Process entries that are not stored yet, in this order, resume what waited for them, store all and commit.

    Those without a subject are only stored, and for those that are on record already it is counted how many `times`
    they came. What breaks is raised, and nothing is committed: each is then processed by itself.
    """
    work.lock_and_load(cases)
    resumed = []
    for draft, subject in work.cases:
        if subject is not None:
            resumed += _process(work, draft, subject, now=now)[1:]
            if draft.outcome == Outcome.PARKED:
                work.park(draft)
    repeated = Counter({kept.id: times[fingerprint] for fingerprint, kept in work.known.items()})
    work.store_and_commit(inbox.redelivered(repeated, at=now))
    beside = [Processed.of(entry) for entry in resumed if entry not in work.drafts]
    return BatchResult(work.known, beside, work.unfinished)


def process(work: UnitOfWork, entry: InboxEntry, subject: CorrelationKeys, *, now: datetime) -> Done:
    """Process one entry that this transaction has just stored, and resume what waited for it.

    Returns the entry first, then each one resumed. A failure of ours ends as outcome `failed`; only the database's
    troubles are raised.
    """

    def attempt() -> Done:
        work.lock_and_load([PendingEntry(entry, subject)])
        return _done(work, _process(work, entry, subject, now=now))

    return _in_savepoint(work, entry, attempt)


def replay(work: UnitOfWork, entry_id: int, *, now: datetime) -> Done:
    """Process a stored entry again, unless it was decided for good, and resume what waited for it.

    Raises `UnfinishedError` where parked entries are to be resumed before.
    """
    entry = work.find_entry(entry_id)
    if entry is None or entry.outcome not in REPLAYABLE_OUTCOMES:
        return Done()

    def attempt() -> Done:
        try:
            subject = _read_again(work.vault, entry)
        except Exception as error:
            if entry.outcome != Outcome.MALFORMED:
                raise
            # It was never acknowledged, and must not be by ending failed: its duplicates are answered with 400 still.
            _log.error("entry cannot be read", extra={"entry": entry.id, **failure(error)})
            return Done([Processed.of(entry)])
        cases = [] if isinstance(subject, MalformedNotificationError) else [PendingEntry(entry, subject)]
        work.lock_and_load(cases, replayed=entry)
        locked = work.replayed
        if locked is None or locked.outcome not in REPLAYABLE_OUTCOMES:
            # Another transaction has decided it while its locks were awaited.
            return Done(unfinished=work.unfinished)
        for authorization_id in work.unfinished:
            raise UnfinishedError(authorization_id)
        return _done(work, _move(work, locked, _decide_again(work, locked, now=now), now=now))

    return _in_savepoint(work, entry, attempt)


def resume_parked(work: UnitOfWork, authorization: Authorization, *, now: datetime) -> Done:
    """Process the parked entries that wait for an authorization that a report has moved, until nothing moves.

    Where more wait than one transaction resumes, the authorization is marked, and `resume` goes on.
    """
    return _done(work, _resume_parked(work, authorization, now=now))


def resume(work: UnitOfWork, authorization_id: UUID, *, now: datetime) -> Done:
    """Process some more of the parked entries that are still to be resumed for an authorization, if any are."""
    key = work.auth_state_key(authorization_id)
    if key is None:
        return Done()
    work.lock_and_load(states=[key])
    authorization = work.authorization(*key)
    if authorization is None or authorization.resume_after is None:
        return Done(unfinished=work.unfinished)
    return resume_parked(work, authorization, now=now)


def _done(work: UnitOfWork, processed: list[InboxEntry]) -> Done:
    return Done([Processed.of(entry) for entry in processed], work.unfinished)


def _process(work: UnitOfWork, entry: InboxEntry, subject: CorrelationKeys, *, now: datetime) -> list[InboxEntry]:
    judgment = judge(work, subject)
    authorization = judgment.authorization
    if authorization is None or authorization.resume_after is None or judgment.reason in _DECIDED_ANYHOW:
        return _move(work, entry, _carry_out(work, entry, subject, judgment, now=now), now=now)
    work.wait_behind(entry, authorization)
    return [entry]


def _move(work: UnitOfWork, entry: InboxEntry, moved: Authorization | None, *, now: datetime) -> list[InboxEntry]:
    """Settle what waited for an authorization that an entry has moved to another state."""
    return [entry] if moved is None else [entry, *_resume_parked(work, moved, now=now)]


def _resume_parked(work: UnitOfWork, authorization: Authorization, *, now: datetime) -> list[InboxEntry]:
    """Process what waits until nothing moves, or as much of it as is laid out.

    Always the first that can be decided is next, so that of two that contradict each other the earlier one wins,
    whenever they are resumed.
    """
    if not work.has_savepoints:
        return _resume_in_turn(work, authorization, _decide_again, now=now)
    # What breaks in writing what moved it is not the fault of what waited.
    work.write()
    try:
        # Hardly ever does one break. All in one savepoint take a tenth of the time of one for each.
        with work.savepoint():
            return _resume_in_turn(work, authorization, _decide_again, now=now)
    except SavepointFailedError:
        return _resume_in_turn(work, authorization, _resume_one, now=now)


def _resume_in_turn(
    work: UnitOfWork, authorization: Authorization, decide: "_Decide", *, now: datetime
) -> list[InboxEntry]:
    """Decide one after another, and begin anew with the first each time that the authorization is in another state.

    What could not be decided can be only then: whether an event is early depends on the state alone, and a token
    becomes known with a new state. There are four states and no way back, so an entry is judged four times at most.
    """
    resumed: list[InboxEntry] = []
    is_anew = True
    while is_anew:
        is_anew = False
        state = authorization.state
        for entry in work.waiting(authorization):
            decide(work, entry, now=now)
            if entry.outcome != Outcome.PARKED:
                resumed.append(entry)
            if authorization.state != state:
                if not work.begin_anew(authorization):
                    # All else waits for the next transaction, in which the first is loaded; no cancellation does.
                    cancellations = [each for each in work.waiting(authorization) if each.auth_state is None]
                    for each in cancellations:
                        decide(work, each, now=now)
                    return resumed + [each for each in cancellations if each.outcome != Outcome.PARKED]
                is_anew = True
                break
    work.come_to_the_end(authorization)
    return resumed


def _resume_one(work: UnitOfWork, entry: InboxEntry, *, now: datetime) -> Authorization | None:
    # What was changed since the last one is no part of this one, and must not be taken back with it.
    work.write()
    try:
        with work.savepoint():
            return _decide_again(work, entry, now=now)
    except SavepointFailedError as failed:
        _fail(work, entry, failed.error)
        return None


def _decide_again(work: UnitOfWork, entry: InboxEntry, *, now: datetime) -> Authorization | None:
    """Judge a stored entry anew, and write down how it ends."""
    subject = _read_again(work.vault, entry)
    if isinstance(subject, MalformedNotificationError):
        if entry.type is not None:
            raise NoLongerUnderstoodError(entry.id, subject)
        # It was never understood: it was malformed before, or reading it broke. Now its fault can be named.
        work.set_outcome(entry, Outcome.MALFORMED, f"{subject.field}: {subject.rule}")
        return None
    if (entry.type, entry.auth_state) != (subject.notification.type, subject.notification.auth_state):
        inbox.update_parsed_fields(work.vault, entry, subject.notification)
    return _carry_out(work, entry, subject, judge(work, subject), now=now)


def _read_again(vault: Vault, entry: InboxEntry) -> CorrelationKeys | MalformedNotificationError:
    try:
        return CorrelationKeys.read(vault, entry.client_id, inbox.read_again(vault, entry))
    except MalformedNotificationError as malformed:
        return malformed


def _carry_out(
    work: UnitOfWork, entry: InboxEntry, subject: CorrelationKeys, judgment: Judgment, *, now: datetime
) -> Authorization | None:
    """Write down how an entry ends, and move the authorization if that is how; return one that is in another state."""
    authorization, notification = judgment.authorization, subject.notification
    work.set_outcome(entry, judgment.outcome, judgment.reason, authorization)
    if authorization is None:
        return None
    before = authorization.state
    if judgment.event is not None:
        reason = _apply(work, authorization, judgment.event, entry, notification, at=now)
        work.advance(authorization, judgment.event, cause=Cause.of_entry(entry, at=now), reason=reason)
    if judgment.outcome in {Outcome.APPLIED, Outcome.REDUNDANT}:
        authorizations.learn_user(
            work.vault, authorization, user_id=notification.user_id, login_id=notification.user_login_id
        )
    return authorization if authorization.state != before else None


def _apply(
    work: UnitOfWork,
    authorization: Authorization,
    event: Event,
    entry: InboxEntry,
    notification: Notification,
    *,
    at: datetime,
) -> str | None:
    """Put on record what a notification brings, and say what the history is to say of that beyond the event."""
    if event is Event.AUTHCODE_CREATED and notification.auth_code is not None:
        # However long it has waited here, its minute began with its first delivery.
        return authorizations.keep_auth_code(
            work.vault, authorization, notification.auth_code, received_at=entry.received_at, now=at
        )
    if event is Event.TOKEN_CREATED and notification.access_token is not None:
        work.make_known(authorization, Grant(notification.access_token), at=at)
    return None


def _in_savepoint(work: UnitOfWork, entry: InboxEntry, attempt: Callable[[], Done]) -> Done:
    """Process one entry in a savepoint; when that breaks, it alone is given up, and its outcome says so."""
    while True:
        try:
            with work.savepoint():
                return attempt()
        except KnownMeanwhileError:
            # What is known stays known, so there is an end to it.
            continue
        except SavepointFailedError as failed:
            locked = work.lock_entry(entry.id)
            if locked is None or locked.outcome not in REPLAYABLE_OUTCOMES:
                # Another transaction has decided it.
                return Done()
            _fail(work, locked, failed.error)
            return Done([Processed.of(locked)])


def _fail(work: UnitOfWork, entry: InboxEntry, error: Exception) -> None:
    _log.error("processing failed", extra={"entry": entry.id, **failure(error)})
    work.set_outcome(entry, Outcome.FAILED, type(error).__name__)
    work.write()
