"""Hold what is on record against what was said: nothing lost, nothing twice, everything where the lifecycle has it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import authorizations, consistency, inbox
from app.limits import ATTEMPTS_MAX
from app.models import Authorization, InboxEntry, KeyLock
from app.simulator.keys import SANDBOX_CLIENT_ID
from app.vocabulary import Outcome
from app.wiring import Service
from tests.soak.ledger import Ledger, Said, said_by_draft, said_by_notification
from tests.soak.lives import Life
from tests.soak.patience import run_patiently

#: As many as are read, and held in memory, at a time.
_BATCH_SIZE = 200

#: How what was said of a consulted authorization may end, and what was said of any other.
_DECIDED = {Outcome.APPLIED, Outcome.REDUNDANT}
_WAITING = {Outcome.PARKED}

_STATES = {
    "consult": "consulted",
    "authcode_created": "authcode_issued",
    "token_created": "token_active",
    "token_refreshed": "token_active",
    "token_canceled": "canceled",
}


def audit(service: Service, ledgers: Sequence[Ledger], *, after: int = 0) -> tuple[list[str], list[str]]:
    """Name everything that is lost, and everything that is wrong, among the entries past a sequence number."""
    entries = _entries(service, after)
    lost: list[str] = []
    wrong: list[str] = []
    for ledger in ledgers:
        wrong += ledger.wrong
        lost += _lost(ledger, entries)
        wrong += _wrong_entries(ledger, entries)
        for start in range(0, len(ledger.lives), _BATCH_SIZE):
            batch = ledger.lives[start : start + _BATCH_SIZE]
            wrong += run_patiently(service, partial(_wrong_lives, service=service, batch=batch))
    wrong += [f"{said[0]} of {said[1]} is on record and was never sent" for said in _unsent(ledgers, entries)]
    wrong += run_patiently(service, _needless_key_locks)
    return lost, wrong


def last_entry(service: Service) -> int:
    """Give the sequence number of the newest entry; what comes after it is newer."""
    newest = select(InboxEntry.id).order_by(InboxEntry.id.desc()).limit(1)
    return run_patiently(service, lambda session: session.scalar(newest)) or 0


Ended = tuple[Outcome, int]


def _entries(service: Service, after: int) -> dict[Said, list[Ended]]:
    """Read every entry by what its sealed body says: its outcome, and how often it was delivered."""
    entries: dict[Said, list[Ended]] = defaultdict(list)

    def batch(session: Session) -> list[tuple[int, Said, Ended]]:
        rows = session.scalars(
            select(InboxEntry)
            .where(InboxEntry.id > after, InboxEntry.client_id == SANDBOX_CLIENT_ID)
            .order_by(InboxEntry.id)
            .limit(_BATCH_SIZE)
        ).all()
        return [
            (row.id, said_by_notification(inbox.read_again(service.vault, row)), (Outcome(row.outcome), row.deliveries))
            for row in rows
        ]

    # What is read may be read again: it is kept only once all of a batch is there.
    while rows := run_patiently(service, batch):
        for _, said, ended in rows:
            entries[said].append(ended)
        after = rows[-1][0]
    return entries


def _lost(ledger: Ledger, entries: dict[Said, list[Ended]]) -> Iterator[str]:
    for said, sent in ledger.sent.items():
        if sent.acknowledged and said not in entries:
            yield f"{said[0]} of {said[1]} was acknowledged and is not on record"


def _wrong_entries(ledger: Ledger, entries: dict[Said, list[Ended]]) -> Iterator[str]:
    expected = {
        said_by_draft(draft): _DECIDED if life.is_consulted else _WAITING
        for life in ledger.lives
        for draft in life.notifications
    }
    for said, sent in ledger.sent.items():
        ended = entries.get(said, [])
        if len(ended) > 1:
            yield f"{said[0]} of {said[1]} is on record {len(ended)} times"
        for outcome, deliveries in ended:
            if outcome not in expected[said]:
                yield f"{said[0]} of {said[1]} ended {outcome}"
            # An attempt whose answer was lost may have been counted or not; an acknowledged one must have been. If
            # the database died over a commit that had succeeded, the service's next try counts the delivery once more.
            if not sent.acknowledged <= deliveries <= sent.attempts * ATTEMPTS_MAX:
                yield (
                    f"{said[0]} of {said[1]} counts {deliveries} deliveries of {sent.attempts} attempts, "
                    f"{sent.acknowledged} of them acknowledged"
                )


def _wrong_lives(session: Session, *, service: Service, batch: Sequence[Life]) -> list[str]:
    names = [life.auth_state for life in batch]
    rows = session.scalars(select(Authorization).where(Authorization.auth_state.in_(names))).all()
    known = {row.auth_state: row for row in rows}
    wrong = [f"{drift.auth_state}: {drift.what}" for drift in consistency.verify(session, service.vault, rows)]
    for life in batch:
        row = known.get(life.auth_state)
        if (row is not None) != life.is_consulted:
            wrong.append(f"{life.auth_state} {'is missing' if row is None else 'was never consulted'}")
        elif row is not None:
            wrong += _wrong_history(session, row, life)
    return wrong


def _wrong_history(session: Session, row: Authorization, life: Life) -> Iterator[str]:
    """Compare state and history with the only ones that the lifecycle allows, number by number."""
    states = [None, *[_STATES[event] for event in life.events]]
    moves = zip(life.events, pairwise(states), strict=True)
    expected = [(number, event, before, after) for number, (event, (before, after)) in enumerate(moves, start=1)]
    history = [
        (move.sequence, move.event, move.from_state, move.to_state) for move in authorizations.history(session, row.id)
    ]
    if history != expected:
        yield f"{life.auth_state} has the history {history}, not {expected}"
    if row.state != states[-1]:
        yield f"{life.auth_state} is {row.state}, not {states[-1]}"


def _unsent(ledgers: Sequence[Ledger], entries: dict[Said, list[Ended]]) -> list[Said]:
    sent = {said for ledger in ledgers for said in ledger.sent}
    return [said for said in entries if said not in sent]


def _needless_key_locks(session: Session) -> list[str]:
    """Find key locks that are left though their authorization is known by now."""
    rows = session.scalars(select(KeyLock.key).where(KeyLock.kind == "authState")).all()
    return [
        f"a key lock is left for {key.decode()}"
        for key in rows
        if authorizations.find(session, SANDBOX_CLIENT_ID, key.decode()) is not None
    ]
