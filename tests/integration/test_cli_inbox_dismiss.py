"""`flask inbox dismiss`: a parked notification that is not ours stays stored, waits no more, and can be purged."""

import getpass
import threading
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.inbox_admin import NotParkedError, dismiss, parked_by_reason
from app.models import InboxEntry
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from tests.integration.shell import Shell
from tests.integration.stage import Stage
from tests.integration.test_races import ROUNDS, at_once

REASON = "a test from the dashboard"


def a_dismissed_entry(shell: Shell, notification: Draft | None = None) -> str:
    entry_id = shell.notify(notification or authcode_created("s-1", "code-1"))
    assert shell.ask("inbox", "dismiss", entry_id, "--reason", REASON) == "Dismissed 1.\n"
    return entry_id


def ended(shell: Shell, entry_id: str) -> tuple[str, str | None]:
    shown = shell.json("inbox", "show", entry_id)
    return shown["outcome"], shown["reason"]


def test_a_dismissed_entry_is_kept_with_the_words_of_the_operator(shell: Shell) -> None:
    entry_id = a_dismissed_entry(shell)
    assert ended(shell, entry_id) == ("dismissed", REASON)
    assert [row["id"] for row in shell.json("inbox", "list", "--outcome", "dismissed")] == [entry_id]
    assert [row["id"] for row in shell.json("inbox", "list", "--reason", REASON)] == [entry_id]
    assert shell.ask("inbox", "show", entry_id).splitlines()[0] == (
        "dismissed: an operator said of it: a test from the dashboard; it waits for nothing any more, until: "
        f"flask inbox process {entry_id}."
    )


def test_a_dismissed_entry_is_in_no_gauge(shell: Shell) -> None:
    a_dismissed_entry(shell)
    parked = shell.service.database.run(partial(parked_by_reason, now=datetime.now(UTC)), read_only=True)
    assert [each.count for each in parked] == [0] * len(parked)


def test_a_redelivery_of_a_dismissed_entry_is_acknowledged_and_leaves_it_so(stage: Stage) -> None:
    entry_id = stage.notify(authcode_created("s-1", "code-1")).entry_id
    assert entry_id is not None
    stage.database.run(partial(dismiss, entry_id=entry_id, reason=REASON))
    again = stage.notify(authcode_created("s-1", "code-1"), request_time="2")
    assert (again.answer.status, again.answer.result_status, again.outcome) == (200, "S", "dismissed")
    (entry,) = stage.entries()
    assert (entry.deliveries, entry.outcome, entry.reason) == (2, "dismissed", REASON)


def test_a_dismissed_entry_is_not_resumed(shell: Shell) -> None:
    dismissed = a_dismissed_entry(shell)
    waiting = shell.notify(authcode_created("s-1", "code-2"))
    shell.ask("authorizations", "consult", "s-1")
    assert ended(shell, dismissed) == ("dismissed", REASON)
    assert ended(shell, waiting) == ("applied", None)


def test_a_dismissed_entry_can_be_processed_again(shell: Shell) -> None:
    entry_id = a_dismissed_entry(shell)
    shell.ask("authorizations", "consult", "s-1")
    assert shell.ask("inbox", "process") == "There was nothing to process.\n"
    assert shell.ask("inbox", "process", entry_id) == "Processed 1: 1 applied.\n"
    assert ended(shell, entry_id) == ("applied", None)


def test_all_that_were_dismissed_can_be_processed_again(shell: Shell) -> None:
    entry_id = a_dismissed_entry(shell)
    assert shell.ask("inbox", "process", "--outcome", "dismissed") == "Processed 1: 1 is still parked.\n"
    assert ended(shell, entry_id) == ("parked", "unknown_auth_state")


def test_a_dismissed_entry_that_breaks_when_it_is_processed_again_is_failed(shell: Shell) -> None:
    entry_id = a_dismissed_entry(shell)
    breaking = update(InboxEntry).where(InboxEntry.id == int(entry_id)).values(sealed_body=b"broken")
    shell.service.database.run(lambda session: session.execute(breaking))
    assert shell.run("inbox", "process", entry_id).exit_code == 1
    assert ended(shell, entry_id) == ("failed", "SealBrokenError")


