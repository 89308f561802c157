"""Make up the last months of what a service has on record: rows that its own functions make, sealed under its key.

Notifications stay for ninety days, events and calls for thirty, and the authorizations with their tokens and history
for good. `flask authorizations verify` accepts all of it.
"""

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from hashlib import md5
from itertools import accumulate
from typing import Any, Literal
from uuid import UUID

from app import authorizations, calls, inbox, tokens
from app.alipay.delivery import Delivery
from app.authorizations import CONSULT, Cause
from app.config import DEFAULT_NOTIFY_PATH
from app.database.pipeline import plain
from app.events import staging
from app.inbox import VerifiedDelivery
from app.models import AccessToken, Authorization, Call, CallAttempt, FeedEvent, InboxEntry, OutboxEvent, Transition
from app.secret import Secret
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from app.simulator.keys import SANDBOX_CLIENT_ID
from app.state_machine import AuthorizationState, Event, Flow
from app.tokens import Grant
from app.vault import Vault
from app.vocabulary import CallKind, CallStatus, CauseKind, Outcome, Reason
from app.worker import RETENTION

#: The first was consulted so long ago, the last two hours ago: every user who cancels has done so by now.
DAYS = 500
NEWEST = timedelta(hours=2)
#: As the nightly `flask inbox purge --older-than 90d` leaves it.
NOTIFICATIONS_KEPT = timedelta(days=90)

#: One in so many is of a cancellation whose token nobody told us, which waits for good.
PARKED_EVERY = 1000
#: After so many lives they are alike again.
_PERIOD = math.lcm(3, 20, PARKED_EVERY)
_WALLETS = ("GCASH", "GCASH", "GCASH", "DANA", "KAKAOPAY")
#: So that the first of those on record have just ended, and a few end within days.
_TOKEN_LIFE = timedelta(days=495)
_CODE_DELAY, _TOKEN_DELAY, _TOLD_DELAY = timedelta(seconds=20), timedelta(seconds=21), timedelta(seconds=22)
_CANCEL_DELAY = timedelta(hours=1)
_SIGNATURE = "algorithm=RSA256,keyVersion=1,signature="
#: Of 2048 bits, in base64.
_SIGNATURE_BYTES = 172


@dataclass(frozen=True, slots=True)
class Numbers:
    """How far the ids of the inbox and the positions of the feed go."""

    entry: int = 0
    position: int = 0

    def __add__(self, other: "Numbers") -> "Numbers":
        """Go further."""
        return Numbers(self.entry + other.entry, self.position + other.position)


def numbers_after(number: int) -> Numbers:
    """Say how far they go when all that is known of the authorizations up to this one is on record."""
    periods, rest = divmod(number, _PERIOD)
    period, part = _numbers_within_period()[_PERIOD], _numbers_within_period()[rest]
    return Numbers(periods * period.entry, periods * period.position) + part


@cache
def _numbers_within_period() -> Sequence[Numbers]:
    return list(accumulate(map(_numbers_of, range(1, _PERIOD + 1)), initial=Numbers()))


def _numbers_of(number: int) -> Numbers:
    ends_as = _end_of(number)
    code = _flow_of(number) is Flow.AUTO_DEBIT and ends_as is not AuthorizationState.CONSULTED
    token = ends_as in {AuthorizationState.TOKEN_ACTIVE, AuthorizationState.CANCELED}
    canceled, failed = ends_as is AuthorizationState.CANCELED, ends_as is AuthorizationState.AUTHCODE_ISSUED
    parked = number % PARKED_EVERY == 0
    return Numbers(code + token + canceled + parked, 1 + code + token + canceled + failed)


@dataclass(slots=True)
class Rows:
    """What is to be written, table by table, those first that others name."""

    authorizations: list[Authorization] = field(default_factory=list)
    tokens: list[AccessToken] = field(default_factory=list)
    entries: list[InboxEntry] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)
    events: list[FeedEvent] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    attempts: list[CallAttempt] = field(default_factory=list)

    def tables(self) -> Sequence[Sequence[Any]]:
        """Give the rows of each table."""
        return (
            self.authorizations,
            self.tokens,
            self.entries,
            self.transitions,
            self.events,
            self.calls,
            self.attempts,
        )


def begun_at(number: int, count: int, now: datetime) -> datetime:
    """Say when an authorization was consulted: they are spread evenly."""
    span = timedelta(days=DAYS) - NEWEST
    return now - NEWEST - span * (1 - number / count)


def oldest_kept(count: int, now: datetime, kept: timedelta) -> int:
    """Say which is the oldest authorization that began no longer ago than this."""
    return 1 + bisect_left(range(1, count + 1), now - kept, key=lambda number: begun_at(number, count, now))


