"""Process stored notifications: judge each, apply it, resume the parked ones that waited for it.

The unit of work loads what a whole batch names; each entry is judged in turn, in memory, without a statement; then the
unit of work writes every change.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import UUID

from app import authorizations, inbox
from app.alipay.notification import MalformedNotificationError, Notification, NotificationType
from app.authorizations import Cause
from app.inbox import CorrelationKeys, PendingEntry, StoredEntry
from app.judging import Judgment, judge
from app.logs import failure
from app.models import Authorization, InboxEntry
from app.state_machine import Event
from app.tokens import Grant
from app.unit_of_work import KnownMeanwhileError, SavepointFailedError, UnfinishedError, UnitOfWork
from app.vault import Vault
from app.vocabulary import REPLAYABLE_OUTCOMES, Outcome, Reason

_log = logging.getLogger(__name__)

#: Parked entries cannot change these answers, so an entry with one of them does not wait behind them.
_INDEPENDENT_OF_PARKED = frozenset({Reason.UNSUCCESSFUL_RESULT, Reason.SUPERSEDED_TOKEN})


class _Judge(Protocol):
    def __call__(self, work: UnitOfWork, entry: InboxEntry, *, now: datetime) -> Authorization | None: ...


@dataclass(frozen=True, slots=True)
class Processed:
    """How an entry ended, this time that it was processed."""

    entry_id: int
    type: NotificationType | str | None
    outcome: Outcome | str
    reason: str | None
    authorization_id: UUID | None

    @classmethod
    def of(cls, entry: InboxEntry) -> "Processed":
        """Read it from a stored entry."""
        return cls(entry.id, entry.type, entry.outcome, entry.reason, entry.authorization_id)


@dataclass(frozen=True, slots=True)
class Done:
    """What a transaction has processed, and what it left to later transactions."""

    processed: list[Processed] = field(default_factory=list)
    #: Authorizations for which more parked entries wait than one transaction resumes.
    unfinished: list[UUID] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The result of a batch."""

    #: The entries that were on record already, by fingerprint.
    already_stored: dict[bytes, StoredEntry]
    #: The parked entries that were resumed, without those of the batch itself.
    resumed: list[Processed]
    #: Authorizations for which more parked entries wait than one transaction resumes.
    unfinished: list[UUID]


class NoLongerUnderstoodError(Exception):
    """An entry was understood and acknowledged when it came, and cannot be read now.

    That is our failure and not the sender's: Alipay will not send it again, so it ends `failed` and is replayed.
    """

    def __init__(self, entry_id: int, malformed: MalformedNotificationError) -> None:
        self.entry_id = entry_id
        super().__init__(f"Entry {entry_id} was understood before, and now its {malformed}.")


def process_batch(
    work: UnitOfWork, pending: Sequence[PendingEntry], *, counts: Counter[bytes], now: datetime
) -> BatchResult:
    """Process a batch of entries in this order, resume what waited for them, store all, and commit.

    Malformed entries are only stored. Redeliveries only have their counter raised, by their `counts`. An
    error is raised and nothing is committed: the caller then processes each entry in a transaction of its own.
    """
    work.lock_and_load(pending)
    resumed = []
    for draft, keys in work.pending:
        if keys is not None:
            resumed += _judge_and_apply(work, draft, keys, now=now)[1:]
            if draft.outcome == Outcome.PARKED:
                work.park(draft)
    repeated = Counter({stored.id: counts[fingerprint] for fingerprint, stored in work.already_stored.items()})
    work.store_and_commit(inbox.redelivery_update(repeated, at=now))
    resumed_stored = [Processed.of(entry) for entry in resumed if entry not in work.drafts]
    return BatchResult(work.already_stored, resumed_stored, work.unfinished)


def process_stored(work: UnitOfWork, entry: InboxEntry, keys: CorrelationKeys, *, now: datetime) -> Done:
    """Process one entry that this transaction has just stored, and resume what waited for it.

    Returns the entry first, then each one resumed. An error of our own ends as outcome `failed`; only trouble of the
    database is raised.
    """

    def attempt() -> Done:
        work.lock_and_load([PendingEntry(entry, keys)])
        return _done(work, _judge_and_apply(work, entry, keys, now=now))

    return _in_savepoint(work, entry, attempt)