def test_several_are_dismissed_and_what_is_not_parked_is_refused(shell: Shell) -> None:
    first, second = (shell.notify(token_canceled(token)) for token in ("token-1", "token-2"))
    shell.ask("authorizations", "consult", "s-1")
    applied = shell.notify(authcode_created("s-1", "code-1"))
    result = shell.run("inbox", "dismiss", first, applied, "99", second, first, "--reason", REASON)
    assert (result.exit_code, result.stdout) == (1, "Dismissed 2.\n")
    assert f"Error: Entry {applied} is applied: only those that are parked can be dismissed.\n" in result.stderr
    assert "Error: There is no entry 99 in the inbox; it may have been purged.\n" in result.stderr
    # The end of a long output is what an operator sees.
    said = [line.partition(" ")[0] for line in result.output.splitlines() if line.startswith(("Dismissed", "Error"))]
    assert said == ["Dismissed", "Error:", "Error:"]
    assert [ended(shell, each)[0] for each in (first, second, applied)] == ["dismissed", "dismissed", "applied"]


@pytest.mark.parametrize("arguments", [("1",), ("1", "--reason", ""), ("1", "--reason", "x" * 257), ("--reason", "x")])
def test_a_dismissal_without_ids_or_a_reason_is_a_usage_error(shell: Shell, arguments: tuple[str, ...]) -> None:
    assert shell.run("inbox", "dismiss", *arguments).exit_code == 2


def test_a_dismissed_entry_stays_with_its_authorization_and_verify_has_no_objection(shell: Shell) -> None:
    shell.ask("authorizations", "consult", "s-1")
    entry_id = a_dismissed_entry(shell, token_created("s-1", "token-1"))
    (linked,) = shell.json("authorizations", "show", "s-1")["notifications"]
    assert (linked["id"], linked["outcome"], linked["reason"]) == (entry_id, "dismissed", REASON)
    assert "dismissed" in shell.ask("authorizations", "diagram", "s-1")
    assert shell.ask("authorizations", "verify") == "1 authorization checked: everything agrees.\n"


def test_a_dismissed_entry_is_purged_after_its_age(shell: Shell) -> None:
    entry_id = a_dismissed_entry(shell)
    parked = shell.notify(token_canceled("token-1"))
    old = datetime.now(UTC) - timedelta(days=91)
    aging = update(InboxEntry).values(received_at=old, last_received_at=old)
    shell.service.database.run(lambda session: session.execute(aging))
    assert shell.ask("inbox", "purge", "--older-than", "90d", "--yes") == "Purged 1.\n"
    assert shell.run("inbox", "show", entry_id).exit_code == 1
    assert ended(shell, parked)[0] == "parked"


def test_who_dismissed_is_logged(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    entry_id = a_dismissed_entry(shell)
    (record,) = [each for each in caplog.records if each.getMessage() == "notification dismissed"]
    assert (vars(record)["entry"], vars(record)["by"]) == (int(entry_id), getpass.getuser())


def test_a_dismissal_at_the_instant_of_the_consult_is_either_refused_or_holds(stage: Stage) -> None:
    outcomes = set()
    for number in range(ROUNDS):
        auth_state = f"s-{number}"
        entry_id = stage.notify(authcode_created(auth_state, "code-1")).entry_id
        assert entry_id is not None
        refused = threading.Event()

        def dismiss_it(entry_id: int = entry_id, refused: threading.Event = refused) -> None:
            try:
                stage.database.run(partial(dismiss, entry_id=entry_id, reason=REASON))
            except NotParkedError:
                refused.set()

        at_once(partial(stage.consult, auth_state), dismiss_it)
        outcome = stage.database.run(partial(_outcome, entry_id=entry_id), read_only=True)
        outcomes.add(outcome)
        assert outcome == ("applied" if refused.is_set() else "dismissed")
        assert stage.state(auth_state) == ("authcode_issued" if refused.is_set() else "consulted")
    assert stage.waiting() == {}
    assert outcomes <= {"applied", "dismissed"}


def _outcome(session: Session, entry_id: int) -> str:
    return session.get_one(InboxEntry, entry_id).outcome


def test_a_dismissal_without_a_reason_is_refused(shell: Shell) -> None:
    shell.notify(token_canceled("token-1"))
    result = shell.run("inbox", "dismiss", "1", "--reason", " ")
    assert result.exit_code == 2
    assert shell.json("inbox", "show", "1")["outcome"] == "parked"
