"""Statements about calls to Alipay: insert and lock them, find those that are due, list and purge them.

Each finds its rows by an index, however many calls have ended: two or three of every authorization that ever was.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Select, delete, insert, literal_column, or_, select, union_all, update
from sqlalchemy.orm import Session, aliased

from app.database.bulk import KeyedStatement, insertion, update_of
from app.database.pipeline import Statement
from app.key_locks import AuthStateKey
from app.models import AccessToken, Authorization, Call, CallAttempt
from app.vocabulary import CallKind, CallStatus

#: What a user or a merchant waits for comes before what has days.
KINDS_BY_URGENCY = (CallKind.EXCHANGE, CallKind.REVOKE, CallKind.CONSULT, CallKind.REFRESH)


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


#: What names an attempt: its call, and its number.
AttemptKey = tuple[UUID, int]


def lock_due(session: Session, *, now: datetime, limit: int, full: Collection[str] = ()) -> list[Call]:
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


def authorizations_in_flight(session: Session, authorization_ids: Collection[UUID]) -> set[UUID]:
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


def attempt_end_update(ended: Sequence[CallAttempt]) -> Statement:
    """Put on record how requests ended."""
    return update_of(CallAttempt, ended, ("milliseconds", "http_status", "result_status", "result_code", "error"))


def attempts_in_flight(session: Session) -> Sequence[AttemptKey]:
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


def release(session: Session, attempts: Collection[AttemptKey], *, now: datetime) -> None:
    """Make calls due again whose attempts were abandoned: Alipay may have carried them out.

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
    """Say since when a call is due, of any kind, or when the next one will be."""
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
