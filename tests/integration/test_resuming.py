"""Many parked entries of one authorization are resumed in pieces of a few hundred, one transaction each."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from app import authorizations, inbox, reports, unit_of_work as work
from app.authorizations import Cause
from app.database.pipeline import Statement, execute
from app.limits import RESUMED_AT_ONCE_MAX
from app.models import InboxEntry
from app.reports import Consult
from app.resuming import Resumption
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from app.unit_of_work import UnitOfWork
from app.vocabulary import CauseKind
from tests.builders import CLIENT_ID
from tests.integration.stage import NOON, Stage
from tests.integration.test_consistency import inconsistencies

#: Takes three transactions.
MANY = 2 * RESUMED_AT_ONCE_MAX + 20


def park(stage: Stage, drafts: Iterable[Draft]) -> None:
    bodies = [draft.body() for draft in drafts]
    for first in range(0, len(bodies), 64):
        stage.notify_batch(bodies[first : first + 64])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def damage(session: Session, entry_id: int) -> None:
    session.get_one(InboxEntry, entry_id).sealed_body = b"this opens under no key"


def is_finished(stage: Stage) -> bool:
    return not stage.database.run(lambda session: authorizations.unfinished(session, limit=1))


def consult_and_die(stage: Stage, **said: str) -> UUID:
    """Record a consult as a process does that dies at once: the commit is the last that it does."""
    consult = Consult("s-1", client_id=CLIENT_ID, **said)  # type: ignore[arg-type] # the flow is a text there
    with stage.database.engine.begin() as connection:
        unit = UnitOfWork(connection, stage.vault)
        recorded = reports.record(unit, stage.keyring, consult, cause=Cause(CauseKind.API, at=NOON))
        unit.close()
    return recorded.authorization_id


def test_a_consult_resumes_a_few_hundred_parked_entries_and_the_rest_follows_by_itself(stage: Stage) -> None:
    park(stage, [authcode_created("s-1", f"code-{number}") for number in range(MANY)])
    receiver = stage.receiver
    recorded = receiver.record(Consult("s-1", client_id=CLIENT_ID), cause=CauseKind.API)
    assert recorded.created
    assert len(recorded.resumed) == RESUMED_AT_ONCE_MAX
    until(lambda: is_finished(stage))
    assert Counter(outcome for outcome, _ in stage.outcomes())["parked"] == 0
    assert stage.entries()[0].outcome == "applied"
    assert inconsistencies(stage) == []


def test_an_early_entry_is_passed_over_until_its_predecessor_comes(stage: Stage) -> None:
    """The first few hundred cannot be decided before the last one is, and must not be looked at again and again."""
    stage.notify(token_created("s-1", "token-0"))
    park(stage, [token_created("s-1", f"token-{number}") for number in range(1, MANY)])
    park(stage, [token_canceled("token-0"), authcode_created("s-1", "code-1")])
    stage.consult()
    until(lambda: is_finished(stage))
    assert [move[1] for move in stage.moves()] == ["consult", "authcode_created", "token_created", "token_canceled"]
    assert Counter(outcome for outcome, _ in stage.outcomes()) == {"applied": 3, "rejected": MANY - 1}
    assert inconsistencies(stage) == []


def test_no_statement_reads_or_locks_more_than_a_transaction_resumes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "RESUMED_AT_ONCE_MAX", 5)
    monkeypatch.setattr(Resumption, "resume_later", lambda *_: None)
    park(stage, [authcode_created("s-1", f"code-{number}") for number in range(50)])
    numbers: list[int] = []
    lock = inbox.entry_lock

    def counted(ids: Collection[int]) -> Statement:
        numbers.append(len(ids))
        return lock(ids)

    monkeypatch.setattr(inbox, "entry_lock", counted)
    stage.consult()
    assert numbers == [5]


def test_another_process_resumes_what_a_dead_one_has_left(stage: Stage) -> None:
    park(stage, [authcode_created("s-1", f"code-{number}") for number in range(MANY)])
    consult_and_die(stage)
    assert not is_finished(stage)
    # Several may find it.
    for receiver in (stage.receiver, stage.receiver, stage.receiver):
        receiver.resume_unfinished()
    until(lambda: is_finished(stage))
    assert Counter(outcome for outcome, _ in stage.outcomes()) == {"applied": MANY}
    assert len(stage.moves()) == MANY + 1


def test_while_there_is_a_rest_nothing_is_taken_for_a_drift(stage: Stage) -> None:
    park(stage, [authcode_created("s-1", f"code-{number}") for number in range(MANY)])
    consult_and_die(stage)
    assert not is_finished(stage)
    assert inconsistencies(stage) == []


def test_a_delivery_waits_behind_the_rest(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has come last, so that all that contradicts it is judged before it."""
    monkeypatch.setattr(work, "RESUMED_AT_ONCE_MAX", 1)
    park(
        stage, [authcode_created("s-1", "code-1"), authcode_created("s-1", "code-1b"), token_created("s-1", "token-1")]
    )
    consult_and_die(stage)
    assert stage.notify(token_created("s-1", "token-2")).outcome == "parked"
    assert stage.notify(authcode_created("s-1", "code-3")).outcome == "parked"
    stage.receiver.resume_unfinished()
    until(lambda: is_finished(stage))
    assert [entry.outcome for entry in stage.entries() if entry.type == "TOKEN_CREATED"] == ["applied", "rejected"]
    assert stage.state() == "token_active"