def _flow_of(number: int) -> Flow:
    return Flow.DIRECT if number % 4 == 0 else Flow.AUTO_DEBIT


def _end_of(number: int) -> AuthorizationState:
    """Most stand, many are canceled, a few users never consent, or their code is never exchanged."""
    if number % 20 == 0:
        return AuthorizationState.CONSULTED
    if number % 20 == 1:
        return AuthorizationState.AUTHCODE_ISSUED
    return AuthorizationState.CANCELED if number % 3 == 0 else AuthorizationState.TOKEN_ACTIVE


class Writer:
    """Makes the rows of one authorization after the other."""

    def __init__(self, vault: Vault, *, now: datetime) -> None:
        self.rows = Rows()
        self._vault = vault
        self._notifications_since = now - NOTIFICATIONS_KEPT
        self._events_since = now - RETENTION
        self._entry = self._position = 0

    def write(self, number: int, at: datetime) -> None:
        """Make all rows of an authorization that was consulted at this time."""
        numbers = numbers_after(number - 1)
        self._entry, self._position = numbers.entry, numbers.position
        _Life(self, number, at).live()
        assert Numbers(self._entry, self._position) == numbers_after(number)

    def entry(self, draft: Draft, outcome: Outcome, reason: Reason | None, *, at: datetime, of: "_Life") -> int:
        """Make the entry of a notification, unless it is purged by now, and give its id."""
        self._entry += 1
        if of.begun_at >= self._notifications_since or outcome is Outcome.PARKED:
            delivery = _delivery(draft, at)
            entry = inbox.draft(self._vault, VerifiedDelivery(delivery, inbox.read(delivery.body), at))
            entry.id = self._entry
            entry.outcome, entry.reason = outcome, reason
            entry.deliveries += of.number % 10 == 0
            if outcome is not Outcome.PARKED:
                entry.found_state, entry.authorization_id = of.authorization.state, of.authorization.id
            self.rows.entries.append(entry)
        return self._entry

    def event(self, stage: Callable[[], OutboxEvent | None], of: "_Life") -> None:
        """Make the event of the feed, unless it is purged by now."""
        self._position += 1
        if of.begun_at < self._events_since:
            return
        staged = stage()
        assert staged is not None
        told = {name: value for name, value in vars(staged).items() if name != "id"}
        told["event_id"] = _id_at(staged.at)
        self.rows.events.append(plain(FeedEvent)(**told, position=self._position, numbered_at=staged.at))

    def are_calls_kept(self, of: "_Life") -> bool:
        """Say whether the calls of an authorization are on record still: they are purged with the events."""
        return of.begun_at >= self._events_since

    @property
    def vault(self) -> Vault:
        """What seals."""
        return self._vault


