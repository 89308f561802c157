"""Check that every stored row follows from the history: a second judge, on purpose apart from `judging`.

It folds the history of each authorization through the machine again, and shares no rule with the code that wrote it, so
that a mistake there is not repeated here. It reads a notification from its sealed body, not from the parsed columns; of
a purged entry it believes the transition. What does not fit is an inconsistency.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import authorizations, inbox, tokens
from app.alipay.notification import MalformedNotificationError, Notification, NotificationType
from app.database.pipeline import execute
from app.models import AccessToken, Authorization, InboxEntry, Transition
from app.state_machine import INITIAL_STATE, AuthorizationState, Event, Flow, Verdict, decide
from app.vault import Vault, VaultError
from app.vocabulary import Outcome, Reason, known

#: Read in a handful of statements, and far less than a second of one snapshot.
VERIFIED_BATCH_SIZE_MAX = 200

#: As many of what waits for one authState are looked at. Where there are more, all of them wait for the same.
_WAITING_MAX = 1000

#: The two times that are compared may come from two hosts.
_CLOCKS_DIFFER_BY_MAX = timedelta(minutes=1)

_EVENTS = {
    NotificationType.AUTHCODE_CREATED: Event.AUTHCODE_CREATED,
    NotificationType.TOKEN_CREATED: Event.TOKEN_CREATED,
    NotificationType.TOKEN_CANCELED: Event.TOKEN_CANCELED,
}
_OUTCOMES = {
    Verdict.LEGAL: Outcome.APPLIED,
    Verdict.EARLY: Outcome.PARKED,
    Verdict.ILLEGAL: Outcome.REJECTED,
}


@dataclass(frozen=True, slots=True)
class Inconsistency:
    """Something on record that does not follow from the rest."""

    authorization_id: UUID
    client_id: str
    auth_state: str
    #: One sentence without its full stop, and without a secret.
    what: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What one batch found."""

    #: How many authorizations were looked at.
    count: int
    inconsistencies: list[Inconsistency]
    #: The last one looked at; `None` when there is nothing further.
    up_to: UUID | None


@dataclass(slots=True)
class Record:
    """Everything that is stored about one authorization."""

    authorization: Authorization
    transitions: list[Transition] = field(default_factory=list)
    tokens: dict[bytes, AccessToken] = field(default_factory=dict)
    #: Linked to it, or parked and naming it.
    entries: dict[int, InboxEntry] = field(default_factory=dict)


def verify_batch(
    session: Session, vault: Vault, *, after: UUID | None = None, limit: int = VERIFIED_BATCH_SIZE_MAX
) -> Verified:
    """Verify the next authorizations, oldest first."""
    statement = select(Authorization).order_by(Authorization.id).limit(limit)
    if after is not None:
        statement = statement.where(Authorization.id > after)
    rows = session.scalars(statement).all()
    return Verified(len(rows), verify(session, vault, rows), rows[-1].id if rows else None)


def verify(session: Session, vault: Vault, rows: Sequence[Authorization]) -> list[Inconsistency]:
    """Name every inconsistency of these authorizations."""
    return [
        Inconsistency(record.authorization.id, record.authorization.client_id, record.authorization.auth_state, what)
        for record in _records(session, rows)
        for what in _inconsistencies_of(vault, record)
    ]


def _records(session: Session, rows: Sequence[Authorization]) -> list[Record]:
    """Read what belongs to the authorizations, in as many statements as there are tables."""
    records = {row.id: Record(row) for row in rows}
    by_state = {(row.client_id, row.auth_state): records[row.id] for row in rows}
    by_token: dict[tuple[str, bytes], Record] = {}
    ids = list(records)
    for move in session.scalars(
        select(Transition).where(Transition.authorization_id.in_(ids)).order_by(Transition.sequence)
    ):
        records[move.authorization_id].transitions.append(move)
    for token in session.scalars(select(AccessToken).where(AccessToken.authorization_id.in_(ids))):
        records[token.authorization_id].tokens[token.token_index] = token
        by_token[token.client_id, token.token_index] = records[token.authorization_id]
    for entry in session.scalars(select(InboxEntry).where(InboxEntry.authorization_id.in_(ids))):
        if entry.authorization_id is not None:
            records[entry.authorization_id].entries[entry.id] = entry
    # Each key by itself: what waits for others may be millions.
    states = [(client_id, auth_state, 0) for client_id, auth_state in by_state]
    (waiting,) = execute(session.connection(), inbox.waiting_entries_query(states, by_token, limit=_WAITING_MAX))
    for entry in waiting.of(InboxEntry):
        named = by_state.get((entry.client_id, entry.auth_state or ""))
        if entry.type == NotificationType.TOKEN_CANCELED and entry.token_index is not None:
            named = by_token.get((entry.client_id, entry.token_index))
        if named is not None:
            named.entries[entry.id] = entry
    return list(records.values())


