"""The ledger of a pretend gateway: every call, token and notification, for an audit to ask about.

Nothing is ever taken out, and everything that is given out is a copy: an audit may read while calls are answered.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from itertools import pairwise

from app.simulator.gateway.requests import Operation


@dataclass(slots=True)
class ReceivedCall:
    """A call whose signature was right, how it was answered, and what went wrong because it was asked for."""

    number: int
    client_id: str
    operation: Operation
    #: What the call is about: an authState, a code, a refresh token or an access token.
    subject: str = field(repr=False)
    #: Two calls with one digest are the identical request.
    digest: str
    received_at: datetime
    #: By the monotonic clock, in seconds: when it was read, and when its answer was out or given up.
    began: float
    ended: float | None = None
    #: What the gateway has on record; the answer says the same unless a fault changed that.
    result_status: str | None = None
    result_code: str | None = None
    #: The names of the faults that were asked for and took effect.
    faults: tuple[str, ...] = ()
    #: Whether an answer that a caller can believe was written whole. The caller may still have gone away.
    is_answered: bool = False


class TokenEnd(StrEnum):
    """Why a token is dead."""

    REFRESHED = "refreshed"
    REPLACED = "replaced by another code of the same consent"
    REVOKED = "revoked"
    CANCELED = "canceled by the user"


@dataclass(slots=True)
class Token:
    """A pair of tokens that the gateway gave, and what has become of it."""

    consent_id: str
    client_id: str
    auth_state: str
    access_token: str = field(repr=False)
    #: Absent where the wallet does not refresh.
    refresh_token: str | None = field(repr=False)
    #: The code, or the refresh token, that it was given for.
    given_for: str = field(repr=False)
    operation: Operation
    given_at: datetime
    #: Absent for a token that lives for ever.
    expires_at: datetime | None
    refresh_expires_at: datetime | None
    #: The access token of the same consent that died of this one.
    replaces: str | None = field(default=None, repr=False)
    #: Whether an answer that names it was written whole, see `ReceivedCall.is_answered`.
    is_answered: bool = False
    ended_at: datetime | None = None
    end: TokenEnd | None = None

    def is_alive(self, now: datetime) -> bool:
        """Say whether a payment with it would be taken."""
        return self.end is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class SentNotification:
    """One attempt to notify the service, and how it answered; or a notification that was lost on request."""

    client_id: str
    type: str
    url: str
    auth_state: str | None
    access_token: str | None = field(repr=False)
    sent_at: datetime
    answer: str
    is_acknowledged: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What a user did on a page: agree, decline or cancel."""

    what: str
    client_id: str
    auth_state: str
    user: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class Rejection:
    """A call that is none: the caller could not be verified, or what it asked could not be read."""

    client_id: str
    uri: str
    code: str
    message: str
    rejected_at: datetime


Entry = ReceivedCall | SentNotification | Decision | Rejection


class Ledger:
    """Remembers what a gateway did."""

    def __init__(self, clock: Callable[[], datetime], watch: Callable[[Entry], None] | None = None) -> None:
        """Take a clock, and a function that is told of each call once it has ended, each decision and each attempt."""
        self._clock = clock
        self._watch = watch
        self._lock = threading.Lock()
        self._calls: list[ReceivedCall] = []
        self._tokens: dict[str, Token] = {}
        self._notifications: list[SentNotification] = []
        self._decisions: list[Decision] = []
        self._rejections: list[Rejection] = []

    # --- what an audit asks ---

    def calls(self, operation: Operation | None = None) -> tuple[ReceivedCall, ...]:
        """Return every call whose signature was right, in the order in which they came."""
        with self._lock:
            return tuple(replace(each) for each in self._calls if operation in {None, each.operation})

    def tokens(self) -> tuple[Token, ...]:
        """Return every token that was given, in that order."""
        with self._lock:
            return tuple(map(replace, self._tokens.values()))

    def alive_tokens(self) -> tuple[Token, ...]:
        """Return the tokens that a payment could be made with now."""
        now = self._clock()
        return tuple(each for each in self.tokens() if each.is_alive(now))

    def answered_tokens(self) -> tuple[Token, ...]:
        """Return the tokens that an answer named which a caller can believe."""
        return tuple(each for each in self.tokens() if each.is_answered)

    def ended_tokens(self, end: TokenEnd) -> tuple[Token, ...]:
        """Return the tokens that ended so."""
        return tuple(each for each in self.tokens() if each.end is end)

    def token(self, access_token: str) -> Token | None:
        """Return the token of this value, if it was given."""
        with self._lock:
            found = self._tokens.get(access_token)
            return None if found is None else replace(found)

    def tokens_for(self, code_or_refresh_token: str) -> tuple[Token, ...]:
        """Return the tokens that were given for a code or a refresh token: at most one, if all is well."""
        return tuple(each for each in self.tokens() if each.given_for == code_or_refresh_token)

    def overlapping_calls(self) -> tuple[tuple[ReceivedCall, ReceivedCall], ...]:
        """Return the pairs of calls of one operation about one thing that were in flight at the same time."""
        by_subject: dict[tuple[str, Operation, str], list[ReceivedCall]] = {}
        for call in self.calls():
            by_subject.setdefault((call.client_id, call.operation, call.subject), []).append(call)
        return tuple(
            (before, after)
            for calls in by_subject.values()
            for before, after in pairwise(calls)
            if before.ended is None or after.began < before.ended
        )

    def notifications(self) -> tuple[SentNotification, ...]:
        """Return every attempt to notify, in the order in which they ended."""
        with self._lock:
            return tuple(self._notifications)

    def decisions(self) -> tuple[Decision, ...]:
        """Return what users did, in that order."""
        with self._lock:
            return tuple(self._decisions)

    def rejections(self) -> tuple[Rejection, ...]:
        """Return every call that was none."""
        with self._lock:
            return tuple(self._rejections)

    # --- what the gateway writes ---

    def begin(self, client_id: str, operation: Operation, subject: str, body: bytes) -> ReceivedCall:
        """Write down a call that has come, and return the entry, which is the gateway's to fill in."""
        digest = hashlib.sha256(body).hexdigest()
        with self._lock:
            number = len(self._calls) + 1
            call = ReceivedCall(number, client_id, operation, subject, digest, self._clock(), time.monotonic())
            self._calls.append(call)
        return call

    def end(self, call: ReceivedCall, access_token: str | None, *, is_answered: bool) -> None:
        """Write down that a call ends, and whether the token that it is answered with can be known to the caller.

        This comes before the answer is out, as the caller's next call may come before anything can be done after it;
        where the answer could not be written, it is said again.
        """
        with self._lock:
            call.ended = call.ended or time.monotonic()
            call.is_answered = is_answered
            if access_token is not None:
                self._tokens[access_token].is_answered = is_answered

    def show(self, call: ReceivedCall) -> None:
        """Tell who watches of a call that has ended."""
        self._tell(call)

    def give(self, token: Token) -> None:
        """Write down a token that was given."""
        with self._lock:
            self._tokens[token.access_token] = token

    def finish(self, token: Token, end: TokenEnd) -> None:
        """Write down that a token is dead."""
        with self._lock:
            token.end, token.ended_at = end, self._clock()

    def note(self, entry: SentNotification | Decision | Rejection) -> None:
        """Write down a notification, a decision or a rejection."""
        with self._lock:
            match entry:
                case SentNotification():
                    self._notifications.append(entry)
                case Decision():
                    self._decisions.append(entry)
                case Rejection():
                    self._rejections.append(entry)
        self._tell(entry)

    def _tell(self, entry: Entry) -> None:
        if self._watch is not None:
            self._watch(entry)