def test_a_report_comes_after_the_rest(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "RESUMED_AT_ONCE_MAX", 1)
    park(stage, [authcode_created("s-1", "code-1"), token_created("s-1", "token-1"), token_canceled("token-1")])
    found = consult_and_die(stage)
    assert not stage.report_canceled(found).changed
    assert is_finished(stage)
    assert [move[1] for move in stage.moves()] == ["consult", "authcode_created", "token_created", "token_canceled"]


def test_the_same_consult_again_does_not_wait_for_the_rest(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "RESUMED_AT_ONCE_MAX", 1)
    monkeypatch.setattr(Resumption, "resume_later", lambda *_: None)
    park(stage, [authcode_created("s-1", f"code-{number}") for number in range(5)])
    stage.consult()
    assert not stage.receiver.record(Consult("s-1", client_id=CLIENT_ID), cause=CauseKind.API).changed
    assert not is_finished(stage)


def test_one_that_breaks_in_the_rest_breaks_alone(stage: Stage) -> None:
    park(stage, [authcode_created("s-1", f"code-{number}") for number in range(MANY)])
    broken = stage.entries()[-2].id
    stage.database.run(lambda session: damage(session, broken))
    stage.consult()
    until(lambda: is_finished(stage))
    assert Counter(outcome for outcome, _ in stage.outcomes()) == {"applied": MANY - 1, "failed": 1}


def test_a_batch_that_more_waits_for_than_a_transaction_resumes_is_taken_apart(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("s-1", "s-2"):
        stage.consult(name)
        park(stage, [token_created(name, f"token-{number}-of-{name}") for number in range(4)])
    monkeypatch.setattr(work, "RESUMED_AT_ONCE_MAX", 6)
    bodies = [authcode_created(name, f"code-of-{name}").body() for name in ("s-1", "s-2")]
    receipts = stage.notify_batch(bodies, singles=2)
    assert {each.outcome for each in receipts} == {"applied"}
    assert [stage.state(name) for name in ("s-1", "s-2")] == ["token_active"] * 2


def test_a_delivery_reads_as_many_tokens_after_many_refreshes_as_after_one(stage: Stage) -> None:
    found = stage.consult(flow="direct")
    stage.report_token(found, "token-0")
    for number in range(30):
        stage.report_token(found, f"token-{number + 1}", replaces=f"token-{number}")
    with stage.database.engine.begin() as connection:
        named = authorizations.loaded_tokens_query({(CLIENT_ID, "s-1")}, set())
        (answer,) = execute(connection, named)
    assert len(answer.rows) == 1


def test_the_mark_to_resume_survives_an_error_after_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a transaction says it has left is what is on record, also where one of the entries breaks."""
    monkeypatch.setattr(work, "RESUMED_AT_ONCE_MAX", 3)
    monkeypatch.setattr(Resumption, "resume_later", lambda *_: None)
    park(stage, [token_created("s-1", f"token-{number}") for number in range(3)])
    stage.notify(authcode_created("s-1", "code-1"))
    authorization_id = consult_and_die(stage)
    # Applies the code, behind which all is to begin anew. Of that the first is applied, and the second breaks.
    assert resume(stage, authorization_id)
    second = stage.entries()[1].id
    stage.database.run(lambda session: damage(session, second))
    while resume(stage, authorization_id):
        assert not is_finished(stage)
    assert is_finished(stage)
    assert Counter(outcome for outcome, _ in stage.outcomes()) == {"applied": 2, "failed": 1, "rejected": 1}
    assert inconsistencies(stage) == []


def resume(stage: Stage, authorization_id: UUID) -> bool:
    return stage.receiver._resume_next_piece(authorization_id)  # noqa: SLF001 -- threads would leave it to chance when