def _inconsistencies_of(vault: Vault, record: Record) -> Iterator[str]:
    if not record.authorization.is_understood:
        yield "its state or flow was written by a newer release, and only that can verify it"
        return
    yield from _inconsistencies_of_history(record)
    yield from _inconsistencies_of_tokens(record)
    yield from _inconsistencies_of_moves(record)
    for entry in sorted(record.entries.values(), key=lambda entry: entry.id):
        # What broke, and what an operator dismissed, does not follow from anything; a newer release knows other words.
        if entry.outcome in {Outcome.FAILED, Outcome.DISMISSED} or not isinstance(entry.outcome, Outcome):
            continue
        try:
            if record.authorization.erased_at is not None and inbox.is_erased(inbox.open_body(vault, entry)):
                # As of a purged one, the transition is believed.
                continue
            notification = inbox.read_again(vault, entry)
        except (VaultError, MalformedNotificationError) as error:
            yield f"entry {entry.id} is {entry.outcome}, but its body cannot be read ({type(error).__name__})"
            continue
        expected = _outcomes_now(vault, record, entry, notification)
        if record.authorization.resume_after is not None:
            # Some are still to be resumed, and are as they were until then.
            expected = expected | {Outcome.PARKED}
        if entry.outcome not in expected:
            wanted = " or ".join(sorted(expected))
            yield f"entry {entry.id} is {entry.outcome}, but {notification.type} would now be {wanted}"


def _inconsistencies_of_history(record: Record) -> Iterator[str]:
    """Fold the events of the history through the machine, and compare with what it says of itself."""
    authorization = record.authorization
    state: AuthorizationState | None = None
    for expected, move in enumerate(record.transitions, start=1):
        if move.sequence != expected:
            yield f"the history has no transition {expected}"
            return
        reached = _after(state, move.event, authorization.current_flow)
        if reached is None:
            yield f"transition {move.sequence}, {move.event}, is not legal in {state}"
            return
        if (move.from_state, move.to_state) != (state, reached):
            yield f"transition {move.sequence} says {move.from_state} to {move.to_state}, not {state} to {reached}"
        state = reached
    if authorization.state != state:
        yield f"the state is {authorization.state}, but its history leads to {state}"
    if authorization.version != len(record.transitions):
        yield f"the version is {authorization.version}, but the history has {len(record.transitions)} transitions"


def _after(state: AuthorizationState | None, event: str, flow: Flow) -> AuthorizationState | None:
    if event == authorizations.CONSULT:
        # A second one corrects the flow, which it can only while nothing else has happened.
        return INITIAL_STATE if state in {None, INITIAL_STATE} else None
    if state is None:
        return None
    return decide(state, Event(event), flow).next_state if event in set(Event) else None


def _inconsistencies_of_tokens(record: Record) -> Iterator[str]:
    """Compare the tokens and the code with the moves that must have brought them."""
    events = [move.event for move in record.transitions]
    current = [token for token in record.tokens.values() if token.superseded_at is None]
    if len(current) != events.count(Event.TOKEN_CREATED):
        yield f"{len(current)} tokens are current, but the history has {events.count(Event.TOKEN_CREATED)} creations"
    superseded = len(record.tokens) - len(current)
    # A refresh may also prolong a token, which supersedes none.
    if superseded > events.count(Event.TOKEN_REFRESHED):
        yield f"{superseded} tokens are superseded, but the history has {events.count(Event.TOKEN_REFRESHED)} refreshes"
    if record.authorization.erased_at is not None:
        # The codes are forgotten.
        return
    issued, codes = events.count(Event.AUTHCODE_CREATED), authorizations.count_codes(record.authorization)
    if (record.authorization.sealed_auth_code is not None) != (issued > 0):
        yield "an auth code is on record without its transition, or the other way about"
    # A token may name one more code than were issued, and of very many the first are forgotten.
    elif codes < issued <= authorizations.OTHER_CODES_MAX:
        yield f"{codes} auth codes are known, but the history has {issued} of them"


