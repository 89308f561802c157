"""The unit of work: the one writer. It locks and loads rows, they are changed in memory, and it writes them together.

Notifications, replays, resumed entries and reports all use it. Judging what is loaded asks the database nothing, so
that one notification costs as many statements as a hundred, and a few messages.

Locks are taken in one order, each kind in the order of its keys: authorizations, the key locks of what is unknown,
inbox entries. The tokens of an authorization are guarded by its lock. An entry that is not stored yet is inserted last,
when all other locks are held; one that a transaction processes by itself is inserted first, and no transaction waits
for it while holding a lock that it needs. Where two transactions can still wait for each other, a timeout ends it, and
the work is tried again.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy.engine import Connection

from app import authorizations, call_statements, calls, inbox, inbox_admin, key_locks, tokens
from app.alipay.keyring import Gateway
from app.alipay.notification import NotificationType
from app.authorizations import Cause
from app.database import is_transient
from app.database.bulk import insertion, update_of
from app.database.clock import clock_query, lead, machine_time
from app.database.pipeline import Statement, execute, execute_and_commit, plain, table_of
from app.events import staging
from app.inbox import PendingEntry, StoredEntry, named_by
from app.key_locks import AuthStateKey
from app.limits import RESUMED_AT_ONCE_MAX
from app.models import (
    AccessToken,
    AuditLine,
    Authorization,
    Base,
    Call,
    CallAttempt,
    InboxEntry,
    OutboxEvent,
    Transition,
)
from app.state_machine import Event
from app.tokens import Grant, TokenKey
from app.vault import Vault
from app.vocabulary import CallKind, CallStatus, Outcome, Reason


class KnownMeanwhileError(Exception):
    """What was unknown has become known since it was looked for: begin again, with its authorization locked."""


class TooManyParkedError(Exception):
    """More parked entries wait for what a batch names than one transaction resumes: each delivery is to go alone."""


class UnfinishedError(Exception):
    """Parked entries that come first are still to be resumed, in transactions of their own."""

    def __init__(self, authorization_id: UUID) -> None:
        self.authorization_id = authorization_id
        super().__init__("Parked entries that come first are still to be resumed.")


class SavepointFailedError(Exception):
    """Our own code broke within a savepoint, and all that was done in it is taken back."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        super().__init__(f"{type(error).__name__} within a savepoint.")


class IllegalAdvanceError(Exception):
    """An event was to be applied that the machine does not allow: our fault, for callers ask the machine first."""

    def __init__(self, state: str, event: Event) -> None:
        self.state = state
        self.event = event
        super().__init__(f"{event} is not legal in {state}.")


