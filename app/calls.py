"""Calls to Alipay as rows: what is to be asked, each attempt, and how it ended.

An attempt is on record before its request goes out, so that whatever dies, it is known that Alipay may have done it.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from sqlalchemy import ColumnElement, Select, delete, insert, literal_column, or_, select, union_all, update
from sqlalchemy.orm import Session, aliased
from uuid_utils.compat import uuid7

from app.alipay.call_requests import exchange_body, refresh_body, revoke_body
from app.authorizations import REPLACED_A_CODE, Cause
from app.database.bulk import KeyedStatement, insertion, update_of
from app.database.pipeline import Statement, plain
from app.key_locks import AuthStateKey
from app.models import AccessToken, Authorization, Call, CallAttempt
from app.secret import Secret
from app.state_machine import Event
from app.vault import Vault
from app.vocabulary import CallKind, CallStatus, CauseKind

REQUEST_COLUMN = "calls.sealed_request"
ANSWER_COLUMN = "calls.sealed_answer"

#: What a user or a merchant waits for comes before what has days.
KINDS_BY_URGENCY = (CallKind.EXCHANGE, CallKind.REVOKE, CallKind.CONSULT, CallKind.REFRESH)

#: How long a code lives.
CODE_TIME = timedelta(minutes=1)
#: That a code is lost is told while it lives.
EXCHANGE_TIME = timedelta(seconds=58)

#: For how long a call that has ended is tried when somebody asks for it once more.
TIME_OF_A_RETRY = timedelta(minutes=1)
#: A refresh is tried for so long of a token without an end, and of one that has ended.
REFRESH_TIME_MAX = timedelta(days=5)
REFRESH_TIME_MIN = timedelta(minutes=1)

#: Why a call is not made. Alipay wants the wallet with both kinds of applyToken.
NO_WALLET = "The wallet is not known: name it as customerBelongsTo in the consult."
#: Why a call ends that nothing was asked of Alipay for, or no longer.
WALLET_KNOWN = "The wallet is known now: another call exchanges the code."
ANOTHER_CODE = "Another code has taken the place of this one."
TOKEN_CAME_OTHERWISE = "The token has come otherwise."  # noqa: S105 -- a sentence
REFRESHED_OTHERWISE = "The token was refreshed otherwise."
CANCELED_OTHERWISE = "The authorization was canceled otherwise."
#: Why a revoke is done whose request went out, and whose answer is not known.
TOLD_OF = "Alipay has told that the token is gone."


def new(
    vault: Vault,
    authorization: Authorization,
    kind: CallKind,
    *,
    body: bytes,
    subject: Secret | None,
    cause: Cause,
    deadline_at: datetime | None,
) -> Call:
    """Make the row of a call that is due at once. The subject is the code or token that it is about."""
    call = plain(Call)(
        id=uuid7(),
        authorization_id=authorization.id,
        client_id=authorization.client_id,
        kind=kind,
        status=CallStatus.DUE,
        attempts=0,
        is_in_flight=False,
        is_uncertain=False,
        due_at=cause.at,
        deadline_at=deadline_at,
        cause=cause.kind,
        by=cause.by,
        created_at=cause.at,
    )
    set_request(vault, call, body, subject)
    return call


def set_request(vault: Vault, call: Call, body: bytes, subject: Secret | None) -> None:
    """Say what is sent, and which code or token it is about."""
    call.sealed_request = seal_request(vault, call, body)
    call.subject_index = None if subject is None else subject_index(vault, call.client_id, subject)


def seal_request(vault: Vault, call: Call, body: bytes) -> bytes:
    """Seal what is sent."""
    return vault.seal(body.decode(), column=REQUEST_COLUMN, row_key=call.id.bytes)


def subject_index(vault: Vault, client_id: str, subject: Secret) -> bytes:
    """Make the blind index of a code or token that a call is about."""
    return vault.blind_index("call", client_id, subject.reveal())


def request_body(vault: Vault, call: Call) -> bytes:
    """Open what is sent: the same bytes with each attempt. Raises `VaultError` where it does not open."""
    if call.sealed_request is None:
        return b""
    return vault.open_text(call.sealed_request, column=REQUEST_COLUMN, row_key=call.id.bytes).encode()


def set_answer(vault: Vault, call: Call, answer: str) -> None:
    """Keep what a consult was answered, sealed: a URL in it opens the wallet of a user."""
    call.sealed_answer = vault.seal(answer, column=ANSWER_COLUMN, row_key=call.id.bytes)


def answer(vault: Vault, call: Call) -> str | None:
    """Open what a consult was answered. Raises `VaultError` where it does not open."""
    if call.sealed_answer is None:
        return None
    return vault.open_text(call.sealed_answer, column=ANSWER_COLUMN, row_key=call.id.bytes)


def finish(call: Call, status: CallStatus, reason: str | None, *, at: datetime) -> None:
    """End a call. What it would send again is forgotten, but for a consult, which may be asked for again."""
    call.status, call.reason, call.due_at, call.finished_at = status, reason, None, at
    if call.kind != CallKind.CONSULT and status not in {CallStatus.FAILED, CallStatus.UNDETERMINED}:
        call.sealed_request = None


def forget(call: Call) -> None:
    """Take out what was sent and answered, which holds codes, tokens, and what names the user."""
    call.sealed_request = call.sealed_answer = call.subject_index = None


def exchange_of(vault: Vault, authorization: Authorization, code: Secret, *, at: datetime) -> Call:
    """Make the call that exchanges the code on record, which the service makes of its own accord."""
    received_at = authorization.auth_code_received_at or at
    call = new(
        vault,
        authorization,
        CallKind.EXCHANGE,
        body=exchange_body(
            code,
            customer_belongs_to=authorization.customer_belongs_to or "",
            merchant_region=authorization.merchant_region,
        ),
        subject=code,
        cause=Cause(CauseKind.GATEWAY, at=at),
        deadline_at=received_at + EXCHANGE_TIME,
    )
    return _without_wallet(call) if authorization.customer_belongs_to is None else call


def _without_wallet(call: Call) -> Call:
    """Leave a call that cannot be made to the background worker, which ends it and tells of it."""
    call.due_at, call.deadline_at, call.reason = None, call.created_at, NO_WALLET
    return call


def revoke_of(
    vault: Vault,
    authorization: Authorization,
    token: Secret,
    *,
    cause: Cause,
) -> Call:
    """Make the call that revokes a token. It is repeated until it is gone."""
    return new(
        vault,
        authorization,
        CallKind.REVOKE,
        body=revoke_body(token),
        subject=token,
        cause=cause,
        deadline_at=None,
    )


def refresh_of(
    vault: Vault,
    authorization: Authorization,
    token: AccessToken,
    refresh_token: Secret,
    *,
    cause: Cause,
) -> Call:
    """Make the call that refreshes a token.

    It is repeated until half of the time is over that is left: then the user can still authorize again.
    """
    at, ends_at = cause.at, token.access_token_expires_at
    call = new(
        vault,
        authorization,
        CallKind.REFRESH,
        body=refresh_body(
            refresh_token,
            customer_belongs_to=authorization.customer_belongs_to or "",
            merchant_region=authorization.merchant_region,
        ),
        subject=refresh_token,
        cause=cause,
        deadline_at=at + _refresh_time(at, ends_at),
    )
    return _without_wallet(call) if authorization.customer_belongs_to is None else call


def _refresh_time(at: datetime, ends_at: datetime | None) -> timedelta:
    """Say for how long a refresh is tried."""
    if ends_at is None:
        return REFRESH_TIME_MAX
    return (ends_at - at) / 2 if ends_at > at else REFRESH_TIME_MIN


def why_unneeded(call: Call, event: Event | Literal["consult"], reason: str | None) -> str | None:
    """Say why a move of its authorization leaves nothing for an open call to bring, if so."""
    if call.kind == CallKind.EXCHANGE:
        if event == Event.AUTHCODE_CREATED and reason == REPLACED_A_CODE:
            return ANOTHER_CODE
        if event in {Event.TOKEN_CREATED, Event.TOKEN_CANCELED}:
            return TOKEN_CAME_OTHERWISE
    if call.kind == CallKind.REFRESH and event == Event.TOKEN_REFRESHED:
        return REFRESHED_OTHERWISE
    if event == Event.TOKEN_CANCELED:
        return CANCELED_OTHERWISE
    return None


def end_unneeded(call: Call, reason: str, *, at: datetime) -> None:
    """End a call whose effect has come otherwise.

    Of a code that another has replaced, whether Alipay has exchanged it is not known once a request went out. A revoke
    that went out is what was told of.
    """
    if call.kind == CallKind.REVOKE and (call.is_uncertain or call.is_in_flight):
        finish(call, CallStatus.DONE, TOLD_OF, at=at)
        return
    is_unknown = reason == ANOTHER_CODE and (call.is_uncertain or call.is_in_flight)
    finish(call, CallStatus.UNDETERMINED if is_unknown else CallStatus.UNNEEDED, reason, at=at)


# --- in a unit of work -----------------------------------------------------------------------------------------------


def call_insertion(begun: Sequence[Call]) -> Statement:
    """Insert calls."""
    return insertion(Call, begun)


def call_query(call_id: UUID) -> Statement:
    """Find a call, without locking it."""
    return _BY_ID(calls=[(call_id,)])


def call_lock(ids: Collection[UUID]) -> Statement:
    """Lock calls, whose authorizations are locked, and read them as they then are."""
    return _LOCK(calls=[(each,) for each in ids])


def open_calls_lock(authorization_ids: Collection[UUID]) -> Statement:
    """Lock the open calls of locked authorizations, and read them."""
    return _LOCK_OPEN(authorizations=[(each,) for each in authorization_ids])


def all_calls_lock(authorization_ids: Collection[UUID]) -> Statement:
    """Lock the calls of locked authorizations, open or not, and read them, oldest first: each has few."""
    return _LOCK_OF_AUTHORIZATION(authorizations=[(each,) for each in authorization_ids])


# Their kind is no condition: SQLite would read all calls of that kind, which are in the order of their ids too.
_LOCK_OF_AUTHORIZATION = KeyedStatement(
    lambda keys_in: (
        select(Call).where(keys_in("authorizations", Call.authorization_id)).order_by(Call.id).with_for_update()
    )
)
_BY_ID = KeyedStatement(lambda keys_in: select(Call).where(keys_in("calls", Call.id)))
# An index look-up for each: read at once, PostgreSQL might go through all calls.
_LOCK = KeyedStatement(
    lambda keys_in: select(Call).where(keys_in("calls", Call.id)).order_by(Call.id).with_for_update()
)
# Read at once, PostgreSQL might go through all that are due, which are many when a gateway is away.
_LOCK_OPEN = KeyedStatement(
    lambda keys_in: keys_in.find(
        select(Call).where(Call.status == literal_column("'due'")).order_by(Call.id).with_for_update(),
        "authorizations",
        Call.authorization_id,
    )
)


# --- making them -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How one request ended."""

    call_id: UUID
    number: int
    milliseconds: int
    http_status: int | None
    result_status: str | None
    result_code: str | None
    error: str | None


