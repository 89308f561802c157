"""A failure of ours, or of the database, loses nothing and takes nothing else with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.alipay.acknowledgement import is_acknowledgement
from app.database import Database, DatabaseUnavailableError
from app.events import feed
from app.simulator.draft import authcode_created, token_canceled, token_created
from tests.integration.stage import Stage, a_stage


def test_a_failing_entry_is_stored_acknowledged_and_logged(stage: Stage) -> None:
    authorization_id = stage.consult()
    with stage.broken_code(authorization_id):
        receipt = stage.notify(authcode_created("s-1", "code-1"))
    assert (receipt.outcome, receipt.reason) == ("failed", "SealBrokenError")
    assert is_acknowledgement(receipt.answer.status, receipt.answer.body)
    assert stage.state() == "consulted"


def test_a_redelivery_processes_a_failed_entry_again(stage: Stage) -> None:
    authorization_id = stage.consult()
    with stage.broken_code(authorization_id):
        stage.notify(authcode_created("s-1", "code-1"))
    again = stage.notify(authcode_created("s-1", "code-1"))
    assert (again.answer.status, again.outcome) == (200, "applied")
    assert stage.state() == "authcode_issued"


def test_a_replayed_entry_resumes_parked_ones(stage: Stage) -> None:
    authorization_id = stage.consult()
    with stage.broken_code(authorization_id):
        failed = stage.notify(authcode_created("s-1", "code-1"))
        assert failed.entry_id is not None
    stage.notify(token_canceled("token-1"))
    stage.notify(token_created("s-1", "token-1"))
    done = stage.process(failed.entry_id)
    assert [(each.type, each.outcome) for each in done] == [
        ("AUTHCODE_CREATED", "applied"),
        ("TOKEN_CREATED", "applied"),
        ("TOKEN_CANCELED", "applied"),
    ]
    assert stage.state() == "canceled"


def test_a_resumed_entry_that_fails_fails_alone(stage: Stage) -> None:
    """The code is broken only for the parked duplicate code, which alone has to open it."""
    stage.notify(token_created("s-1", "token-1"))
    authorization_id = stage.consult()
    stage.notify(token_canceled("token-1"))
    with stage.broken_code(authorization_id):
        stage.notify(authcode_created("s-1", "code-2"))
    assert stage.outcomes() == [("parked", "early"), ("parked", "unknown_token"), ("failed", "SealBrokenError")]
    stage.report_authcode(authorization_id, "code-1")
    assert stage.state() == "canceled"


def test_a_processing_that_breaks_halfway_leaves_nothing_of_itself(stage: Stage) -> None:
    """A transition that is there already breaks the last step, when code and state are written."""
    stage.consult()
    in_the_way = text(
        "INSERT INTO transitions (authorization_id, sequence, event, to_state, cause, at) "
        "SELECT authorization_id, 2, event, to_state, cause, at FROM transitions"
    )
    stage.database.run(lambda session: session.execute(in_the_way))
    receipt = stage.notify(authcode_created("s-1", "code-1"))
    assert (receipt.answer.status, receipt.outcome, receipt.reason) == (200, "failed", "IntegrityError")
    assert stage.state() == "consulted"
    stage.database.run(lambda session: session.execute(text("DELETE FROM transitions WHERE sequence = 2")))
    assert stage.notify(authcode_created("s-1", "code-1")).outcome == "applied"
    assert len(stage.moves()) == 2


def test_a_replay_of_a_final_entry_does_nothing(stage: Stage) -> None:
    stage.consult()
    receipt = stage.notify(authcode_created("s-1", "code-1"))
    assert receipt.entry_id is not None
    assert stage.process(receipt.entry_id) == []
    assert stage.process(4711) == []
    assert len(stage.moves()) == 2


def test_a_replay_of_an_entry_that_still_waits_leaves_it_parked(stage: Stage) -> None:
    receipt = stage.notify(token_canceled("token-1"))
    assert receipt.entry_id is not None
    (done,) = stage.process(receipt.entry_id)
    assert (done.outcome, done.reason) == ("parked", "unknown_token")


def test_a_delivery_that_cannot_be_stored_is_not_acknowledged(stage: Stage) -> None:
    """A missing table stands for every way in which the database cannot do its part."""
    stage.consult()
    with renamed(stage.database, "inbox"):
        receipt = stage.notify(authcode_created("s-1", "code-1"))
    assert (receipt.answer.status, receipt.answer.result_code) == (503, "UNKNOWN_EXCEPTION")
    assert stage.entries() == []
    assert stage.notify(authcode_created("s-1", "code-1")).outcome == "applied"


#: What each driver calls it that a table is missing.
MISSING_TABLE = {"sqlite": "OperationalError", "postgresql": "ProgrammingError"}


@pytest.mark.parametrize("table", ["transitions", "authorizations"])
def test_a_notification_that_can_be_stored_but_not_processed_is_kept_as_failed(stage: Stage, table: str) -> None:
    stage.consult()
    with renamed(stage.database, table):
        receipt = stage.notify(authcode_created("s-1", "code-1"))
    assert is_acknowledgement(receipt.answer.status, receipt.answer.body)
    assert stage.outcomes() == [("failed", MISSING_TABLE[stage.database.engine.dialect.name])]
    assert stage.state() == "consulted"
    assert stage.notify(authcode_created("s-1", "code-1")).outcome == "applied"


def test_an_unavailable_database_is_answered_with_503(alipay_key: RSAPrivateKey) -> None:
    stage = a_stage("postgresql://nobody@127.0.0.1:1/nothing", alipay_key)
    receipt = stage.notify(authcode_created("s-1", "code-1"))
    assert (receipt.answer.status, receipt.answer.result_status) == (503, "U")
    with pytest.raises(DatabaseUnavailableError):
        stage.consult()


def test_a_locked_database_is_tried_again_and_then_given_up(stage: Stage) -> None:
    """Another connection holds what this delivery needs, for longer than anybody should wait."""
    stage.consult()
    with stage.database.engine.connect() as other, other.begin():
        other.execute(text("UPDATE authorizations SET version = version"))
        receipt = stage.notify(authcode_created("s-1", "code-1"))
    assert (receipt.answer.status, receipt.answer.result_code) == (503, "UNKNOWN_EXCEPTION")
    assert stage.entries() == []
    assert stage.notify(authcode_created("s-1", "code-1")).outcome == "applied"


@contextmanager
def renamed(database: Database, table: str) -> Iterator[None]:
    """Let a table be missing, for a while."""
    rename(database, table, "elsewhere")
    try:
        yield
    finally:
        rename(database, "elsewhere", table)


def rename(database: Database, table: str, name: str) -> None:
    database.run(lambda session: session.execute(text(f"ALTER TABLE {table} RENAME TO {name}")))


def test_a_move_whose_event_cannot_be_written_is_not_made_and_is_made_with_it_once_that_is_mended(
    stage: Stage,
) -> None:
    def rename(old: str, new: str) -> None:
        stage.database.run(lambda session: session.execute(text(f"ALTER TABLE {old} RENAME TO {new}")))

    stage.consult()
    rename("event_outbox", "elsewhere")
    code = stage.notify(authcode_created("s-1", "code-1"))
    token = stage.notify(token_created("s-1", "token-1"))
    assert [code.outcome, token.outcome] == ["failed", "parked"]
    assert is_acknowledgement(code.answer.status, code.answer.body)
    assert code.entry_id is not None
    with pytest.raises(SQLAlchemyError):
        stage.consult("s-2")
    assert stage.state() == "consulted"
    rename("elsewhere", "event_outbox")
    stage.process(code.entry_id)
    assert stage.state() == "token_active"
    assert stage.database.run(partial(feed.number, subscribers=lambda _: [], now=stage.clock())) == 3
