"""`flask inbox purge`: old notifications with a final outcome are deleted, whatever the clocks said, and no others."""

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from app import inbox_admin
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from tests.builders import an_environ
from tests.integration.shell import Shell, run_flask_at_terminal
from tests.integration.stage import Stage

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=91)
AHEAD = NOW + timedelta(days=4000)


def a_concluded_entry(shell: Shell, number: int, *, received: datetime, last_received: datetime | None = None) -> str:
    entry_id = shell.notify(Draft("TOKEN_CANCELED", access_token=f"token-{number}", result_status="F"))
    shell.change_entry(entry_id, received_at=received, last_received_at=last_received or received)
    return entry_id


def left(shell: Shell) -> list[str]:
    return [row["id"] for row in shell.json("inbox", "list", "--oldest-first")]


def test_purge_deletes_old_final_entries_and_leaves_history(shell: Shell) -> None:
    shell.consult()
    old = datetime.now(UTC) - timedelta(days=91)
    for entry_id in (shell.notify(authcode_created("s-1", "code-1")), shell.notify(token_canceled("token-9"))):
        shell.change_entry(entry_id, received_at=old, last_received_at=old)
    young = shell.notify(token_created("s-1", "token-1"))
    assert shell.ask("inbox", "purge", "--older-than", "90d", "--yes") == "Purged 1.\n"
    assert [row["id"] for row in shell.json("inbox", "list")] == [young, "2"]
    assert [move["notificationId"] for move in shell.json("authorizations", "show", "s-1")["history"]] == [
        None,
        "1",
        "3",
    ]


def test_purge_leaves_entries_that_were_redelivered_lately(shell: Shell) -> None:
    """What Alipay still repeats must be known when it comes again."""
    shell.consult()
    entry_id = shell.notify(authcode_created("s-1", "code-1"))
    shell.change_entry(entry_id, received_at=datetime.now(UTC) - timedelta(days=91))
    assert shell.ask("inbox", "purge", "--older-than", "90d", "--yes") == "Purged 0.\n"


@pytest.mark.parametrize("age", ["47h", "1d", "0w"])
def test_purge_refuses_an_age_within_alipays_redelivery(shell: Shell, age: str) -> None:
    result = shell.run("inbox", "purge", "--older-than", age, "--yes")
    assert result.exit_code == 2
    assert "two days" in result.stderr


@pytest.mark.parametrize("age", ["48h", "2d", "1w", "99999w"])
def test_purge_takes_hours_days_and_weeks(shell: Shell, age: str) -> None:
    assert shell.ask("inbox", "purge", "--older-than", age, "--yes") == "Purged 0.\n"


@pytest.mark.parametrize("age", ["", "90", "d", "-3d", "1.5d", "90 d", "1y", "999999d"])
def test_an_impossible_age_is_a_usage_error(shell: Shell, age: str) -> None:
    assert shell.run("inbox", "purge", "--older-than", age).exit_code == 2


def test_an_entry_of_a_clock_that_was_ahead_stops_no_purge(shell: Shell) -> None:
    ahead = a_concluded_entry(shell, 1, received=AHEAD)
    a_concluded_entry(shell, 2, received=LONG_AGO)
    said = shell.ask("inbox", "purge", "--older-than", "90d", "--yes")
    assert said.splitlines() == [
        "Purged 1.",
        "1 entry claims a time to come, and will be kept for as long: look at the clocks.",
    ]
    assert left(shell) == [ahead]


def test_an_entry_whose_redelivery_came_by_a_clock_that_was_ahead_is_named_too(shell: Shell) -> None:
    ahead = [
        a_concluded_entry(shell, 1, received=LONG_AGO, last_received=AHEAD),
        a_concluded_entry(shell, 2, received=AHEAD),
    ]
    assert "2 entries claim a time to come" in shell.ask("inbox", "purge", "--older-than", "90d", "--yes")
    assert left(shell) == ahead


def test_clocks_may_differ_by_moments(shell: Shell) -> None:
    a_concluded_entry(shell, 1, received=datetime.now(UTC) + timedelta(seconds=30))
    assert shell.ask("inbox", "purge", "--older-than", "90d", "--yes") == "Purged 0.\n"


def test_purge_goes_batch_by_batch_and_reads_only_old_entries(stage: Stage) -> None:
    for number in range(5):
        stage.notify(Draft("TOKEN_CANCELED", access_token=f"token-{number}", result_status="F"))
        stage.clock.forward(days=1)
    stage.notify(Draft("TOKEN_CANCELED", access_token="parked"))
    before = stage.clock.now - timedelta(days=2)
    after, batches = None, []
    while True:
        purge = partial(inbox_admin.purge_batch, older_than=before, now=stage.clock.now, after=after, limit=2)
        batch = stage.database.run(purge)
        if batch.up_to is None:
            break
        batches.append(batch.deleted)
        after = batch.up_to
    assert batches == [2, 1]
    assert len(stage.entries()) == 3


def test_purge_asks_first_at_a_terminal(sqlite_url: str, keyring_path: Path) -> None:
    environ = an_environ(sqlite_url, keyring_path)
    arguments = ("inbox", "purge", "--older-than", "90d")
    question = b"[y/N]: "
    assert "Purged" not in run_flask_at_terminal(*arguments, environ=environ, answers={question: b"n"})
    assert "Purged 0." in run_flask_at_terminal(*arguments, environ=environ, answers={question: b"y"})
    assert "Purged 0." in run_flask_at_terminal(*arguments, "--yes", environ=environ)


@pytest.mark.parametrize("stdin", [b"", b"y\n"], ids=["nothing", "a yes in a pipe"])
def test_purge_without_a_terminal_needs_a_yes_among_its_options(shell: Shell, stdin: bytes) -> None:
    a_concluded_entry(shell, 1, received=LONG_AGO)
    result = shell.run("inbox", "purge", "--older-than", "90d", stdin=stdin)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Nothing was done: there is no terminal to ask at. Add --yes to do it without." in result.stderr
    assert len(shell.json("inbox", "list")) == 1


@pytest.mark.parametrize("oldest_first", [False, True])
def test_a_purged_inbox_lists_nothing(shell: Shell, *, oldest_first: bool) -> None:
    a_concluded_entry(shell, 1, received=LONG_AGO)
    assert shell.ask("inbox", "purge", "--older-than", "90d", "--yes") == "Purged 1.\n"
    assert shell.json("inbox", "list", *(["--oldest-first"] if oldest_first else [])) == []
