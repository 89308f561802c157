"""Commands that work through millions of rows: in pieces, each short, none of them given up because of a moment."""

from functools import partial

import click
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app import inbox_admin, rotation
from app.cli.current_service import look_up
from app.cli.long_running import run_step
from app.database import DatabaseUnavailableError
from app.limits import LOOK_UP_SECONDS_MAX
from app.models import Authorization
from app.simulator.draft import token_canceled
from app.vocabulary import OPEN_OUTCOMES
from tests.integration.shell import Shell
from tests.integration.stage import Stage


def statement_timeout(session: Session) -> str:
    return str(session.scalar(text("SHOW statement_timeout")))


def test_a_look_up_may_take_longer_than_a_request(shell: Shell) -> None:
    if shell.service.settings.uses_sqlite:
        pytest.skip("SQLite has no timeout for statements")
    with shell.app.app_context(), click.Context(click.Command("test")):
        assert look_up(statement_timeout) == f"{LOOK_UP_SECONDS_MAX}s".replace("60s", "1min")
    # The same connection, lent to a request after that.
    assert shell.service.database.run(statement_timeout) == "4s"


def test_a_batch_of_resealing_looks_at_so_many_rows_whatever_they_hold(stage: Stage) -> None:
    """None of them has a reason; a search for the next hundred that have one would read all."""
    for number in range(5):
        stage.consult(f"s-{number}")
    sealed_column = next(
        each for each in rotation.SEALED_COLUMNS if each.attribute is Authorization.sealed_cancel_reason
    )
    batch = partial(rotation.reseal_batch, vault=stage.vault, sealed_column=sealed_column, window=2)
    seen, after = [], None
    while (done := stage.database.run(partial(batch, after=after))).up_to is not None:
        seen.append(done.seen)
        after = done.up_to
    assert seen == [2, 2, 1]


def test_long_work_counts_nothing_on_postgresql(postgresql_stage: Stage) -> None:
    with postgresql_stage.overheard() as overheard:
        postgresql_stage.database.run(rotation.rows_to_look_at)
    assert sum("reltuples" in statement for statement, _ in overheard.statements) == len(rotation.SEALED_COLUMNS)
    assert not any("count(" in statement for statement, _ in overheard.statements)


def test_what_is_to_be_processed_again_is_read_in_inbox_sequence_page_by_page(stage: Stage) -> None:
    ids = [stage.notify(token_canceled(f"token-{number}")).entry_id for number in range(5)]
    stage.database.run(lambda session: session.execute(text("UPDATE inbox SET outcome = 'failed' WHERE id IN (2, 3)")))
    pages, after = [], 0
    while page := stage.database.run(partial(inbox_admin.replayable_ids, outcomes=OPEN_OUTCOMES, after=after, limit=2)):
        pages.append(list(page))
        after = page[-1]
    assert pages == [ids[:2], ids[2:4], ids[4:]]


def test_a_piece_that_the_database_was_in_trouble_for_is_done_again(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    tries = iter([DatabaseUnavailableError("LockNotAvailable"), None])

    def piece() -> str:
        if (trouble := next(tries)) is not None:
            raise trouble
        return "done"

    with shell.app.app_context(), click.Context(click.Command("test")):
        assert run_step(piece) == "done"
    assert capsys.readouterr().err == "The database is unavailable (LockNotAvailable). Trying again.\n"
