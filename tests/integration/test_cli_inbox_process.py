"""`flask inbox process`: stored notifications are processed again, and counted by outcome."""

from functools import partial

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.simulator.draft import authcode_created, token_canceled, token_created
from tests.integration.shell import Shell


def test_process_replays_all_that_failed_or_is_parked(shell: Shell) -> None:
    fails = shell.notify(authcode_created("s-1", "code-1"))
    shell.change_entry(fails, outcome="failed", reason="KeyError")
    shell.consult()
    stays = shell.notify(token_canceled("token-1"))
    assert shell.ask("inbox", "process") == "Processed 2: 1 applied, 1 is still parked.\n"
    assert shell.json("inbox", "show", fails)["outcome"] == "applied"
    assert shell.json("inbox", "show", stays)["outcome"] == "parked"


def test_process_replays_one_outcome(shell: Shell) -> None:
    shell.notify(token_canceled("token-1"))
    assert shell.ask("inbox", "process", "--outcome", "failed") == "There was nothing to process.\n"
    assert shell.ask("inbox", "process", "--outcome", "parked") == "Processed 1: 1 is still parked.\n"


def test_process_counts_an_entry_that_it_resumes_once(shell: Shell) -> None:
    fails = shell.notify(authcode_created("s-1", "code-1"))
    shell.change_entry(fails, outcome="failed", reason="KeyError")
    shell.notify(token_created("s-1", "token-1"))
    shell.consult()
    assert shell.ask("inbox", "process") == "Processed 2: 2 applied.\n"


def test_an_id_that_is_given_several_times_is_processed_once(shell: Shell) -> None:
    entry_id = shell.notify(token_canceled("token-1"))
    assert shell.ask("inbox", "process", entry_id, entry_id, entry_id) == "Processed 1: 1 is still parked.\n"


def test_an_entry_that_stays_parked_and_is_resumed_by_a_later_one_counts_once(shell: Shell) -> None:
    shell.consult()
    shell.notify(token_created("s-1", "token-1"))
    code = shell.notify(authcode_created("s-1", "code-1"))
    shell.change_entry(code, outcome="failed", reason="KeyError")
    for statement in (
        "UPDATE authorizations SET state = 'consulted', version = 1, sealed_auth_code = NULL",
        "DELETE FROM access_tokens",
        "DELETE FROM transitions WHERE sequence > 1",
        "UPDATE inbox SET outcome = 'parked', reason = 'early' WHERE id = 1",
    ):
        shell.service.database.run(partial(Session.execute, statement=text(statement)))
    assert shell.ask("inbox", "process") == "Processed 2: 2 applied.\n"


def test_process_ends_with_1_if_one_fails_again(shell: Shell) -> None:
    entry_id = shell.notify(token_canceled("token-1"))
    shell.change_entry(entry_id, sealed_body=b"broken")
    result = shell.run("inbox", "process", entry_id)
    assert result.exit_code == 1
    assert result.stdout == "Processed 1: 1 failed.\n"
    assert shell.json("inbox", "show", entry_id)["reason"] == "SealBrokenError"


def test_process_of_a_concluded_or_unknown_entry_is_refused_before_anything_is_done(shell: Shell) -> None:
    parked = shell.notify(token_canceled("token-1"))
    shell.consult()
    closed = shell.notify(authcode_created("s-1", "code-1"))
    shell.change_entry(parked, sealed_body=b"broken")
    for other, sentence in ((closed, f"Entry {closed} is applied"), ("99", "There is no entry 99")):
        result = shell.run("inbox", "process", parked, other)
        assert result.exit_code == 1
        assert sentence in result.stderr
    assert shell.json("inbox", "show", parked)["outcome"] == "parked"


@pytest.mark.parametrize("arguments", [("1", "--outcome", "failed"), ("--outcome", "applied"), ("x",), ("0",)])
def test_an_impossible_replay_is_a_usage_error(shell: Shell, arguments: tuple[str, ...]) -> None:
    assert shell.run("inbox", "process", *arguments).exit_code == 2
