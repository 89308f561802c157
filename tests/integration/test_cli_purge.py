"""`flask inbox purge`: whatever the clocks said, what is old and concluded goes, and nothing else."""

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import update

from app.inbox import upkeep
from app.models import InboxEntry
from app.simulator.draft import Draft
from tests.builders import an_environ
from tests.integration.shell import Shell, run_flask_at_terminal
from tests.integration.stage import Stage

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=91)
AHEAD = NOW + timedelta(days=4000)


def a_concluded_entry(shell: Shell, number: int, *, received: datetime, last_received: datetime | None = None) -> str:
    entry_id = shell.notify(Draft("TOKEN_CANCELED", access_token=f"token-{number}", result_status="F"))
    times = {"received_at": received, "last_received_at": last_received or received}
    change = update(InboxEntry).where(InboxEntry.id == int(entry_id)).values(times)
    shell.service.database.run(lambda session: session.execute(change))
    return entry_id


def left(shell: Shell) -> list[str]:
    return [row["id"] for row in shell.json("inbox", "list", "--oldest-first")]


def test_an_entry_of_a_clock_that_was_ahead_stops_no_purge(shell: Shell) -> None:
    ahead = a_concluded_entry(shell, 1, received=AHEAD)
    a_concluded_entry(shell, 2, received=LONG_AGO)
    said = shell.ask("inbox", "purge", "--older-than", "90d")
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
    assert "2 entries claim a time to come" in shell.ask("inbox", "purge", "--older-than", "90d")
    assert left(shell) == ahead


def test_clocks_may_differ_by_moments(shell: Shell) -> None:
    a_concluded_entry(shell, 1, received=datetime.now(UTC) + timedelta(seconds=30))
    assert shell.ask("inbox", "purge", "--older-than", "90d") == "Purged 0.\n"


def test_purge_goes_batch_by_batch_and_reads_only_what_is_old(stage: Stage) -> None:
    for number in range(5):
        stage.notify(Draft("TOKEN_CANCELED", access_token=f"token-{number}", result_status="F"))
        stage.clock.forward(days=1)
    stage.notify(Draft("TOKEN_CANCELED", access_token="parked"))
    before = stage.clock.now - timedelta(days=2)
    after, batches = None, []
    while True:
        purge = partial(upkeep.purge_batch, older_than=before, now=stage.clock.now, after=after, limit=2)
        batch = stage.database.run(purge)
        if batch.up_to is None:
            break
        batches.append(batch.deleted)
        after = batch.up_to
    assert batches == [2, 1]
    assert len(stage.entries()) == 3


def test_purge_asks_first_at_a_terminal(sqlite_url: str, keyring: Path) -> None:
    environ = an_environ(sqlite_url, keyring)
    arguments = ("inbox", "purge", "--older-than", "90d")
    question = b"[y/N]: "
    assert "Purged" not in run_flask_at_terminal(*arguments, environ=environ, answers={question: b"n"})
    assert "Purged 0." in run_flask_at_terminal(*arguments, environ=environ, answers={question: b"y"})
    assert "Purged 0." in run_flask_at_terminal(*arguments, "--yes", environ=environ)


@pytest.mark.parametrize("oldest_first", [False, True])
def test_a_purged_inbox_lists_nothing(shell: Shell, *, oldest_first: bool) -> None:
    a_concluded_entry(shell, 1, received=LONG_AGO)
    assert shell.ask("inbox", "purge", "--older-than", "90d", "--yes") == "Purged 1.\n"
    assert shell.json("inbox", "list", *(["--oldest-first"] if oldest_first else [])) == []
