"""Beside a later release: an outcome that only that one knows stops neither a delivery nor a look at the inbox."""

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.models import InboxEntry
from app.simulator.draft import authcode_created, token_created
from tests.integration.shell import Shell
from tests.integration.stage import Stage


def end_in_a_way_of_the_later_release(session: Session) -> None:
    session.execute(update(InboxEntry).values(outcome="postponed", reason="until_monday"))


def test_a_redelivery_of_what_a_later_release_has_ended_is_acknowledged_and_leaves_it_so(stage: Stage) -> None:
    stage.consult()
    stage.notify(authcode_created("s-1", "code-1"))
    stage.database.run(end_in_a_way_of_the_later_release)
    again = stage.notify(authcode_created("s-1", "code-1"), request_time="2")
    assert (again.answer.status, again.answer.result_status, again.outcome) == (200, "S", "postponed")
    bodies = [authcode_created("s-1", "code-1").body(), token_created("s-1", "token-1").body()]
    assert [each.outcome for each in stage.notify_batch(bodies)] == ["postponed", "applied"]
    assert stage.outcomes() == [("postponed", "until_monday"), ("applied", None)]
    assert stage.entries()[0].deliveries == 3


def test_what_a_later_release_has_ended_can_be_looked_at(shell: Shell) -> None:
    shell.ask("authorizations", "consult", "s-1")
    entry_id = shell.notify(authcode_created("s-1", "code-1"))
    shell.service.database.run(end_in_a_way_of_the_later_release)
    assert "postponed: until_monday" in shell.ask("inbox", "list")
    assert shell.ask("inbox", "show", entry_id).startswith("postponed: the reason is until_monday.\n")
    assert shell.json("authorizations", "show", "s-1")["notifications"][0]["outcome"] == "postponed"
    assert shell.run("inbox", "process", entry_id).exit_code == 1