#: What names an attempt: its call, and its number.
AttemptKey = tuple[UUID, int]


def due(session: Session, *, now: datetime, limit: int, full: Collection[str] = ()) -> list[Call]:
    """Lock calls that are due, so many of each kind, the most urgent kind first and of each the longest due first.

    Those of clients that are full, since as many calls of theirs are being made as may, are left out; so is what
    another transaction has locked, which will be there at the next look.
    """
    found: list[Call] = []
    for kind in KINDS_BY_URGENCY:
        found += session.scalars(_due(kind, now, limit, full))
    return found


def is_any_due(session: Session, *, now: datetime) -> bool:
    """Say whether a call is due, without locking any."""
    some = (
        select(Call.id)
        .where(Call.status == CallStatus.DUE, Call.kind == kind, Call.due_at <= now, _is_in_time(now))
        .limit(1)
        .subquery()
        for kind in KINDS_BY_URGENCY
    )
    return session.execute(union_all(*(select(each) for each in some)).limit(1)).first() is not None


def _is_in_time(now: datetime) -> ColumnElement[bool]:
    # What is past its deadline would stand before what can still be made.
    return or_(Call.deadline_at.is_(None), Call.deadline_at > now)


def _due(kind: CallKind, now: datetime, limit: int, full: Collection[str]) -> Select[Call]:
    due = select(Call).where(Call.status == CallStatus.DUE, Call.kind == kind, Call.due_at <= now, _is_in_time(now))
    if full:
        due = due.where(Call.client_id.not_in(full))
    return due.order_by(Call.due_at, Call.id).limit(limit).with_for_update(skip_locked=True)