def replay(work: UnitOfWork, entry_id: int, *, now: datetime) -> Done:
    """Process a stored entry again, unless its outcome is final, and resume what waited for it.

    Raises `UnfinishedError` where other parked entries of its authorization must be resumed first.
    """
    entry = work.find_entry(entry_id)
    if entry is None or entry.outcome not in REPLAYABLE_OUTCOMES:
        return Done()

    def attempt() -> Done:
        try:
            read = _read_again(work.vault, entry)
        except Exception as error:
            if entry.outcome != Outcome.MALFORMED:
                raise
            # It was never acknowledged, and must not be by ending failed: its duplicates are answered with 400 still.
            _log.error("entry cannot be read", extra={"entry": entry.id, **failure(error)})
            return Done([Processed.of(entry)])
        pending = [] if isinstance(read, MalformedNotificationError) else [PendingEntry(entry, read)]
        work.lock_and_load(pending, replayed=entry)
        locked = work.replayed
        if locked is None or locked.outcome not in REPLAYABLE_OUTCOMES:
            # Another transaction has decided it while its locks were awaited.
            return Done(unfinished=work.unfinished)
        if work.unfinished:
            raise UnfinishedError(work.unfinished[0])
        return _done(work, _resume_if_moved(work, locked, _judge_again(work, locked, now=now), now=now))

    return _in_savepoint(work, entry, attempt)


def resume_parked(work: UnitOfWork, authorization: Authorization, *, now: datetime) -> Done:
    """Resume the parked entries of an authorization that a report has moved, until nothing moves.

    Where more wait than one transaction resumes, its `resume_after` is set, and `resume_next_piece` goes on from there.
    """
    return _done(work, _resume_loaded(work, authorization, now=now))


def resume_next_piece(work: UnitOfWork, authorization_id: UUID, *, now: datetime) -> Done:
    """Resume the next piece of an authorization's parked entries, if any are left."""
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


def _judge_and_apply(work: UnitOfWork, entry: InboxEntry, keys: CorrelationKeys, *, now: datetime) -> list[InboxEntry]:
    judgment = judge(work, keys)
    authorization = judgment.authorization
    if authorization is None or authorization.resume_after is None or judgment.reason in _INDEPENDENT_OF_PARKED:
        return _resume_if_moved(work, entry, _apply_judgment(work, entry, keys, judgment, now=now), now=now)
    work.wait_behind(entry, authorization)
    return [entry]


def _resume_if_moved(
    work: UnitOfWork, entry: InboxEntry, moved: Authorization | None, *, now: datetime
) -> list[InboxEntry]:
    """Resume what waited for an authorization that an entry has moved to another state."""
    return [entry] if moved is None else [entry, *_resume_loaded(work, moved, now=now)]


def _resume_loaded(work: UnitOfWork, authorization: Authorization, *, now: datetime) -> list[InboxEntry]:
    """Process the loaded entries that wait, until nothing moves.

    The first in the inbox that can be decided is always next, so that of two that contradict each other the earlier one
    wins, whenever they are resumed.
    """
    if not work.has_savepoints:
        return _resume_in_order(work, authorization, _judge_again, now=now)
    # An error in writing what moved the authorization must not be blamed on the entries that waited.
    work.write()
    try:
        # One savepoint for all takes a tenth of the time of one for each, and entries hardly ever break.
        with work.savepoint():
            return _resume_in_order(work, authorization, _judge_again, now=now)
    except SavepointFailedError:
        return _resume_in_order(work, authorization, _judge_in_savepoint, now=now)


