"""A newer release works on the same database, and writes outcomes, states and flows that this one does not know."""

from collections.abc import Sequence

import pytest
from sqlalchemy import text, update

from app.models import Authorization
from app.receiver import Receipt
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from tests.integration.shell import Shell
from tests.integration.stage import Stage
from tests.integration.test_consistency import inconsistencies


def deliver_batch(stage: Stage, drafts: Sequence[Draft]) -> list[Receipt]:
    """Deliver several in one transaction, or fail."""
    return stage.notify_batch([draft.body() for draft in drafts])


def write(stage: Stage, statement: str) -> None:
    stage.database.run(lambda session: session.execute(text(statement)))


def set_word(stage: Stage, column: str, word: str) -> None:
    of_it = Authorization.auth_state == "s-1"
    stage.database.run(lambda session: session.execute(update(Authorization).where(of_it).values({column: word})))


def test_a_batch_with_a_redelivery_of_a_newer_releases_entry_does_not_fail(stage: Stage) -> None:
    stage.consult()
    stage.notify(token_created("s-1", "token-1"))
    write(stage, "UPDATE inbox SET outcome = 'deferred', reason = 'a_new_reason'")
    receipts = deliver_batch(stage, [token_created("s-1", "token-1"), authcode_created("s-1", "code-1")])
    assert [(each.outcome, each.reason) for each in receipts] == [("deferred", "a_new_reason"), ("applied", None)]
    assert stage.entries()[0].deliveries == 2


def test_a_redelivery_of_what_a_newer_release_has_concluded_is_acknowledged_and_changes_nothing(stage: Stage) -> None:
    stage.consult()
    first = stage.notify(token_created("s-1", "token-1"))
    write(stage, "UPDATE inbox SET outcome = 'deferred', reason = 'a_new_reason'")
    again = stage.notify(token_created("s-1", "token-1"))
    assert (again.answer.status, again.entry_id, again.outcome) == (200, first.entry_id, "deferred")
    assert first.entry_id is not None
    assert stage.process(first.entry_id) == []
    stage.notify(authcode_created("s-1", "code-1"))
    assert stage.outcomes() == [("deferred", "a_new_reason"), ("applied", None)]
    assert inconsistencies(stage) == []


@pytest.mark.parametrize("column", ["state", "flow"])
def test_an_authorization_in_a_state_of_a_newer_release_breaks_no_batch_and_loses_nothing(
    stage: Stage, column: str
) -> None:
    for name in ("s-1", "s-2"):
        stage.consult(name, flow="direct")
    stage.notify(token_created("s-1", "token-1"))
    before = {"state": "token_active", "flow": "direct"}[column]
    set_word(stage, column, "suspended")
    receipts = deliver_batch(stage, [token_canceled("token-1"), token_created("s-2", "token-2")])
    assert sorted((str(each.outcome), each.reason) for each in receipts) == [
        ("applied", None),
        ("failed", "StateOfNewerRelease"),
    ]
    assert len(stage.moves("s-1")) == 2
    assert inconsistencies(stage) == ["its state or flow was written by a newer release, and only that can verify it"]
    # By a process that knows the state.
    set_word(stage, column, before)
    assert stage.notify(token_canceled("token-1")).outcome == "applied"
    assert stage.state("s-1") == "canceled"
    assert inconsistencies(stage) == []


def test_a_flow_of_a_newer_release_is_not_corrected(stage: Stage) -> None:
    stage.consult()
    set_word(stage, "flow", "a_new_flow")
    with pytest.raises(ValueError, match="a_new_flow"):
        stage.consult(flow="direct")
    document = stage.document()
    assert (document["flow"], len(document["history"])) == ("a_new_flow", 1)


def test_the_shell_shows_what_a_newer_release_has_written(shell: Shell) -> None:
    shell.ask("authorizations", "consult", "s-1", "--flow", "direct")
    applied = shell.notify(token_created("s-1", "token-1"))
    deferred = shell.notify(authcode_created("s-1", "code-1"))
    concluded = "UPDATE inbox SET outcome = 'deferred', reason = 'a_new_reason' WHERE type = 'AUTHCODE_CREATED'"
    for statement in (
        "UPDATE inbox SET found_state = 'suspended'",
        concluded,
        "UPDATE authorizations SET state = 'suspended', flow = 'a_new_flow'",
    ):
        with shell.service.database.engine.begin() as connection:
            connection.execute(text(statement))
        assert shell.json("inbox", "show", applied)["explanation"] == "applied: it moved the authorization."
        shell.ask("inbox", "show", deferred)
    assert shell.json("inbox", "show", deferred)["explanation"] == "deferred: the reason is a_new_reason."
    assert shell.json("authorizations", "show", "s-1")["state"] == "suspended"
    assert [each["outcome"] for each in shell.json("inbox", "list")] == ["deferred", "applied"]
    drawn = shell.run("authorizations", "diagram", "s-1")
    assert (drawn.exit_code, drawn.stderr) == (
        1,
        "Error: A newer release has written 'suspended', which this one does not know.\n",
    )