def in_flight_of(session: Session, authorization_ids: Collection[UUID]) -> set[UUID]:
    """Name those of these authorizations of which a call is being made, or was by a worker that died."""
    theirs = select(Call.authorization_id).where(Call.is_in_flight, Call.authorization_id.in_(authorization_ids))
    return set(session.scalars(theirs))


def begin_attempts(session: Session, calls: Iterable[Call], *, now: datetime) -> None:
    """Put on record that a request goes out for each of these locked calls; none is due again until it has ended."""
    attempts = []
    for each in calls:
        each.attempts += 1
        each.is_in_flight, each.due_at = True, None
        attempts.append({"call_id": each.id, "number": each.attempts, "started_at": now})
    if attempts:
        session.execute(insert(CallAttempt), attempts)


def attempt_end_update(ends: Sequence[AttemptEnd]) -> Statement:
    """Put on record how requests ended."""
    rows = [
        plain(CallAttempt)(
            call_id=each.call_id,
            number=each.number,
            milliseconds=each.milliseconds,
            http_status=each.http_status,
            result_status=each.result_status,
            result_code=each.result_code,
            error=each.error,
        )
        for each in ends
    ]
    return update_of(CallAttempt, rows, ("milliseconds", "http_status", "result_status", "result_code", "error"))