def _resume_in_order(
    work: UnitOfWork, authorization: Authorization, judge_one: "_Judge", *, now: datetime
) -> list[InboxEntry]:
    """Judge entries in inbox order, and start over with the first when the authorization reaches another state.

    Only then can an early entry be decided: whether an event is early depends on the state alone, and a token becomes
    known with a new state. There are four states and no way back, so an entry is judged four times at most.
    """
    resumed: list[InboxEntry] = []
    starts_over = True
    while starts_over:
        starts_over = False
        state = authorization.state
        for entry in work.waiting(authorization):
            judge_one(work, entry, now=now)
            if entry.outcome != Outcome.PARKED:
                resumed.append(entry)
            if authorization.state != state:
                if not work.restart_resumption(authorization):
                    # This is not the first piece: the next transaction starts again from the first entry. Cancellations
                    # of what is loaded are carried out now.
                    cancellations = [each for each in work.waiting(authorization) if each.auth_state is None]
                    for each in cancellations:
                        judge_one(work, each, now=now)
                    return resumed + [each for each in cancellations if each.outcome != Outcome.PARKED]
                starts_over = True
                break
    work.finish_resumption(authorization)
    return resumed


def _judge_in_savepoint(work: UnitOfWork, entry: InboxEntry, *, now: datetime) -> Authorization | None:
    # Write what the entries before have changed: rolling back this savepoint must not undo it.
    work.write()
    try:
        with work.savepoint():
            return _judge_again(work, entry, now=now)
    except SavepointFailedError as failed:
        _fail(work, entry, failed.error)
        return None


def _judge_again(work: UnitOfWork, entry: InboxEntry, *, now: datetime) -> Authorization | None:
    """Judge a stored entry again, and set its outcome."""
    read = _read_again(work.vault, entry)
    if isinstance(read, MalformedNotificationError):
        if entry.type is not None:
            raise NoLongerUnderstoodError(entry.id, read)
        # It was never understood: it was malformed before, or reading it broke. Now its fault can be named.
        work.set_outcome(entry, Outcome.MALFORMED, f"{read.field}: {read.rule}")
        return None
    keys = read
    if (entry.type, entry.auth_state) != (keys.notification.type, keys.notification.auth_state):
        inbox.update_parsed_fields(work.vault, entry, keys.notification)
    return _apply_judgment(work, entry, keys, judge(work, keys), now=now)


def _read_again(vault: Vault, entry: InboxEntry) -> CorrelationKeys | MalformedNotificationError:
    try:
        return CorrelationKeys.read(vault, entry.client_id, inbox.read_again(vault, entry))
    except MalformedNotificationError as malformed:
        return malformed


def _apply_judgment(
    work: UnitOfWork, entry: InboxEntry, keys: CorrelationKeys, judgment: Judgment, *, now: datetime
) -> Authorization | None:
    """Set an entry's outcome, and advance its authorization if that is legal; return it if its state is another one."""
    authorization, notification = judgment.authorization, keys.notification
    work.set_outcome(entry, judgment.outcome, judgment.reason, authorization)
    if authorization is None:
        return None
    before = authorization.state
    if judgment.event is not None:
        reason = _apply(work, authorization, judgment.event, entry, notification, at=now)
        work.advance(authorization, judgment.event, cause=Cause.of_entry(entry, at=now), reason=reason)
    is_final = judgment.outcome in {Outcome.APPLIED, Outcome.REDUNDANT, Outcome.REJECTED}
    brings_nothing = is_final and judgment.event in {None, Event.TOKEN_CANCELED}
    if authorization.erased_at is not None and brings_nothing:
        # A code or a token that is legal still is another consent, and kept as one.
        inbox.forget(work.vault, entry)
    elif judgment.outcome in {Outcome.APPLIED, Outcome.REDUNDANT}:
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
    """Store the code or the token that a notification brings; return the reason that its transition is to name."""
    if event is Event.AUTHCODE_CREATED and notification.auth_code is not None:
        # The code's minute began with its first delivery, however long the entry was parked.
        return authorizations.store_auth_code(
            work.vault, authorization, notification.auth_code, received_at=entry.received_at, now=at
        )
    if event is Event.TOKEN_CREATED and notification.access_token is not None:
        work.make_known(authorization, Grant(notification.access_token), at=at)
    return None


def _in_savepoint(work: UnitOfWork, entry: InboxEntry, attempt: Callable[[], Done]) -> Done:
    """Process one entry in a savepoint; an error rolls back the savepoint alone, and the entry ends `failed`."""
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
