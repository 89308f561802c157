"""Lay out, locked and read at once, everything that a number of notifications are about.

Judging them then asks the database nothing, and what comes of it is written at once, too: one notification costs as
many statements as a hundred. Locks are taken in one order, each kind in the order of its keys: authorizations, the
rendezvous of what is unknown, inbox entries that wait. What little is left, where two transactions can wait for each
other, ends by a timeout, and is tried again.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import inspect
from sqlalchemy.orm import Session

from app import authorizations, inbox, rendezvous, tokens
from app.alipay.notification import Notification, NotificationType
from app.authorizations import AuthStateKey, Cause
from app.database.sets import insert_all
from app.inbox import Outcome
from app.models import AccessToken, Authorization, InboxEntry, Transition
from app.state_machine import Event
from app.tokens import Grant, TokenKey
from app.vault import Vault


class KnownMeanwhileError(Exception):
    """What was unknown has become known since it was looked for: begin again, with its authorization locked."""


class Subject(NamedTuple):
    """A notification, and the client it was sent for."""

    client_id: str
    notification: Notification

    def auth_state_key(self) -> AuthStateKey | None:
        """Give what it names an authorization by."""
        auth_state = self.notification.auth_state
        return None if auth_state is None else (self.client_id, auth_state)

    def token_key(self, vault: Vault) -> TokenKey | None:
        """Give what it names a token by."""
        token = self.notification.access_token
        return None if token is None else (self.client_id, tokens.index(vault, self.client_id, token))


@dataclass
class Docket:
    """What is laid out. Changes made to it are written by `close`."""

    session: Session
    vault: Vault
    #: Whether each entry has a savepoint of its own, so that one that breaks takes nothing else with it.
    is_careful: bool
    #: Entries to be judged that are not stored yet. They come after all that are.
    drafts: Sequence[InboxEntry] = ()
    _authorizations: dict[UUID, Authorization] = field(default_factory=dict)
    _by_auth_state: dict[AuthStateKey, Authorization] = field(default_factory=dict)
    _tokens: dict[TokenKey, AccessToken] = field(default_factory=dict)
    #: Entries that were parked, in inbox sequence. Those that are stored name one of the authorizations or its token.
    _parked: list[InboxEntry] = field(default_factory=list)
    _met: list[rendezvous.Place] = field(default_factory=list)
    _made_known: list[AccessToken] = field(default_factory=list)
    _moves: list[tuple[Transition, InboxEntry]] = field(default_factory=list)

    # --- laying out, in the order of the locks ---

    def hold(self, rows: Iterable[Authorization]) -> None:
        """Take in authorizations that are locked."""
        for each in rows:
            self._authorizations[each.id] = each
            self._by_auth_state[each.client_id, each.auth_state] = each

    def lock_authorizations(self, states: set[AuthStateKey], keys: set[TokenKey]) -> None:
        """Lock the authorizations that are named by authState or by token, and read their tokens.

        Raises `KnownMeanwhileError` where a token has become known between the two.
        """
        locked = authorizations.lock_all(self.session, states, keys)
        self.hold(locked)
        if not self.is_careful:
            # What is written of many at once, the session need not watch.
            for each in locked:
                self.session.expunge(each)
        self._read_tokens(keys)
        if any(each.authorization_id not in self._authorizations for each in self._tokens.values()):
            raise KnownMeanwhileError

    def meet(self, states: set[AuthStateKey], keys: set[TokenKey]) -> None:
        """Hold the places of what nobody knows.

        Raises `KnownMeanwhileError` where somebody has just made it known.
        """
        unknown_states, unknown_keys = states - self._by_auth_state.keys(), keys - self._tokens.keys()
        if not unknown_states and not unknown_keys:
            return
        self._met += [rendezvous.Place(client_id, "authState", key) for client_id, key in unknown_states]
        self._met += [rendezvous.Place(client_id, "token", key) for client_id, key in unknown_keys]
        rendezvous.meet(self.session, self._met)
        known_meanwhile = tokens.find_all(self.session, [], unknown_keys)
        if known_meanwhile or authorizations.exist(self.session, unknown_states):
            raise KnownMeanwhileError

    def lock_waiting(self, keys: set[TokenKey], replayed: InboxEntry | None) -> None:
        """Lock the entries that wait for any of this, and the one that is replayed, and read them as they now are."""
        waiting = inbox.waiting(self.session, set(self._by_auth_state), self._tokens.keys() | keys)
        # A creation that waits would make one more token known, for which a cancellation may wait.
        more = {
            (each.client_id, each.token_index)
            for each in waiting
            if each.type == NotificationType.TOKEN_CREATED and each.token_index is not None
        } - (self._tokens.keys() | keys)
        if more:
            places = [rendezvous.Place(client_id, "token", key) for client_id, key in more]
            rendezvous.meet(self.session, places)
            self._met += places
            self._read_tokens(more)
            waiting += inbox.waiting(self.session, set(), more)
        ids = {each.id for each in waiting} | ({replayed.id} if replayed is not None else set())
        self._parked = [each for each in inbox.lock_all(self.session, ids) if each.outcome == Outcome.PARKED]

    def _read_tokens(self, keys: set[TokenKey]) -> None:
        rows = tokens.find_all(self.session, self._authorizations, keys)
        self._tokens |= {(each.client_id, each.token_index): each for each in rows}

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
        """List the parked entries that name an authorization or a token of it, in inbox sequence."""
        return [
            entry for entry in self._parked if entry.outcome == Outcome.PARKED and self._names(entry, authorization)
        ]

    def _names(self, entry: InboxEntry, authorization: Authorization) -> bool:
        if entry.auth_state is not None:
            return (entry.client_id, entry.auth_state) == (authorization.client_id, authorization.auth_state)
        if entry.type != NotificationType.TOKEN_CANCELED or entry.token_index is None:
            return False
        token = self.token(entry.client_id, entry.token_index)
        return token is not None and token.authorization_id == authorization.id

    # --- writing ---

    def park(self, draft: InboxEntry) -> None:
        """Let an entry that is not stored yet wait behind all others."""
        self._parked.append(draft)

    def make_known(self, authorization: Authorization, grant: Grant, *, at: datetime) -> None:
        """Record the first token of an authorization."""
        token = tokens.make(self.vault, authorization, grant, at=at)
        self._tokens[token.client_id, token.token_index] = token
        self._made_known.append(token)

    def move(self, authorization: Authorization, event: Event, entry: InboxEntry, *, at: datetime) -> None:
        """Move an authorization because of an entry."""
        transition = authorizations.move(authorization, event, cause=Cause("notification", at=at))
        self._moves.append((transition, entry))

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Write what is done within, or, when that breaks and care is taken, nothing of it."""
        if not self.is_careful:
            yield
            return
        self._write()
        try:
            with self.session.begin_nested():
                yield
                self._write()
        except BaseException:
            for each in self._made_known:
                del self._tokens[each.client_id, each.token_index]
            self._made_known, self._moves = [], []
            raise

    def close(self) -> None:
        """Write what is left, and leave the places where nobody has to meet any more: all is said."""
        inbox.store(self.session, self.drafts)
        self._write()
        if not self.is_careful:
            authorizations.save(
                self.session, [each for each in self._authorizations.values() if inspect(each).modified]
            )
        rendezvous.part(self.session, self._met)

    def _write(self) -> None:
        self.session.flush()
        insert_all(self.session, self._made_known)
        for transition, entry in self._moves:
            transition.notification_id = entry.id
        insert_all(self.session, [transition for transition, _ in self._moves])
        self._made_known, self._moves = [], []


def lay_out(
    session: Session,
    vault: Vault,
    subjects: Sequence[Subject],
    *,
    careful: bool,
    drafts: Sequence[InboxEntry] = (),
    held: Authorization | None = None,
    replayed: InboxEntry | None = None,
) -> Docket:
    """Lock and read what these notifications are about, and what waits for it.

    A report brings the authorization that it holds, a replay the entry that it is of. Raises `KnownMeanwhileError`
    with locks held that only giving up the transaction, or a savepoint, releases.
    """
    states = {state for subject in subjects if (state := subject.auth_state_key()) is not None}
    keys = {key for subject in subjects if (key := subject.token_key(vault)) is not None}
    docket = Docket(session, vault, careful, drafts)
    if held is not None:
        docket.hold([held])
    docket.lock_authorizations(states, keys)
    docket.meet(states, keys)
    docket.lock_waiting(keys, replayed)
    return docket
