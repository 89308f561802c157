"""Lay out, locked and read at once, everything that a number of notifications are about.

Judging them then asks the database nothing, and what comes of it is written at once, too: one notification costs as
many statements as a hundred, and a few messages. Locks are taken in one order, each kind in the order of its keys:
authorizations, the rendezvous of what is unknown, inbox entries that wait. What little is left, where two transactions
can wait for each other, ends by a timeout, and is tried again.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy.engine import Connection

from app import authorizations, inbox, key_locks, tokens
from app.alipay.notification import Notification, NotificationType
from app.authorizations import AuthStateKey, Cause
from app.correlation import PendingEntry, named_by
from app.database.pipeline import Statement, execute
from app.inbox import Outcome, Reason, StoredEntry
from app.models import AccessToken, Authorization, Base, InboxEntry, Transition
from app.state_machine import Event
from app.tokens import Grant, TokenKey
from app.vault import Vault

#: Parked entries of one authorization that a transaction looks at. Judging and writing so many takes a tenth of a
#: second, during which SQLite lets nobody else write, and a few messages each way; fewer would only make more commits.
RESUMED_AT_ONCE_MAX = 200


class KnownMeanwhileError(Exception):
    """What was unknown has become known since it was looked for: begin again, with its authorization locked."""


class TooManyParkedError(Exception):
    """More parked entries wait for what a batch names than one transaction resumes: each delivery is to go alone."""


class UnfinishedError(Exception):
    """Parked entries that come first are still to be resumed, in transactions of their own."""

    def __init__(self, authorization_id: UUID) -> None:
        self.authorization_id = authorization_id
        super().__init__("Parked entries that come first are still to be resumed.")


@dataclass
class UnitOfWork:
    """What is laid out. What is changed in it is written by `write`, or by whoever asks what is `pending_writes`."""

    connection: Connection
    vault: Vault
    #: Whether each entry has a savepoint of its own, so that one that breaks takes nothing else with it.
    is_careful: bool
    #: What is to be judged. Unless care is taken, the entries are not stored yet, and come after all that are.
    cases: Sequence[PendingEntry] = ()
    #: Those entries.
    drafts: frozenset[InboxEntry] = frozenset()
    #: What was to be judged too, and is on record already, by fingerprint.
    known: dict[bytes, StoredEntry] = field(default_factory=dict)
    #: The stored entry that is judged again, as it is now that it is locked.
    replayed: InboxEntry | None = None
    _authorizations: dict[UUID, Authorization] = field(default_factory=dict)
    _by_auth_state: dict[AuthStateKey, Authorization] = field(default_factory=dict)
    _tokens: dict[TokenKey, AccessToken] = field(default_factory=dict)
    #: Entries that wait, in inbox sequence. Those that are stored name one of the authorizations or its token.
    _parked: list[InboxEntry] = field(default_factory=list)
    #: Where more wait for an authorization than are laid out: the last one in the inbox that is.
    _horizons: dict[UUID, int] = field(default_factory=dict)
    #: Behind which entry each authorization had still to be resumed when it was laid out.
    _resumed_from: dict[UUID, int] = field(default_factory=dict)
    _key_locks: list[key_locks.Key] = field(default_factory=list)
    #: What is to be written: by the ids of what it is of, so that each is written once.
    _changed: dict[UUID, Authorization] = field(default_factory=dict)
    _concluded: dict[int, InboxEntry] = field(default_factory=dict)
    _made_known: list[AccessToken] = field(default_factory=list)
    _moves: list[tuple[Transition, InboxEntry]] = field(default_factory=list)

    # --- laying out, in the order of the locks ---

    def lock_authorizations(self, states: set[AuthStateKey], keys: set[TokenKey]) -> None:
        """Lock the authorizations that are named by authState or by token, and read the tokens that may matter.

        What is not stored yet may be on record for all that: look for it on the way. Raises `KnownMeanwhileError` where
        a token has become known between the two.
        """
        *known, locked, found = execute(
            self.connection,
            *inbox.known(self.drafts),
            authorizations.lock_all(states, keys),
            authorizations.tokens_named_and_current(states, keys),
        )
        for answer in known:
            self.known = inbox.read_known(answer)
        for each in locked.of(Authorization):
            self._authorizations[each.id] = each
            self._by_auth_state[each.client_id, each.auth_state] = each
            if each.resume_after is not None:
                self._resumed_from[each.id] = each.resume_after
        self._take_in(found.of(AccessToken))
        if any(each.authorization_id not in self._authorizations for each in self._tokens.values()):
            raise KnownMeanwhileError

    def lock_keys(
        self, states: set[AuthStateKey], keys: set[TokenKey], resumed: Collection[AuthStateKey]
    ) -> list[InboxEntry]:
        """Hold the places of what nobody knows, and find, unlocked, what waits for any of this.

        Whatever names an authorization that is still to be resumed waits behind the rest, which is left to whoever
        resumes it. Raises `KnownMeanwhileError` where somebody has just made it known.
        """
        if not states and not keys:
            return []
        unknown_states, unknown_keys = states - self._by_auth_state.keys(), keys - self._tokens.keys()
        places = [key_locks.Key(client_id, "authState", key) for client_id, key in unknown_states]
        places += [key_locks.Key(client_id, "token", key) for client_id, key in unknown_keys]
        self._key_locks += places
        known_meanwhile = [*tokens.find_all(unknown_keys), *authorizations.known(unknown_states)]
        behind = [
            (*key, each.resume_after or 0)
            for key, each in self._by_auth_state.items()
            if each.resume_after is None or key in resumed
        ]
        waiting = inbox.waiting(behind, self._tokens.keys() | keys, limit=RESUMED_AT_ONCE_MAX + 1)
        *met, found = execute(self.connection, *key_locks.acquire(places), *known_meanwhile, waiting)
        if any(answer.rows for answer in met):
            raise KnownMeanwhileError
        return self._within_horizons(found.of(InboxEntry))

    def _within_horizons(self, waiting: list[InboxEntry]) -> list[InboxEntry]:
        """Leave out what is too much for one transaction. Raises `TooManyParkedError` where others go with it."""
        if len(waiting) <= RESUMED_AT_ONCE_MAX:
            return waiting
        if self.drafts:
            raise TooManyParkedError
        for key, authorization in self._by_auth_state.items():
            ids = sorted(each.id for each in waiting if (each.client_id, each.auth_state) == key)
            if len(ids) > RESUMED_AT_ONCE_MAX:
                self._horizons[authorization.id] = ids[RESUMED_AT_ONCE_MAX - 1]
        return [each for each in waiting if each.auth_state is None or self._is_within_horizon(each)]

    def _is_within_horizon(self, entry: InboxEntry) -> bool:
        authorization = self._by_auth_state.get((entry.client_id, entry.auth_state or ""))
        horizon = None if authorization is None else self._horizons.get(authorization.id)
        return horizon is None or entry.id <= horizon

    def lock_more_keys(self, waiting: Sequence[InboxEntry]) -> list[InboxEntry]:
        """Hold the places of tokens that what waits would make known, and find, unlocked, what waits for those."""
        more = {
            (each.client_id, each.token_index)
            for each in waiting
            if each.type == NotificationType.TOKEN_CREATED and each.token_index is not None
        }
        more -= self._tokens.keys() | {(each.client_id, each.key) for each in self._key_locks}
        if not more:
            return []
        places = [key_locks.Key(client_id, "token", key) for client_id, key in more]
        self._key_locks += places
        _, known, found = execute(
            self.connection,
            *key_locks.acquire(places),
            *tokens.find_all(more),
            inbox.waiting([], more, limit=RESUMED_AT_ONCE_MAX + 1),
        )
        self._take_in(known.of(AccessToken))
        return found.of(InboxEntry)

    def lock_waiting(self, waiting: Sequence[InboxEntry], replayed: InboxEntry | None) -> None:
        """Lock the entries that wait, and the one that is judged again, and read them as they now are."""
        locked = inbox.lock_all(
            self.connection, {each.id for each in waiting} | ({replayed.id} if replayed is not None else set())
        )
        self._parked = [each for each in locked if each.outcome == Outcome.PARKED]
        if replayed is not None:
            self.replayed = next((each for each in locked if each.id == replayed.id), None)

    def _take_in(self, found: Sequence[AccessToken]) -> None:
        self._tokens |= {(each.client_id, each.token_index): each for each in found}

    # --- reading ---

    def authorization(self, client_id: str, auth_state: str) -> Authorization | None:
        """Find an authorization by its authState."""
        return self._by_auth_state.get((client_id, auth_state))

    def authorization_of(self, token: AccessToken) -> Authorization:
        """Find the authorization of a token."""
        return self._authorizations[token.authorization_id]

    def token(self, client_id: str, token_index: bytes) -> AccessToken | None:
        """Find a known token by its blind index."""
        return self._tokens.get((client_id, token_index))

    def waiting(self, authorization: Authorization) -> list[InboxEntry]:
        """List the parked entries to be resumed that name an authorization or a token of it, in inbox sequence.

        What is not stored yet comes last, behind all that is not laid out.
        """
        first, horizon = authorization.resume_after or 0, self._horizons.get(authorization.id)
        return [
            entry
            for entry in self._parked
            if entry.outcome == Outcome.PARKED
            and self._names(entry, authorization)
            and (horizon is None if entry in self.drafts else first < entry.id <= (horizon or entry.id))
        ]

    @property
    def unfinished(self) -> list[UUID]:
        """Name the authorizations for which parked entries are still to be resumed."""
        return [each.id for each in self._authorizations.values() if each.resume_after is not None]

    def _names(self, entry: InboxEntry, authorization: Authorization) -> bool:
        if entry.auth_state is not None:
            return (entry.client_id, entry.auth_state) == (authorization.client_id, authorization.auth_state)
        if entry.type != NotificationType.TOKEN_CANCELED or entry.token_index is None:
            return False
        token = self.token(entry.client_id, entry.token_index)
        return token is not None and token.authorization_id == authorization.id

    # --- changing ---

    def park(self, draft: InboxEntry) -> None:
        """Let an entry that is not stored yet wait behind all others."""
        self._parked.append(draft)

    def wait_behind(self, entry: InboxEntry, authorization: Authorization) -> None:
        """Let an entry wait until those still to be resumed have been: it is then judged as if it came last."""
        self.set_outcome(entry, Outcome.PARKED, Reason.EARLY, authorization)
        # What was stored before its locks were awaited may have been passed over meanwhile.
        if entry not in self.drafts and entry.id <= (authorization.resume_after or 0):
            self._leave_off(authorization, entry.id - 1)

    def begin_anew(self, authorization: Authorization) -> bool:
        """Let all that waits for an authorization be judged again, and say whether the first of it is laid out."""
        is_laid_out = self._resumed_from.get(authorization.id, 0) == 0
        self._leave_off(authorization, None if is_laid_out else 0)
        return is_laid_out

    def come_to_the_end(self, authorization: Authorization) -> None:
        """Write down that all that is laid out has been judged."""
        self._leave_off(authorization, self._horizons.get(authorization.id))

    def _leave_off(self, authorization: Authorization, after: int | None) -> None:
        if authorization.resume_after != after:
            authorization.resume_after = after
            self._changed[authorization.id] = authorization

    def set_outcome(
        self, entry: InboxEntry, outcome: Outcome, reason: str | None = None, authorization: Authorization | None = None
    ) -> None:
        """Write down how an entry ended."""
        inbox.set_outcome(entry, outcome, reason, authorization)
        if entry not in self.drafts:
            self._concluded[entry.id] = entry

    def make_known(self, authorization: Authorization, grant: Grant, *, at: datetime) -> None:
        """Record the first token of an authorization."""
        token = tokens.make(self.vault, authorization, grant, at=at)
        self._tokens[token.client_id, token.token_index] = token
        self._made_known.append(token)

    def move(
        self, authorization: Authorization, event: Event, entry: InboxEntry, *, at: datetime, reason: str | None = None
    ) -> None:
        """Move an authorization because of an entry, which may have waited since it came."""
        cause = Cause("notification", at=at, learned_at=entry.received_at)
        transition = authorizations.move(authorization, event, cause=cause, reason=reason)
        self._moves.append((transition, entry))
        self._changed[authorization.id] = authorization

    def learn_user(self, authorization: Authorization, notification: Notification) -> None:
        """Keep who the user is to the wallet, where a notification is the first to say so."""
        if authorizations.learn_user(
            self.vault, authorization, user_id=notification.user_id, login_id=notification.user_login_id
        ):
            self._changed[authorization.id] = authorization

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Write what is done within, or, when that breaks and care is taken, take all of it back.

        What was done before must be written by then.
        """
        if not self.is_careful:
            yield
            return
        rows: list[Base] = [*self._authorizations.values(), *self._parked]
        before = [(each, dict(vars(each))) for each in rows]
        known = dict(self._tokens)
        try:
            with self.connection.begin_nested():
                yield
                self.write()
        except BaseException:
            for row, values in before:
                vars(row).update(values)
            self._tokens = known
            self._forget_changes()
            raise

    # --- writing ---

    def write(self) -> None:
        """Write what was changed."""
        execute(self.connection, *self.pending_writes())

    def close(self) -> None:
        """Write what was changed last, and leave the places where nobody has to meet any more: all is said."""
        execute(self.connection, *self.pending_writes(), *self.lock_releases())

    def pending_writes(self) -> list[Statement]:
        """Ask for what was changed to be written, and forget it: whoever takes it sends it, or takes all back."""
        requests = [
            *inbox.save(list(self._concluded.values())),
            *tokens.store(self._made_known),
            *authorizations.record(
                [transition for transition, _ in self._moves], [entry.fingerprint for _, entry in self._moves]
            ),
            *authorizations.save(list(self._changed.values())),
        ]
        self._forget_changes()
        return requests

    def lock_releases(self) -> list[Statement]:
        """Ask to leave the places where others wait."""
        return key_locks.release(self._key_locks)

    def _forget_changes(self) -> None:
        self._concluded, self._made_known, self._moves, self._changed = {}, [], [], {}


def lock_and_load(
    connection: Connection,
    vault: Vault,
    cases: Sequence[PendingEntry],
    *,
    careful: bool,
    named: Collection[AuthStateKey] = (),
    replayed: InboxEntry | None = None,
) -> UnitOfWork:
    """Lock and read what these cases are about, and what waits for it.

    A report names the authorization that it holds, whose parked entries are then resumed; a replay the entry that it
    is of. Raises `KnownMeanwhileError` and `TooManyParkedError` with locks held that only giving up the transaction, or
    a savepoint, releases.
    """
    work = UnitOfWork(
        connection, vault, careful, cases, frozenset() if careful else frozenset(case.entry for case in cases)
    )
    states, keys = named_by(cases, named)
    work.lock_authorizations(states, keys)
    if work.known:
        work.cases = [case for case in cases if case.entry.fingerprint not in work.known]
        states, keys = named_by(work.cases, named)
    waiting = work.lock_keys(states, keys, named)
    waiting += work.lock_more_keys(waiting)
    work.lock_waiting(waiting, replayed)
    return work
