"""What is promised of calls to Alipay, whatever happens, and what looks after it."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import calls, consistency, tokens
from app.alipay.call import Done
from app.database import Database
from app.gateway.attempts import Answer
from app.models import AccessToken, Authorization, Base, Call, CallAttempt, OutboxEvent, Transition
from app.secret import Secret
from app.simulator.gateway.ledger import Ledger, Token, TokenEnd
from app.vault import Vault
from tests.builders import CLIENT_ID
from tests.schedules.queue_promises import BrokenPromiseError, broken

__all__ = ["BrokenPromiseError", "CallPromises"]

_BAD = frozenset({"failed", "undetermined"})
_TOLD = {kind: f"authorization.{kind}_failed" for kind in ("exchange", "refresh", "revoke")}
#: In which state of its authorization a call has something to bring.
_NEEDED_IN = {"exchange": "authcode_issued", "refresh": "token_active", "revoke": "token_active"}
#: The pretend Alipay's codes and tokens.
_SECRET = re.compile(r"28(?:10|15|16)\d{36}")


@dataclass
class CallPromises:
    """Looks after each step whether every promise still holds."""

    database: Database
    vault: Vault
    ledger: Ledger
    clock: Callable[[], datetime]
    #: What Alipay gave for a call, whether anybody learned that or not.
    given: dict[UUID, list[str]] = field(default_factory=dict)
    #: What a worker has read of it, and has recorded.
    recorded: dict[str, UUID] = field(default_factory=dict)
    #: The calls as they were after the last step, and how often each has ended badly by then.
    calls: Sequence[Call] = ()
    ended_badly: Counter[UUID] = field(default_factory=Counter)

    # --- what happens ---

    def note_sent(self, call_id: UUID, number: int, body: Mapping[str, str]) -> None:
        """See that a request which goes out is on record, and has something to bring. Raises `BrokenPromiseError`."""
        rows = self.database.run(_read, read_only=True)
        call = next((each for each in rows.calls if each.id == call_id), None)
        if call is None or (call_id, number) not in rows.open_attempts:
            broken(f"attempt {number} of a {'' if call is None else call.kind} call is sent, and is not on record")
        authorization = rows.authorizations[call.authorization_id]
        # A revoke may also be of a token that came when all was over.
        if call.kind in _NEEDED_IN and authorization.state != _NEEDED_IN[call.kind]:
            known = call.kind != "revoke" or self._index(body["accessToken"]) in rows.tokens
            if known:
                broken(f"a {call.kind} is sent, and its authorization is {authorization.state}")
        if call.kind == "refresh":
            current = rows.current.get(authorization.id)
            secret = None if current is None else tokens.reveal_refresh_token(self.vault, current)
            if secret is None or secret.reveal() != body["refreshToken"]:
                broken("a refresh is sent with another refresh token than the one on record")

    def note_recorded(self, call_id: UUID, answer: Answer) -> None:
        """Note that a worker has recorded an answer."""
        if isinstance(answer, Done) and "accessToken" in answer.answer:
            self.recorded[str(answer.answer["accessToken"])] = call_id

    # --- what must be so after each step ---

    def look(self) -> None:
        """See that every promise holds now. Raises `BrokenPromiseError`."""
        rows = self.database.run(_read, read_only=True)
        before = {each.id: each.status for each in self.calls}
        self.calls = rows.calls
        for each in rows.calls:
            # Of a code that another has replaced nothing is told: that other one is exchanged.
            if each.status in _BAD and before.get(each.id) not in _BAD and each.reason != calls.ANOTHER_CODE:
                self.ended_badly[each.id] += 1
            self._require_sane(each, rows)
        self._require_told(rows)
        for access_token, call_id in self.recorded.items():
            if not self._is_kept(access_token, call_id, rows):
                broken(f"a token is lost that {_named(rows, call_id)} was answered with")
        for authorization in rows.authorizations.values():
            token = self._current(authorization, rows)
            is_revoked = token is not None and token.end is TokenEnd.REVOKED
            if authorization.state == "token_active" and is_revoked and authorization.revoke_asked_at is None:
                broken(f"{authorization.auth_state} is active, and its token is revoked")

    def _require_sane(self, call: Call, rows: "_Rows") -> None:
        is_due = call.status == "due"
        # One that is not made any more waits to be ended with what is overdue.
        ends_soon = call.due_at is None and call.deadline_at is not None
        if is_due and (call.due_at is None) != call.is_in_flight and not ends_soon:
            broken(f"{_shown(call)} is due {call.due_at}, and {'' if call.is_in_flight else 'not '}in flight")
        if (call.finished_at is None) != is_due or (not is_due and call.due_at is not None):
            broken(f"{_shown(call)} is due {call.due_at}, finished {call.finished_at}")
        if call.is_in_flight and (call.id, call.attempts) not in rows.open_attempts:
            broken(f"{_shown(call)} is in flight without an attempt on record")
        if call.status == "failed" and call.sealed_answer is None and self.given.get(call.id):
            broken(f"{_shown(call)} has failed, it says, and Alipay has given a token for it")
        if call.status in _BAD and not call.reason:
            broken(f"{_shown(call)} does not say why")

    def _require_told(self, rows: "_Rows") -> None:
        for each in rows.calls:
            told = rows.told.get(each.id, [])
            expected = [_TOLD[each.kind]] * self.ended_badly[each.id] if each.kind in _TOLD else []
            if told != expected:
                broken(f"{_shown(each)} is told of by {told}, not by {expected}")

    def _is_kept(self, access_token: str, call_id: UUID, rows: "_Rows") -> bool:
        """Say whether a token is on record, is being revoked, or can still be read from its call."""
        if self._index(access_token) in rows.tokens:
            return True
        subject = calls.subject_index(self.vault, CLIENT_ID, Secret(access_token))
        return any(
            (each.kind == "revoke" and each.subject_index == subject)
            or (each.id == call_id and each.sealed_answer is not None)
            for each in rows.calls
        )

    def _current(self, authorization: Authorization, rows: "_Rows") -> Token | None:
        token = rows.current.get(authorization.id)
        return None if token is None else self.ledger.token(tokens.reveal(self.vault, token).reveal())

    def _index(self, access_token: str) -> bytes:
        return tokens.index(self.vault, CLIENT_ID, Secret(access_token))

    # --- what an operator finds ---

    def failed_call(self, authorization_id: UUID) -> Call | None:
        """Give the newest call of an authorization that has ended badly."""
        theirs = [each for each in self.calls if each.authorization_id == authorization_id and each.status in _BAD]
        return theirs[-1] if theirs else None

    def kept_answer(self) -> Call | None:
        """Give a call that has failed, and whose answer is kept to be recorded once more."""
        kept = [
            each
            for each in self.calls
            if each.status == "failed" and each.kind != "consult" and each.sealed_answer is not None
        ]
        return kept[0] if kept else None

    # --- what must be so in the end ---

    def require_right_end(self) -> None:
        """See that all is as it should be when nothing is to be done any more. Raises `BrokenPromiseError`."""
        rows, moves = self.database.run(_read, read_only=True), self.database.run(_moves, read_only=True)
        wrong = self.database.run(
            lambda session: consistency.verify(session, self.vault, session.scalars(select(Authorization)).all()),
            read_only=True,
        )
        if wrong:
            broken(f"{wrong[0].auth_state}: {wrong[0].what}")
        ages = {each.access_token: age for age, each in enumerate(self.ledger.tokens())}
        for each in rows.authorizations.values():
            self._require_right_history(each, moves[each.id])
            theirs = [token for token in self.ledger.tokens() if token.auth_state == each.auth_state]
            known = [token for token in theirs if self._index(token.access_token) in rows.tokens]
            current = self._current(each, rows)
            if current is not None and current.end is TokenEnd.REVOKED and each.state == "token_active":
                broken(f"{each.auth_state} is active in the end, and its token is revoked")
            if current is not None and known and current.access_token != known[-1].access_token:
                broken(f"{each.auth_state} has token {ages[current.access_token]}, not {ages[known[-1].access_token]}")
            if each.state == "canceled":
                self._require_all_dead(each, theirs, rows)

    def _require_right_history(self, authorization: Authorization, moves: Sequence[Transition]) -> None:
        events = [each.event for each in moves]
        once = [each for each in events if each not in {"authcode_created", "token_refreshed"}]
        right = ["consult", "token_created", "token_canceled"]
        order = ["consult", "authcode_created", "token_created", "token_refreshed", "token_canceled"]
        is_sorted = all(order.index(one) <= order.index(next_one) for one, next_one in pairwise(events))
        is_chain = all(one.to_state == next_one.from_state for one, next_one in pairwise(moves))
        if once != right[: len(once)] or not is_sorted or not is_chain or moves[-1].to_state != authorization.state:
            broken(f"{authorization.auth_state} is {authorization.state} with the history {events}")

    def _require_all_dead(self, authorization: Authorization, theirs: Sequence[Token], rows: "_Rows") -> None:
        """See that no token lives on, of a canceled authorization, that the service knows."""
        now = self.clock()
        for token in theirs:
            subject = calls.subject_index(self.vault, CLIENT_ID, Secret(token.access_token))
            is_given_up = any(each.subject_index == subject and each.status in _BAD for each in rows.calls)
            is_known = token.access_token in self.recorded or self._index(token.access_token) in rows.tokens
            if token.is_alive(now) and is_known and not is_given_up:
                broken(f"{authorization.auth_state} is canceled, and a token of it lives on")

    def require_no_secrets(self, lines: Sequence[str]) -> None:
        """See that no code and no token is in a log, or in a row in the clear. Raises `BrokenPromiseError`."""
        for line in lines:
            if _SECRET.search(line):
                broken(f"a log has a secret: {line}")
        found = self.database.run(_in_the_clear, read_only=True)
        if found:
            broken(f"a row of {found[0]} has a secret")


@dataclass
class _Rows:
    """What is on record."""

    calls: Sequence[Call]
    authorizations: Mapping[UUID, Authorization]
    #: By blind index, and the current one of each authorization.
    tokens: Mapping[bytes, AccessToken]
    current: Mapping[UUID, AccessToken]
    #: Attempts without an end.
    open_attempts: set[tuple[UUID, int]]
    #: The types of the events that tell of each call.
    told: Mapping[UUID, list[str]]


def _read(session: Session) -> _Rows:
    told: dict[UUID, list[str]] = defaultdict(list)
    for row in session.execute(select(OutboxEvent.call_id, OutboxEvent.type)):
        if row.call_id is not None:
            told[row.call_id].append(row.type)
    known = session.scalars(select(AccessToken)).all()
    unended = select(CallAttempt.call_id, CallAttempt.number).where(CallAttempt.milliseconds.is_(None))
    return _Rows(
        session.scalars(select(Call).order_by(Call.id)).all(),
        {each.id: each for each in session.scalars(select(Authorization))},
        {each.token_index: each for each in known},
        {each.authorization_id: each for each in known if each.superseded_at is None},
        {(row.call_id, row.number) for row in session.execute(unended)},
        told,
    )


def _moves(session: Session) -> Mapping[UUID, list[Transition]]:
    moves: dict[UUID, list[Transition]] = defaultdict(list)
    for move in session.scalars(select(Transition).order_by(Transition.sequence)):
        moves[move.authorization_id].append(move)
    return moves


def _in_the_clear(session: Session) -> list[str]:
    """Name the tables that have a code or a token in the clear."""
    return [
        table.name
        for table in Base.metadata.sorted_tables
        for row in session.execute(select(table))
        if _SECRET.search(repr(tuple(row)))
    ]


def _shown(call: Call) -> str:
    return f"a {call.kind} call that is {call.status} after {call.attempts} attempts ({call.reason})"


def _named(rows: _Rows, call_id: UUID) -> str:
    return next((_shown(each) for each in rows.calls if each.id == call_id), "a call that is gone")