class _Life:
    """One authorization, from its consult to how it stands."""

    def __init__(self, writer: Writer, number: int, at: datetime) -> None:
        self.number = number
        self.begun_at = at
        self._writer = writer
        self._flow, self._ends_as = _flow_of(number), _end_of(number)
        self._auth_state = auth_state_of(number)
        self.authorization = authorizations.new(
            client_id=SANDBOX_CLIENT_ID,
            auth_state=self._auth_state,
            flow=self._flow,
            flow_was_said=True,
            user_ref=user_ref_of(number),
            customer_belongs_to=_WALLETS[number % len(_WALLETS)],
            at=at,
        )
        self.authorization.id = _id_at(at)

    def live(self) -> None:
        """Go through it."""
        self._writer.rows.authorizations.append(self.authorization)
        self._advance(CONSULT, Cause(CauseKind.API, at=self.begun_at, by="shop"))
        if self._ends_as is not AuthorizationState.CONSULTED:
            self._agree()
        if self.number % PARKED_EVERY == 0:
            stranger = token_canceled(f"unknown-{self._auth_state}")
            self._writer.entry(stranger, Outcome.PARKED, Reason.UNKNOWN_TOKEN, at=self.begun_at, of=self)

    def _agree(self) -> None:
        token = f"28100{self.number:011}{self._auth_state[:24]}"
        if self._flow is Flow.DIRECT:
            self._notified(Event.TOKEN_CREATED, token_created(self._auth_state, token), delay=_TOLD_DELAY)
            self._know(Grant(Secret(token)), at=self.begun_at + _TOLD_DELAY)
        else:
            code = Secret(f"281002{self.number:010}{self._auth_state[24:]}")
            at = self.begun_at + _CODE_DELAY
            authorizations.store_auth_code(self._writer.vault, self.authorization, code, received_at=at, now=at)
            draft = authcode_created(self._auth_state, code.reveal())
            self._notified(Event.AUTHCODE_CREATED, draft, delay=_CODE_DELAY)
            if self._ends_as is AuthorizationState.AUTHCODE_ISSUED:
                self._exchange(code, CallStatus.FAILED, "INVALID_AUTHCODE")
                return
            self._exchange(code, CallStatus.DONE, "SUCCESS")
            self._be_granted(token)
            self._writer.entry(
                token_created(self._auth_state, token),
                Outcome.REDUNDANT,
                Reason.ALREADY_KNOWN,
                at=self.begun_at + _TOLD_DELAY,
                of=self,
            )
        if self._ends_as is AuthorizationState.CANCELED:
            self._notified(Event.TOKEN_CANCELED, token_canceled(token), delay=_CANCEL_DELAY)

    def _be_granted(self, token: str) -> None:
        at = self.begun_at + _TOKEN_DELAY
        ends_at = at + _TOKEN_LIFE
        self._know(Grant(Secret(token), ends_at, Secret(f"refresh-{token}"), ends_at), at=at)
        self.authorization.user_id = f"2088{self.number:012}"
        self._advance(Event.TOKEN_CREATED, Cause(CauseKind.GATEWAY, at=at))

    def _know(self, grant: Grant, *, at: datetime) -> None:
        self._writer.rows.tokens.append(tokens.new(self._writer.vault, self.authorization, grant, at=at))

    def _notified(self, event: Event, draft: Draft, *, delay: timedelta) -> None:
        at = self.begun_at + delay
        entry = self._writer.entry(draft, Outcome.APPLIED, None, at=at, of=self)
        self._advance(event, Cause(CauseKind.NOTIFICATION, at=at), notification_id=entry)

    def _advance(self, event: Event | Literal["consult"], cause: Cause, *, notification_id: int | None = None) -> None:
        """Move the authorization, append to its history and tell of it, as `UnitOfWork.advance` does."""
        authorization = self.authorization
        from_state = None
        if event != CONSULT:
            from_state = authorization.state
            authorization.state = authorizations.decide(authorization, Event(event)).next_state or from_state
        authorization.version += 1
        authorization.updated_at = cause.at
        self._writer.rows.transitions.append(
            plain(Transition)(
                authorization_id=authorization.id,
                sequence=authorization.version,
                event=event,
                from_state=from_state,
                to_state=authorization.state,
                cause=cause.kind,
                by=cause.by,
                notification_id=notification_id,
                learned_at=cause.at,
                at=cause.at,
            )
        )
        self._writer.event(lambda: staging.event_of(authorization, event, at=cause.at), self)

    def _exchange(self, code: Secret, status: CallStatus, result_code: str) -> None:
        at, ended_at = self.begun_at + _CODE_DELAY, self.begun_at + _TOKEN_DELAY
        call = self._call(code, at=at)
        call.attempts, call.result_code = 1, result_code
        calls.finish(call, status, None, at=ended_at)
        is_refused = status is CallStatus.FAILED
        if is_refused:
            self._writer.event(lambda: staging.event_of_call(self.authorization, call, at=ended_at), self)
        attempt = plain(CallAttempt)(
            call_id=call.id,
            number=1,
            started_at=at,
            milliseconds=300,
            http_status=200,
            result_status="F" if is_refused else "S",
            result_code=result_code,
        )
        if self._writer.are_calls_kept(self):
            self._writer.rows.calls.append(call)
            self._writer.rows.attempts.append(attempt)

    def _call(self, code: Secret, *, at: datetime) -> Call:
        if not self._writer.are_calls_kept(self):
            # Nobody sees what is sealed in it.
            return plain(Call)(id=_id_at(at), kind=CallKind.EXCHANGE)
        call = calls.exchange_of(self._writer.vault, self.authorization, code, at=at)
        body = calls.request_body(self._writer.vault, call)
        call.id = _id_at(at)
        calls.set_request(self._writer.vault, call, body, code)
        return call


def auth_state_of(number: int) -> str:
    """Give an authState: merchants make them at random."""
    return md5(f"authState {number}".encode(), usedforsecurity=False).hexdigest()


def user_ref_of(number: int) -> str:
    """Give the merchant's name for the user: some users authorize more than once."""
    return f"user-{number * 4 // 5}"


def _id_at(at: datetime) -> UUID:
    """Make a UUIDv7 of a time in the past."""
    noise = random.getrandbits(74)
    milliseconds = int(at.timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 7 << 76 | (noise >> 62) << 64 | 2 << 62 | noise & (1 << 62) - 1)


def _delivery(draft: Draft, at: datetime) -> Delivery:
    return Delivery(
        method="POST",
        uri=DEFAULT_NOTIFY_PATH,
        client_id=SANDBOX_CLIENT_ID,
        request_time=str(int(at.timestamp() * 1000)),
        # Nobody verifies it again.
        signature=_SIGNATURE + random.randbytes(_SIGNATURE_BYTES).hex(),
        body=draft.body(),
    )