@dataclass
class UnitOfWork:
    """What one transaction has loaded and changed.

    Every loaded row is remembered as the database has it. What differs from that is written.
    """

    connection: Connection
    vault: Vault
    #: By client id, the gateways that calls are made to. Clients without one make their calls themselves.
    gateways: Mapping[str, Gateway] = field(default_factory=dict)
    #: Whether each entry has a savepoint of its own, so that one that breaks takes nothing else with it.
    has_savepoints: bool = True
    #: The entries to be judged, stored or not.
    pending: Sequence[PendingEntry] = ()
    #: Those that are not stored yet. In inbox order they follow all stored entries.
    drafts: frozenset[InboxEntry] = frozenset()
    #: By fingerprint, the entries of drafts that turned out to be redeliveries.
    already_stored: dict[bytes, StoredEntry] = field(default_factory=dict)
    #: The stored entry that is judged again, as it is now that it is locked.
    replayed: InboxEntry | None = None
    _authorizations: dict[UUID, Authorization] = field(default_factory=dict)
    _by_auth_state: dict[AuthStateKey, Authorization] = field(default_factory=dict)
    _tokens: dict[TokenKey, AccessToken] = field(default_factory=dict)
    #: Entries that wait, in inbox sequence. Those that are stored name one of the authorizations or its token.
    _parked: list[InboxEntry] = field(default_factory=list)
    #: Of authStates for which more wait than are loaded: the highest entry id that was loaded.
    _loaded_through: dict[AuthStateKey, int] = field(default_factory=dict)
    #: Of authorizations that were being resumed in pieces when they were loaded: the `resume_after` that they had.
    _loaded_after: dict[UUID, int] = field(default_factory=dict)
    _key_locks: list[key_locks.Key] = field(default_factory=list)
    #: Each stored row that was loaded or written, and the values that the database has of it.
    _on_record: dict[Base, dict[str, Any]] = field(default_factory=dict)
    #: What is to be inserted.
    _begun: list[Authorization] = field(default_factory=list)
    _made_known: list[AccessToken] = field(default_factory=list)
    _history: list[tuple[Transition, InboxEntry | None]] = field(default_factory=list)
    _outbox: list[OutboxEvent] = field(default_factory=list)
    #: The open calls of the loaded authorizations whose client has a gateway, those that are not stored yet last.
    _calls: dict[UUID, Call] = field(default_factory=dict)
    _begun_calls: list[Call] = field(default_factory=list)
    _ended_attempts: list[CallAttempt] = field(default_factory=list)
    _audit: list[AuditLine] = field(default_factory=list)
    #: By how much the database's clock is ahead of this machine's. It is asked where calls may be begun.
    _clock_lead: timedelta = timedelta(0)

    # --- locking and loading, in the order of the locks ---

    def lock_and_load(
        self,
        pending: Sequence[PendingEntry] = (),
        *,
        states: Collection[AuthStateKey] = (),
        token_keys: Collection[TokenKey] = (),
        replayed: InboxEntry | None = None,
    ) -> None:
        """Lock and load what these entries are about, and what waits for it.

        A report names authorizations and tokens beside them, and what waits for those authStates is loaded even where
        nobody has consulted them yet. A replay names the entry that is judged again.

        Raises `KnownMeanwhileError` and `TooManyParkedError` with locks held that only giving up the transaction, or a
        savepoint, releases.
        """
        self.pending = pending
        self.drafts = frozenset(each.entry for each in pending if not each.entry.id)
        self._remember(each.entry for each in pending if each.entry.id)
        all_states, all_token_keys = named_by(pending, states, token_keys)
        self._lock_authorizations(all_states, all_token_keys)
        if self.already_stored:
            self.pending = [each for each in pending if each.entry.fingerprint not in self.already_stored]
            all_states, all_token_keys = named_by(self.pending, states, token_keys)
        self._lock_waiting(all_states, all_token_keys, states, replayed)

    def _lock_authorizations(self, states: set[AuthStateKey], token_keys: set[TokenKey]) -> None:
        """Lock the authorizations that are named by authState or by token, and read the tokens that may matter.

        A draft may be a redelivery: the same message checks that. Raises `KnownMeanwhileError` where a token has become
        known between the two.
        """
        asked_at = machine_time()
        shown, stored, locked, found = execute(
            self.connection,
            clock_query(self.connection, is_needed=bool(self.gateways)),
            inbox.stored_entries_query(self.drafts),
            authorizations.authorization_lock(states, token_keys),
            authorizations.loaded_tokens_query(states, token_keys),
        )
        self._clock_lead = lead(shown, asked_at=asked_at)
        self.already_stored = inbox.read_stored_entries(stored)
        rows = locked.of(Authorization)
        self._remember(rows)
        for each in rows:
            self._take_in(each)
        self._take_in_tokens(found.of(AccessToken))
        if any(each.authorization_id not in self._authorizations for each in self._tokens.values()):
            raise KnownMeanwhileError

    def _lock_waiting(
        self,
        states: set[AuthStateKey],
        token_keys: set[TokenKey],
        resumed: Collection[AuthStateKey],
        replayed: InboxEntry | None = None,
    ) -> None:
        """Take the key locks of what is unknown, and lock the entries that wait for any of this."""
        waiting = self._lock_keys(states, token_keys, resumed)
        waiting += self._lock_more_keys(waiting, token_keys)
        ids = {each.id for each in waiting} | ({replayed.id} if replayed is not None else set())
        (locked,) = execute(self.connection, inbox.entry_lock(ids))
        entries = locked.of(InboxEntry)
        self._remember(entries)
        self._parked = [each for each in entries if each.outcome == Outcome.PARKED]
        if replayed is not None:
            self.replayed = next((each for each in entries if each.id == replayed.id), None)

    def _lock_keys(
        self, states: set[AuthStateKey], token_keys: set[TokenKey], resumed: Collection[AuthStateKey]
    ) -> list[InboxEntry]:
        """Take the key locks of what is unknown, and find, unlocked, what waits for any of this.

        Authorizations with `resume_after` set are skipped: their entries belong to the transaction that resumes them.
        Raises `KnownMeanwhileError` where another transaction has just made it known.
        """
        if not states and not token_keys:
            return []
        unknown_states = states - self._by_auth_state.keys()
        unknown_tokens = token_keys - self._tokens.keys()
        unknown = [key_locks.Key(client_id, "authState", key) for client_id, key in unknown_states]
        unknown += [key_locks.Key(client_id, "token", key) for client_id, key in unknown_tokens]
        self._key_locks += unknown
        behind = [
            (*key, each.resume_after or 0)
            for key, each in self._by_auth_state.items()
            if each.resume_after is None or key in resumed
        ]
        behind += [(*key, 0) for key in resumed if key in unknown_states]
        waiting = inbox.waiting_entries_query(behind, self._tokens.keys() | token_keys, limit=RESUMED_AT_ONCE_MAX + 1)
        with_calls = [each.id for each in self._authorizations.values() if each.client_id in self.gateways]
        _, known_tokens, known_states, found, open_calls = execute(
            self.connection,
            key_locks.key_lock_insertion(unknown),
            tokens.known_tokens_query(unknown_tokens),
            authorizations.known_states_query(unknown_states),
            waiting,
            call_statements.open_calls_lock(with_calls),
        )
        if known_tokens.rows or known_states.rows:
            raise KnownMeanwhileError
        self._take_in_calls(open_calls.of(Call))
        return self._first_piece(found.of(InboxEntry), [(client_id, state) for client_id, state, _ in behind])

    def _first_piece(self, waiting: list[InboxEntry], states: Sequence[AuthStateKey]) -> list[InboxEntry]:
        """Leave out what is too much for one transaction. Raises `TooManyParkedError` where deliveries go with it."""
        if len(waiting) <= RESUMED_AT_ONCE_MAX:
            return waiting
        if self.drafts:
            raise TooManyParkedError
        for key in states:
            ids = sorted(each.id for each in waiting if (each.client_id, each.auth_state) == key)
            if len(ids) > RESUMED_AT_ONCE_MAX:
                self._loaded_through[key] = ids[RESUMED_AT_ONCE_MAX - 1]
        return [
            each
            for each in waiting
            if each.auth_state is None
            or each.id <= self._loaded_through.get((each.client_id, each.auth_state), each.id)
        ]

    def _lock_more_keys(self, waiting: Sequence[InboxEntry], token_keys: set[TokenKey]) -> list[InboxEntry]:
        """Take the key locks of other tokens that these entries would make known, and find what waits for those."""
        more = {
            (each.client_id, each.token_index)
            for each in waiting
            if each.type == NotificationType.TOKEN_CREATED and each.token_index is not None
        }
        more -= self._tokens.keys() | token_keys
        if not more:
            return []
        unknown = [key_locks.Key(client_id, "token", key) for client_id, key in more]
        self._key_locks += unknown
        _, known, found = execute(
            self.connection,
            key_locks.key_lock_insertion(unknown),
            tokens.known_tokens_query(more),
            inbox.waiting_entries_query([], more, limit=RESUMED_AT_ONCE_MAX + 1),
        )
        self._take_in_tokens(known.of(AccessToken))
        return found.of(InboxEntry)

    def lock_whole(self, key: AuthStateKey) -> Authorization | None:
        """Lock an authorization, and load it with all its tokens and calls. What waits for it is not loaded."""
        self._lock_authorizations({key}, set())
        authorization = self._by_auth_state.get(key)
        if authorization is None:
            return None
        ids = [authorization.id]
        found, locked = execute(self.connection, tokens.all_tokens_query(ids), call_statements.all_calls_lock(ids))
        self._take_in_tokens(found.of(AccessToken))
        self._take_in_calls(locked.of(Call))
        return authorization

    def lock_entries_about(self, authorization: Authorization, *, after: int, limit: int) -> list[InboxEntry]:
        """Lock the next entries about a locked authorization, behind the entry `after`, whatever their outcome."""
        ids = inbox_admin.next_about(self.connection, authorization, after=after, limit=limit)
        (locked,) = execute(self.connection, inbox.entry_lock(ids))
        entries = locked.of(InboxEntry)
        self._remember(entries)
        return entries

    def _remember(self, rows: Iterable[Base]) -> None:
        """Remember stored rows as the database has them."""
        for row in rows:
            self._on_record[row] = dict(vars(row))

    def _take_in(self, authorization: Authorization) -> None:
        self._authorizations[authorization.id] = authorization
        self._by_auth_state[authorization.client_id, authorization.auth_state] = authorization
        if authorization.resume_after is not None:
            self._loaded_after[authorization.id] = authorization.resume_after

    def _take_in_tokens(self, found: Sequence[AccessToken]) -> None:
        self._remember(found)
        self._tokens |= {(each.client_id, each.token_index): each for each in found}

    def _take_in_calls(self, found: Sequence[Call]) -> None:
        self._remember(found)
        self._calls |= {each.id: each for each in found}

    # --- reading ---

    def database_time(self, at: datetime) -> datetime:
        """Say what the database's clock showed when this machine's showed `at`: calls are due by that."""
        return at + self._clock_lead

    def find_entry(self, entry_id: int) -> InboxEntry | None:
        """Find an entry, without locking it."""
        return inbox.find(self.connection, entry_id)

    def lock_entry(self, entry_id: int) -> InboxEntry | None:
        """Lock a single entry, and load it as it now is."""
        (locked,) = execute(self.connection, inbox.entry_lock([entry_id]))
        entries = locked.of(InboxEntry)
        self._remember(entries)
        return next(iter(entries), None)

    def find_call(self, call_id: UUID) -> Call | None:
        """Find a call, without locking it."""
        (found,) = execute(self.connection, call_statements.call_query(call_id))
        return next(iter(found.of(Call)), None)

    def lock_calls(self, ids: Collection[UUID]) -> dict[UUID, Call]:
        """Lock calls whose authorizations are locked, open or not, and load those that are not loaded yet."""
        (locked,) = execute(
            self.connection, call_statements.call_lock([each for each in ids if each not in self._calls])
        )
        self._take_in_calls(locked.of(Call))
        return {each: self._calls[each] for each in ids if each in self._calls}

    def open_calls(self, authorization: Authorization) -> list[Call]:
        """List the open calls of a loaded authorization whose client has a gateway, oldest first."""
        return [
            each
            for each in self._calls.values()
            if each.authorization_id == authorization.id and each.status == CallStatus.DUE
        ]

    def tokens_of(self, authorization: Authorization) -> list[AccessToken]:
        """List the loaded tokens of an authorization."""
        return [each for each in self._tokens.values() if each.authorization_id == authorization.id]

    def calls_of(self, authorization: Authorization) -> list[Call]:
        """List the loaded calls of an authorization."""
        return [each for each in self._calls.values() if each.authorization_id == authorization.id]

    def newest_call(self, authorization: Authorization, kind: CallKind) -> Call | None:
        """Lock and load the newest call of this kind of a loaded authorization, open or not."""
        (locked,) = execute(self.connection, call_statements.all_calls_lock([authorization.id]))
        found = [self._calls.get(each.id, each) for each in locked.of(Call) if each.kind == kind]
        self._take_in_calls([each for each in found if each.id not in self._calls])
        return found[-1] if found else None

    def current_token(self, authorization: Authorization) -> AccessToken | None:
        """Give the token of a loaded authorization that no refresh has replaced."""
        return next(
            (
                each
                for each in self._tokens.values()
                if each.authorization_id == authorization.id and each.superseded_at is None
            ),
            None,
        )

    def auth_state_key(self, authorization_id: UUID) -> AuthStateKey | None:
        """Find the client id and the authState of an authorization, which never change, without locking it."""
        return authorizations.key_of(self.connection, authorization_id)

    def authorization(self, client_id: str, auth_state: str) -> Authorization | None:
        """Give a loaded authorization by its authState."""
        return self._by_auth_state.get((client_id, auth_state))

    def authorization_by_id(self, authorization_id: UUID) -> Authorization:
        """Give a loaded authorization by its id."""
        return self._authorizations[authorization_id]

    def authorization_of(self, token: AccessToken) -> Authorization:
        """Give the authorization of a token."""
        return self._authorizations[token.authorization_id]

    def token(self, client_id: str, token_index: bytes) -> AccessToken | None:
        """Give a known token by its blind index."""
        return self._tokens.get((client_id, token_index))

    def waiting(self, authorization: Authorization) -> list[InboxEntry]:
        """List the parked entries to be resumed that name an authorization or a token of it, in inbox sequence.

        What is not stored yet comes last, behind all that is not loaded. A cancellation of a token that is known has
        no turn to wait for: until it is carried out, somebody could be handed that token.
        """
        first, last = authorization.resume_after or 0, self._last_loaded(authorization)
        return [
            entry
            for entry in self._parked
            if entry.outcome == Outcome.PARKED
            and self._names(entry, authorization)
            and (
                entry.auth_state is None
                or (last is None if entry in self.drafts else first < entry.id <= (last or entry.id))
            )
        ]

    @property
    def unfinished(self) -> list[UUID]:
        """Name the authorizations for which parked entries are still to be resumed."""
        return [each.id for each in self._authorizations.values() if each.resume_after is not None]

    def _last_loaded(self, authorization: Authorization) -> int | None:
        return self._loaded_through.get((authorization.client_id, authorization.auth_state))

    def _names(self, entry: InboxEntry, authorization: Authorization) -> bool:
        if entry.auth_state is not None:
            return (entry.client_id, entry.auth_state) == (authorization.client_id, authorization.auth_state)
        if entry.type != NotificationType.TOKEN_CANCELED or entry.token_index is None:
            return False
        token = self.token(entry.client_id, entry.token_index)
        return token is not None and token.authorization_id == authorization.id

    # --- changing ---

    def open_authorization(self, authorization: Authorization, *, cause: Cause) -> None:
        """Add a new authorization with the first line of its history. Its key lock is held."""
        self._take_in(authorization)
        self._begun.append(authorization)
        self.advance(authorization, "consult", cause=cause)

    def advance(
        self,
        authorization: Authorization,
        event: Event | Literal["consult"],
        *,
        cause: Cause,
        reason: str | None = None,
    ) -> None:
        """Move an authorization, append that to its history and stage its event, together or not at all.

        A consult moves nothing: it begins the history, and is repeated where it corrects the flow.
        Raises `IllegalAdvanceError` where the machine does not allow the event.
        """
        from_state = authorization.state if authorization.version else None
        if event != authorizations.CONSULT:
            next_state = authorizations.decide(authorization, event).next_state
            if next_state is None:
                raise IllegalAdvanceError(authorization.state, event)
            authorization.state = next_state
        authorization.version += 1
        authorization.updated_at = cause.at
        transition = plain(Transition)(
            authorization_id=authorization.id,
            sequence=authorization.version,
            event=event,
            from_state=from_state,
            to_state=authorization.state,
            cause=cause.kind,
            by=cause.by,
            reason=reason,
            learned_at=cause.learned_at or cause.at,
            at=cause.at,
        )
        self._history.append((transition, cause.entry))
        self._outbox.append(staging.event_of(authorization, event, at=cause.at))
        self._follow_with_calls(authorization, event, reason, at=cause.at)

    def _follow_with_calls(
        self, authorization: Authorization, event: Event | Literal["consult"], reason: str | None, *, at: datetime
    ) -> None:
        """End the calls that a move has made unneeded, and begin the exchange of a new code."""
        gateway = self.gateways.get(authorization.client_id)
        if gateway is None:
            return
        for call in self.open_calls(authorization):
            why = calls.why_unneeded(call, event, reason)
            if why is not None:
                calls.end_unneeded(call, why, at=self.database_time(at))
        # Nothing is asked for a token that came with its code.
        for call in [each for each in self._begun_calls if each.authorization_id == authorization.id]:
            if calls.why_unneeded(call, event, reason) is not None:
                self._begun_calls.remove(call)
                del self._calls[call.id]
        if event == Event.AUTHCODE_CREATED and reason != authorizations.OLDER_THAN_THE_CODE:
            self.begin_exchange(authorization, at=at)

    def begin_exchange(self, authorization: Authorization, *, at: datetime) -> None:
        """Begin the exchange of the code on record, if the service is to exchange it."""
        gateway = self.gateways.get(authorization.client_id)
        code = authorizations.auth_code(self.vault, authorization)
        if gateway is not None and gateway.exchange and code is not None:
            for call in self.open_calls(authorization):
                if call.kind == CallKind.EXCHANGE and call.reason == calls.NO_WALLET:
                    calls.finish(call, CallStatus.UNNEEDED, calls.WALLET_KNOWN, at=self.database_time(at))
            self.begin_call(calls.exchange_of(self.vault, authorization, code, at=at))

    def begin_call(self, call: Call) -> None:
        """Add a call of a loaded authorization. Its times, which are this machine's, become the database's."""
        call.created_at = self.database_time(call.created_at)
        call.due_at = call.due_at and self.database_time(call.due_at)
        call.deadline_at = call.deadline_at and self.database_time(call.deadline_at)
        self._calls[call.id] = call
        self._begun_calls.append(call)

    def tell_of_failed_call(self, authorization: Authorization, call: Call, *, at: datetime) -> None:
        """Stage the event of a call that has ended badly."""
        event = staging.event_of_call(authorization, call, at=at)
        if event is not None:
            self._outbox.append(event)

    def note_ended_attempts(self, ended: Sequence[CallAttempt]) -> None:
        """Put on record how requests to Alipay ended."""
        self._ended_attempts += ended

    def note(self, action: str, *, subject: str, who: str | None, reason: str | None, at: datetime) -> None:
        """Put on record what an operator does, with what is done."""
        self._audit.append(plain(AuditLine)(at=at, who=who, action=action, subject=subject, reason=reason))

    def make_known(
        self, authorization: Authorization, grant: Grant, *, at: datetime, replaces: AccessToken | None = None
    ) -> None:
        """Add the current token of an authorization, whose key lock is held; it supersedes the one that it replaces."""
        if replaces is not None:
            replaces.superseded_at = at
        token = tokens.new(self.vault, authorization, grant, at=at)
        self._tokens[token.client_id, token.token_index] = token
        self._made_known.append(token)

    def set_outcome(
        self, entry: InboxEntry, outcome: Outcome, reason: str | None = None, authorization: Authorization | None = None
    ) -> None:
        """Say how an entry ended, and in which state it found the authorization that it is about."""
        entry.outcome, entry.reason = outcome, reason
        entry.found_state = authorization.state if authorization else None
        entry.authorization_id = authorization.id if authorization else None

    def park(self, draft: InboxEntry) -> None:
        """Let an entry that is not stored yet wait behind all others."""
        self._parked.append(draft)

    def park_illegal(self, authorization: Authorization) -> None:
        """Let what was illegal for an authorization wait again, and load it: it was judged by a flow that was wrong."""
        self.write()
        execute(self.connection, inbox.illegal_entries_update(authorization.id))
        key = (authorization.client_id, authorization.auth_state)
        self._lock_waiting({key}, set(), [key])

    def wait_behind(self, entry: InboxEntry, authorization: Authorization) -> None:
        """Let an entry wait until those still to be resumed have been: it is then judged as if it came last."""
        self.set_outcome(entry, Outcome.PARKED, Reason.EARLY, authorization)
        # What was stored before its locks were awaited may have been passed over by then.
        if entry not in self.drafts and entry.id <= (authorization.resume_after or 0):
            authorization.resume_after = entry.id - 1

    def restart_resumption(self, authorization: Authorization) -> bool:
        """Let all entries that wait for an authorization be judged again, since it has moved.

        Returns whether this transaction has loaded the first of them, and can go on. In a later piece it has not:
        `resume_after` is then 0, so that the next transaction starts from the first entry.
        """
        is_first_loaded = self._loaded_after.get(authorization.id, 0) == 0
        authorization.resume_after = None if is_first_loaded else 0
        return is_first_loaded

    def finish_resumption(self, authorization: Authorization) -> None:
        """Set `resume_after` to the last loaded entry, or to nothing where no more wait: all loaded ones are judged."""
        authorization.resume_after = self._last_loaded(authorization)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Write what is done within, or take all of it back when it breaks.

        Call `write` first. Without savepoints this does nothing.

        Raises `SavepointFailedError` where our own code broke; the database's troubles are raised as they are.
        """
        if not self.has_savepoints:
            yield
            return
        before = {
            each.name: copy(value)
            for each in fields(self)
            if isinstance(value := getattr(self, each.name), dict | list)
        }
        try:
            with self.connection.begin_nested():
                yield
                self.write()
        except BaseException as error:
            vars(self).update(before)
            for row, values in self._on_record.items():
                vars(row).update(values)
            if isinstance(error, KnownMeanwhileError | UnfinishedError) or is_transient(error):
                raise
            if isinstance(error, Exception):
                raise SavepointFailedError(error) from error
            raise

    # --- writing ---

    def write(self) -> None:
        """Write what was changed."""
        execute(self.connection, *self._pending_writes())

    def close(self) -> None:
        """Write what was changed last, and release the key locks."""
        execute(self.connection, *self._pending_writes(), key_locks.key_lock_deletion(self._key_locks))

    def store_and_commit(self, *last: Statement) -> None:
        """Store the drafts, write what was changed, release the key locks, and commit, in one message."""
        drafts = [each.entry for each in self.pending]
        stored, *_ = execute_and_commit(
            self.connection,
            inbox.entry_insertion(drafts),
            *self._pending_writes(),
            key_locks.key_lock_deletion(self._key_locks),
            *last,
        )
        inbox.assign_ids(drafts, stored)

    def _pending_writes(self) -> list[Statement]:
        """Describe what is to be written, and mark it as written: the caller executes it, or rolls back."""
        changed = [row for row, values in self._on_record.items() if vars(row) != values]
        writes = [
            authorizations.authorization_insertion(self._begun),
            self._updates(InboxEntry, changed),
            # There is never more than one current token, not even between two statements.
            self._updates(AccessToken, changed),
            tokens.token_insertion(self._made_known),
            authorizations.transition_insertion(
                [transition for transition, _ in self._history],
                [None if entry is None else entry.fingerprint for _, entry in self._history],
            ),
            staging.event_insertion(self._outbox),
            self._updates(Call, changed),
            call_statements.call_insertion(self._begun_calls),
            call_statements.attempt_end_update(self._ended_attempts),
            self._updates(Authorization, changed),
            insertion(AuditLine, self._audit),
        ]
        self._remember([*changed, *self._begun, *self._made_known, *self._begun_calls])
        self._begun, self._made_known, self._history, self._outbox = [], [], [], []
        self._begun_calls, self._ended_attempts, self._audit = [], [], []
        return writes

    def _updates(self, model: type[Base], changed: Sequence[Base]) -> Statement:
        """Write the rows of one table that have changed, with each column that has changed in any of them.

        Columns that changed in another row only are written with their unchanged value: each row is loaded and locked.
        """
        table = table_of(model)
        rows = [row for row in changed if table_of(row) is table]
        names = {name for row in rows for name, value in vars(row).items() if value != self._on_record[row][name]}
        return update_of(model, rows, sorted(names))