def in_flight(session: Session) -> Sequence[AttemptKey]:
    """List the attempts that have no end on record."""
    rows = session.execute(select(Call.id, Call.attempts).where(Call.is_in_flight).order_by(Call.id))
    return [(row.id, row.attempts) for row in rows]


def overdue(session: Session, *, now: datetime, limit: int) -> Sequence[tuple[UUID, AuthStateKey]]:
    """List calls that are past their deadline without a final answer, with what their authorizations are known by."""
    rows = session.execute(
        select(Call.id, Authorization.client_id, Authorization.auth_state)
        .join(Authorization, Authorization.id == Call.authorization_id)
        .where(Call.status == CallStatus.DUE, Call.deadline_at <= now)
        .order_by(Call.deadline_at)
        .limit(limit)
    )
    return [(row.id, (row.client_id, row.auth_state)) for row in rows]


def auth_state_keys(session: Session, listed: Collection[Call]) -> dict[UUID, AuthStateKey]:
    """Find what the authorizations of calls are known by, by their ids."""
    return {key: each.auth_state_key for key, each in standings(session, listed).items()}


@dataclass(frozen=True, slots=True)
class Standing:
    """What the authorization of a call is known by, and its state, which is not locked."""

    auth_state_key: AuthStateKey
    state: str


def standings(session: Session, listed: Collection[Call]) -> dict[UUID, Standing]:
    """Say how the authorizations of calls stand, by their ids."""
    ids = {each.authorization_id for each in listed}
    rows = session.execute(
        select(Authorization.id, Authorization.client_id, Authorization.auth_state, Authorization.state).where(
            Authorization.id.in_(ids)
        )
    )
    return {row.id: Standing((row.client_id, row.auth_state), row.state) for row in rows}


def let_refresh_be_asked_again(session: Session, call: Call) -> None:
    """Let the token of a locked refresh that is not made be refreshed later, by another call."""
    session.execute(
        update(AccessToken)
        .where(AccessToken.authorization_id == call.authorization_id, AccessToken.superseded_at.is_(None))
        .values(refresh_asked_at=None)
        .execution_options(synchronize_session=False)
    )


def end_soon(call: Call, reason: str, *, now: datetime) -> None:
    """Let a locked call be ended with what is overdue, which is told."""
    call.due_at, call.deadline_at, call.reason = None, now, reason


