"""Whatever does not follow from the stored notifications and reports is found and named; what does, is not."""

from functools import partial

import pytest
from sqlalchemy import text

from app import consistency
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from tests.integration.stage import Stage


def inconsistencies(stage: Stage, *, limit: int = 200) -> list[str]:
    """Verify everything, batch by batch."""
    found: list[str] = []
    after = None
    while True:
        verify = partial(consistency.verify_batch, vault=stage.vault, after=after, limit=limit)
        batch = stage.database.run(verify, read_only=True)
        found += [drift.what for drift in batch.inconsistencies]
        if batch.up_to is None:
            return found
        after = batch.up_to


def play(stage: Stage) -> None:
    """A life in which everything has happened: a refresh, duplicates, contradictions, parking, a failure."""
    authorization_id = stage.consult("s-1")
    stage.notify(token_canceled("token-9"))
    stage.notify(token_created("s-1", "token-1"))
    stage.notify(authcode_created("s-1", "code-1"))
    stage.notify(authcode_created("s-1", "code-2"))
    stage.notify(token_created("s-1", "token-2"))
    stage.notify(Draft("AUTHCODE_CREATED", auth_state="s-1", auth_code="code-3", result_status="F"))
    stage.report_token(authorization_id, "token-2", replaces="token-1")
    stage.notify(token_canceled("token-1"))
    with stage.broken_code(stage.consult("s-2")):
        stage.notify(authcode_created("s-2", "code-4"))
    stage.notify(token_created("s-2", "token-1"))
    stage.notify(token_canceled("token-2"))


@pytest.mark.parametrize("limit", [1, 200])
def test_an_eventful_life_has_no_drift(stage: Stage, limit: int) -> None:
    play(stage)
    assert stage.state("s-1") == "canceled"
    assert inconsistencies(stage, limit=limit) == []


def test_transitions_of_purged_entries_are_taken_as_given(stage: Stage) -> None:
    play(stage)
    execute(stage, "DELETE FROM inbox WHERE outcome = 'applied'")
    assert inconsistencies(stage) == []


@pytest.mark.parametrize(
    ("tampering", "named"),
    [
        ("UPDATE authorizations SET state = 'token_active'", "the state is token_active"),
        ("UPDATE authorizations SET version = 9", "the version is 9"),
        ("UPDATE authorizations SET sealed_auth_code = NULL", "auth code is on record without its transition"),
        ("DELETE FROM transitions WHERE sequence = 2", "the history has no transition 2"),
        ("DELETE FROM transitions WHERE sequence = 4", "no transition names it"),
        ("UPDATE transitions SET event = 'token_canceled' WHERE sequence = 2", "is not legal in consulted"),
        ("UPDATE transitions SET to_state = 'canceled' WHERE sequence = 2", "says consulted to canceled"),
        ("UPDATE transitions SET notification_id = 1 WHERE sequence = 4", "names entry 1"),
        ("UPDATE transitions SET notification_id = 2 WHERE notification_id = 1", "entry 2 has had 2 effects"),
        ("UPDATE inbox SET outcome = 'rejected' WHERE id = 1", "entry 1 is rejected"),
        ("UPDATE inbox SET outcome = 'parked' WHERE id = 3", "entry 3 is parked"),
        ("UPDATE inbox SET sealed_body = fingerprint", "its body cannot be read"),
        ("DELETE FROM access_tokens", "0 tokens are current"),
        ("UPDATE access_tokens SET superseded_at = created_at", "1 tokens are superseded"),
    ],
)
def test_tampering_is_named(stage: Stage, tampering: str, named: str) -> None:
    stage.consult()
    stage.notify(authcode_created("s-1", "code-1"))
    stage.notify(token_created("s-1", "token-1"))
    stage.notify(token_canceled("token-1"))
    execute(stage, tampering)
    assert any(named in drift for drift in inconsistencies(stage)), inconsistencies(stage)


def test_a_notification_that_was_left_parked_is_named(stage: Stage) -> None:
    """As a lost rendezvous would leave it: parked for a token that is known."""
    stage.report_token(stage.consult(), "token-1", auth_code="code-1")
    stage.notify(token_canceled("token-1"))
    for statement in (
        "UPDATE inbox SET outcome = 'parked', reason = 'unknown_token', authorization_id = NULL",
        "DELETE FROM transitions WHERE sequence = 4",
        "UPDATE authorizations SET state = 'token_active', version = 3",
    ):
        execute(stage, statement)
    assert inconsistencies(stage) == ["entry 1 is parked, but TOKEN_CANCELED would now be applied"]


def execute(stage: Stage, statement: str) -> None:
    stage.database.run(lambda session: session.execute(text(statement)))
