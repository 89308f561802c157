"""Lay out, locked and read at once, everything that a number of notifications are about.

Judging them then asks the database nothing, and what comes of it is written at once, too: one notification costs as
many statements as a hundred. Locks are taken in one order everywhere, each kind in the order of its keys, so that no
two transactions can wait for each other: the rendezvous of authStates, authorizations, the rendezvous of tokens, inbox
entries that wait.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from app import authorizations, inbox, rendezvous, tokens
from app.alipay.notification import Notification, NotificationType
from app.authorizations import AuthStateKey
from app.inbox import Conclusion, Outcome
from app.models import AccessToken, Authorization, InboxEntry
from app.tokens import Grant, TokenKey
from app.vault import Vault


class LinkedMeanwhileError(Exception):
    """A token became known while its cancellation waited to be parked: begin again, with its authorization locked."""


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
    """What is laid out. Changes made to it are written by `write`."""

    session: Session
    vault: Vault
    #: Whether each entry has a savepoint of its own, so that one that breaks takes nothing else with it.
    is_careful: bool
    _authorizations: dict[UUID, Authorization] = field(default_factory=dict)
    _by_auth_state: dict[AuthStateKey, Authorization] = field(default_factory=dict)
    _tokens: dict[TokenKey, AccessToken] = field(default_factory=dict)
    #: Parked entries, in inbox sequence, each of which names one of the authorizations or a token of one.
    _waiting: list[InboxEntry] = field(default_factory=list)
    _met: list[rendezvous.Place] = field(default_factory=list)
    _conclusions: list[Conclusion] = field(default_factory=list)
    _made_known: list[TokenKey] = field(default_factory=list)

    # --- laying out, in the order of the locks ---

    def add(self, rows: Iterable[Authorization]) -> None:
        """Take in authorizations that are locked."""
        for each in rows:
            self._authorizations[each.id] = each
            self._by_auth_state[each.client_id, each.auth_state] = each

    def lock_authorizations(self, states: set[AuthStateKey], keys: set[TokenKey]) -> set[TokenKey]:
        """Lock the authorizations that are named by authState or by token, and return the tokens known by then."""
        named = authorizations.ids(self.session, states)
        known = tokens.owners(self.session, keys)
        if missing := states - named.keys():
            self._meet("authState", missing)
            named |= authorizations.ids(self.session, missing)
        self.add(
            authorizations.lock_all(self.session, {*named.values(), *known.values()} - self._authorizations.keys())
        )
        return set(known)

    def meet_tokens(self, unknown: set[TokenKey], canceled: set[TokenKey]) -> None:
        """Read the tokens of the authorizations, and hold the places of those that nobody knows.

        Raises `LinkedMeanwhileError` where one of the canceled ones is known by now.
        """
        self._meet("token", unknown)
        rows = tokens.find_all(self.session, set(self._authorizations), unknown)
        self._tokens |= {(each.client_id, each.token_index): each for each in rows}
        if canceled & self._tokens.keys():
            raise LinkedMeanwhileError

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
            self.meet_tokens(more, set())
            waiting += inbox.waiting(self.session, set(), more)
        ids = {each.id for each in waiting} | ({replayed.id} if replayed is not None else set())
        self._waiting = [each for each in inbox.lock_all(self.session, ids) if each.outcome == Outcome.PARKED]

    def _meet(self, kind: rendezvous.Kind, keys: Collection[tuple[str, str | bytes]]) -> None:
        places = [rendezvous.Place(client_id, kind, key) for client_id, key in keys]
        rendezvous.meet(self.session, places)
        self._met += places

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

    def first_waiting(self, authorization: Authorization, *, after: int) -> InboxEntry | None:
        """Find the first parked entry past `after`, in inbox sequence, that names an authorization or a token of it."""
        for entry in self._waiting:
            if entry.id > after and entry.outcome == Outcome.PARKED and self._names(entry, authorization):
                return entry
        return None

    def _names(self, entry: InboxEntry, authorization: Authorization) -> bool:
        if entry.auth_state is not None:
            return (entry.client_id, entry.auth_state) == (authorization.client_id, authorization.auth_state)
        if entry.type != NotificationType.TOKEN_CANCELED or entry.token_index is None:
            return False
        token = self.token(entry.client_id, entry.token_index)
        return token is not None and token.authorization_id == authorization.id

    # --- writing ---

    def make_known(self, authorization: Authorization, grant: Grant, *, at: datetime) -> None:
        """Record the first token of an authorization."""
        token = tokens.make(self.vault, authorization, grant, at=at)
        self.session.add(token)
        self._tokens[token.client_id, token.token_index] = token
        self._made_known.append((token.client_id, token.token_index))

    def conclude(self, conclusion: Conclusion, entry: InboxEntry | None = None) -> None:
        """Note how an entry ended: one that lies here, or one that was only just stored."""
        if entry is None:
            self._conclusions.append(conclusion)
        else:
            entry.outcome, entry.reason = conclusion.outcome, conclusion.reason
            entry.found_state, entry.authorization_id = conclusion.found_state, conclusion.authorization_id

    def write(self) -> None:
        """Write everything that has changed."""
        self.session.flush()
        inbox.conclude(self.session, self._conclusions)
        self._conclusions, self._made_known = [], []

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Write what is done within, or, when that breaks and care is taken, nothing of it."""
        if not self.is_careful:
            yield
            return
        self.write()
        try:
            with self.session.begin_nested():
                yield
                self.write()
        except BaseException:
            for key in self._made_known:
                del self._tokens[key]
            self._conclusions, self._made_known = [], []
            raise

    def close(self) -> None:
        """Write what is left, and leave the places where nobody has to meet any more: all is said."""
        self.write()
        rendezvous.part(self.session, self._met)


def lay_out(
    session: Session,
    vault: Vault,
    subjects: Sequence[Subject],
    *,
    careful: bool,
    held: Authorization | None = None,
    entry: InboxEntry | None = None,
) -> Docket:
    """Lock and read what these notifications are about, and what waits for it.

    A report brings the authorization that it holds, a replay the entry that it is of. Raises `LinkedMeanwhileError`
    with locks held that only giving up the transaction, or a savepoint, releases.
    """
    states = {state for subject in subjects if (state := subject.auth_state_key()) is not None}
    named = [(subject, key) for subject in subjects if (key := subject.token_key(vault)) is not None]
    keys = {key for _, key in named}
    canceled = {key for subject, key in named if subject.notification.type == NotificationType.TOKEN_CANCELED}
    docket = Docket(session, vault, careful)
    if held is not None:
        docket.add([held])
    known = docket.lock_authorizations(states, keys)
    docket.meet_tokens(keys - known, canceled - known)
    docket.lock_waiting(keys, entry)
    return docket