def release(session: Session, attempts: Collection[AttemptKey], *, now: datetime) -> None:
    """Let calls be repeated whose attempt nobody will say the end of: Alipay may have carried it out.

    A newer attempt than those is left alone: a background worker that has lost the lease may ask for this late.
    """
    ids = [call_id for call_id, _ in attempts]
    held = select(Call).where(Call.id.in_(ids), Call.is_in_flight).order_by(Call.id).with_for_update()
    for each in session.scalars(held):
        if (each.id, each.attempts) not in attempts:
            continue
        each.is_in_flight, each.is_uncertain = False, True
        if each.status == CallStatus.DUE:
            each.due_at = now


def oldest_due_at(session: Session) -> datetime | None:
    """Say since when the most urgent call is due, or when it will be."""
    return min(
        (
            at
            for kind in KINDS_BY_URGENCY
            if (
                at := session.scalar(
                    select(Call.due_at)
                    .where(Call.status == CallStatus.DUE, Call.kind == kind, Call.due_at.is_not(None))
                    .order_by(Call.due_at, Call.id)
                    .limit(1)
                )
            )
            is not None
        ),
        default=None,
    )


# --- looking ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallFilter:
    """Which calls a listing shows; what is `None` does not matter."""

    status: str | None = None
    kind: str | None = None
    client_id: str | None = None
    authorization_ids: Collection[UUID] | None = None


def find(session: Session, call_id: UUID) -> Call | None:
    """Find a call by its id."""
    return session.get(Call, call_id)


def ended(session: Session, call_ids: Collection[UUID]) -> Sequence[Call]:
    """Find those of these calls that have ended."""
    return session.scalars(select(Call).where(Call.id.in_(call_ids), Call.status != CallStatus.DUE)).all()


def listing(session: Session, wanted: CallFilter, *, limit: int, before: UUID | None = None) -> Sequence[Call]:
    """List calls, newest first, from the one that comes after the call with the id `before`."""
    conditions = [
        getattr(Call, name) == value
        for name in ("status", "kind", "client_id")
        if (value := getattr(wanted, name)) is not None
    ]
    if wanted.authorization_ids is not None:
        conditions.append(Call.authorization_id.in_(wanted.authorization_ids))
    if before is not None:
        conditions.append(Call.id < before)
    return session.scalars(select(Call).where(*conditions).order_by(Call.id.desc()).limit(limit)).all()


def newest(session: Session, authorization_ids: Collection[UUID]) -> dict[UUID, Call]:
    """Find the newest call of each of these authorizations that has any, by an index look-up for each."""
    newer = aliased(Call)
    newest_id = (
        select(newer.id)
        .where(newer.authorization_id == Authorization.id)
        .order_by(newer.id.desc())
        .limit(1)
        .correlate(Authorization)
        .scalar_subquery()
    )
    found = session.scalars(
        select(Call).join_from(Authorization, Call, Call.id == newest_id).where(Authorization.id.in_(authorization_ids))
    )
    return {each.authorization_id: each for each in found}


def attempts_of(session: Session, call_id: UUID) -> Sequence[CallAttempt]:
    """List the attempts of a call, first to last."""
    return session.scalars(select(CallAttempt).where(CallAttempt.call_id == call_id).order_by(CallAttempt.number)).all()


# --- purging ---------------------------------------------------------------------------------------------------------


def purge(session: Session, *, before: datetime, limit: int) -> int:
    """Delete the oldest calls that have ended and were begun before a time, with their attempts; say how many."""
    ended = (
        select(Call.id)
        .where(
            Call.id < _first_id_of(before),
            Call.status != CallStatus.DUE,
            Call.is_in_flight.is_(False),
            # One that failed with an answer keeps a token that could not be recorded.
            or_(Call.kind == CallKind.CONSULT, Call.status != CallStatus.FAILED, Call.sealed_answer.is_(None)),
        )
        .order_by(Call.id)
        .limit(limit)
    )
    ids = session.scalars(ended).all()
    without_session = {"synchronize_session": False}
    session.execute(delete(CallAttempt).where(CallAttempt.call_id.in_(ids)), execution_options=without_session)
    session.execute(delete(Call).where(Call.id.in_(ids)), execution_options=without_session)
    return len(ids)


def _first_id_of(time: datetime) -> UUID:
    """Return what all ids of calls are above that were begun from a time on: a UUIDv7 begins with its milliseconds."""
    return UUID(int=int(time.timestamp() * 1000) << 80)
