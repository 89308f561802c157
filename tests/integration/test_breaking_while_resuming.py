"""An entry that breaks while others are resumed or replayed fails by itself, and is rolled back whole."""

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import text

from app import authorizations, processing, tokens
from app.secret import Secret
from app.simulator.draft import authcode_created, token_canceled, token_created
from tests.builders import CLIENT_ID
from tests.integration.stage import Stage, a_stage

IN_THE_WAY = text(
    "INSERT INTO transitions (authorization_id, sequence, event, to_state, cause, at) "
    "SELECT authorization_id, 2, event, to_state, cause, at FROM transitions"
)


def test_a_resumed_entry_that_breaks_after_its_advance_is_rolled_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.notify(authcode_created("s-1", "code-1"))
    stage.notify(authcode_created("s-1", "code-2"))
    # Once with the others, and once more alone.
    break_once(monkeypatch, authorizations, "learn_user", times=2)
    stage.consult()
    assert stage.outcomes() == [("failed", "ValueError"), ("applied", None)]
    assert [move[1] for move in stage.moves()] == ["consult", "authcode_created"]


def test_a_token_that_cannot_be_written_stays_unknown_to_its_parked_cancellation(stage: Stage) -> None:
    stage.notify(token_created("s-1", "token-1"))
    stage.notify(token_created("s-1", "token-2"))
    stage.notify(token_canceled("token-1"))
    refuse(stage, "token-1")
    stage.consult(flow="direct")
    assert stage.outcomes() == [("failed", "IntegrityError"), ("applied", None), ("parked", "unknown_token")]
    assert stage.state() == "token_active"


def refuse(stage: Stage, token: str) -> None:
    """Have the database refuse one token."""
    index = tokens.index(stage.vault, CLIENT_ID, Secret(token)).hex()
    statement = (
        f"ALTER TABLE access_tokens ADD CHECK (token_index <> '\\x{index}')"
        if stage.database.engine.dialect.name == "postgresql"
        else f"CREATE TRIGGER no BEFORE INSERT ON access_tokens WHEN NEW.token_index = x'{index}' "
        "BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    stage.database.run(lambda session: session.connection().exec_driver_sql(statement))


def test_an_entry_that_cannot_be_written_fails_and_not_the_parked_one_behind_it(stage: Stage) -> None:
    stage.consult()
    stage.notify(token_created("s-1", "token-1"))
    stage.notify(token_created("s-1", "token-2"))
    stage.notify(token_canceled("token-2"))
    stage.database.run(lambda session: session.execute(IN_THE_WAY))
    receipt = stage.notify(authcode_created("s-1", "code-1"))
    assert (receipt.answer.status, receipt.outcome, receipt.reason) == (200, "failed", "IntegrityError")
    assert [outcome for outcome, _ in stage.outcomes()] == ["parked", "parked", "parked", "failed"]
    assert stage.state() == "consulted"


@pytest.mark.parametrize("kind", ["failed", "parked"])
def test_a_replay_that_breaks_leaves_the_outcome_of_another_transaction(
    postgresql_url: str, alipay_key: RSAPrivateKey, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Another process has the right key, or a newer version. On SQLite one writes at a time."""
    stage = a_stage(postgresql_url, alipay_key)
    found = stage.consult()
    code = authcode_created("s-1", "code-1")
    if kind == "failed":
        with stage.broken_code(found):
            entry = stage.notify(code).entry_id
    else:
        entry = stage.notify(token_created("s-1", "token-1")).entry_id
    assert entry is not None

    def resume_elsewhere() -> None:
        if kind == "failed":
            stage.process(entry)
        else:
            stage.notify(code)
        assert stage.outcomes()[0] == ("applied", None)

    break_once(monkeypatch, processing, "_read_again", first=resume_elsewhere)
    stage.process(entry)
    assert stage.outcomes()[0] == ("applied", None)
    stage.database.close()


def break_once(
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,  # noqa: ANN401 -- a module
    name: str,
    *,
    first: Callable[[], None] = lambda: None,
    times: int = 1,
) -> None:
    """Break a function the first time, or times, that it is called."""
    real, left = getattr(owner, name), [times]

    def broken(*_: object, **__: object) -> None:
        left[0] -= 1
        if not left[0]:
            monkeypatch.setattr(owner, name, real)
        first()
        raise ValueError

    monkeypatch.setattr(owner, name, broken)


def test_an_entry_of_a_type_that_has_become_known_is_parked_for_its_token(stage: Stage) -> None:
    """As an earlier release has stored it, which did not know its type."""
    entry = stage.notify(token_canceled("token-1")).entry_id
    assert entry is not None
    earlier = text("UPDATE inbox SET type = 'TOKEN_PAUSED', token_index = NULL, reason = 'unknown_type'")
    stage.database.run(lambda session: session.execute(earlier))
    stage.process(entry)
    assert stage.outcomes() == [("parked", "unknown_token")]
    stage.consult(flow="direct")
    stage.notify(token_created("s-1", "token-1"))
    assert stage.state() == "canceled"