def _inconsistencies_of_moves(record: Record) -> Iterator[str]:
    """Compare each transition with the entry that caused it, unless that is purged, and the other way about."""
    causes: dict[int, list[Transition]] = defaultdict(list)
    for move in record.transitions:
        if move.notification_id is not None:
            causes[move.notification_id].append(move)
    for entry_id, moves in causes.items():
        entry = record.entries.get(entry_id)
        if len(moves) > 1:
            yield f"entry {entry_id} has had {len(moves)} effects"
        for move in moves:
            if entry is not None and (entry.type, entry.outcome) != (move.event.upper(), Outcome.APPLIED):
                yield f"transition {move.sequence}, {move.event}, names entry {entry_id}, {entry.type} {entry.outcome}"
    for entry in record.entries.values():
        if entry.outcome == Outcome.APPLIED and entry.id not in causes:
            yield f"entry {entry.id} is applied, but no transition names it"


def _outcomes_now(vault: Vault, record: Record, entry: InboxEntry, notification: Notification) -> set[Outcome]:
    """Say how the entry may have ended, given everything that is on record now.

    What was applied would be redundant if it came again, what is illegal stays so, and what is parked must still have
    something to wait for.
    """
    if not isinstance(notification.type, NotificationType):
        return {Outcome.PARKED}
    if notification.result_status != "S":
        return {Outcome.REJECTED}
    if notification.type == NotificationType.AUTHCODE_CREATED:
        return _outcomes_of_code(vault, record, entry, notification)
    return _outcomes_of_token(vault, record, entry, notification)


def _outcomes_of_token(vault: Vault, record: Record, entry: InboxEntry, notification: Notification) -> set[Outcome]:
    token = None
    if notification.access_token is not None:
        token = record.tokens.get(tokens.index(vault, entry.client_id, notification.access_token))
    said_already = token is not None
    state = record.authorization.current_state
    if notification.type == NotificationType.TOKEN_CANCELED:
        if token is not None and token.superseded_at is not None:
            return {Outcome.REDUNDANT}
        said_already = said_already and state is AuthorizationState.CANCELED
    if said_already:
        outcomes = {Outcome.APPLIED, Outcome.REDUNDANT}
        # A creation that came before the refresh that made its token known was illegal then.
        known_later = token is not None and token.created_at >= entry.received_at - _CLOCKS_DIFFER_BY_MAX
        return outcomes | {Outcome.REJECTED} if known_later else outcomes
    verdict = decide(state, _EVENTS[known(notification.type)], record.authorization.current_flow).verdict
    if entry.reason == Reason.CONTRADICTION:
        return {Outcome.REJECTED}
    return {_OUTCOMES[verdict]}


def _outcomes_of_code(vault: Vault, record: Record, entry: InboxEntry, notification: Notification) -> set[Outcome]:
    authorization, code = record.authorization, notification.auth_code
    if code is not None and authorizations.knows_code(vault, authorization, code):
        # It may have been refused, and named later by the token that was exchanged for it.
        refused = {Outcome.REJECTED} if authorizations.has_other_codes(authorization) else set()
        return {Outcome.APPLIED, Outcome.REDUNDANT} | refused
    if (entry.outcome, entry.found_state) == (Outcome.REJECTED, AuthorizationState.AUTHCODE_ISSUED):
        # The release before took no second code.
        return {Outcome.REJECTED}
    return {_OUTCOMES[decide(authorization.current_state, Event.AUTHCODE_CREATED, authorization.current_flow).verdict]}
