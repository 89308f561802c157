"""`flask calls`: each call is listed and shown with a sentence for how it stands, and made once more when asked."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

import pytest

from app import reports
from app.alipay.call import Done, Refused
from app.gateway.recording import end_overdue
from app.simulator.draft import authcode_created, token_created
from tests.builders import CLIENT_ID
from tests.gateway import CONSULTED, TOKEN
from tests.integration.calls_shell import GRANTED, IN_PROCESS, SILENCE, SPENT, CallShell, a_call_shell
from tests.integration.shell import run_flask_at_terminal

NO_CALL = "0193b0de-0000-7000-8000-000000000000"


@pytest.fixture
def shell(database_url: str, keyring_path: Path, tmp_path: Path) -> Iterator[CallShell]:
    """An operator of a service that makes calls."""
    with a_call_shell(database_url, keyring_path, tmp_path) as shell:
        yield shell


def first_line(shell: CallShell, call_id: str) -> str:
    return shell.ask("calls", "show", call_id).splitlines()[0]


# --- listing ---------------------------------------------------------------------------------------------------------


def test_calls_are_listed_newest_first(shell: CallShell) -> None:
    first, second = shell.agree("s-1"), shell.agree("s-2")
    rows = shell.json("calls", "list")
    assert [(row["id"], row["kind"], row["status"], row["authState"]) for row in rows] == [
        (second, "exchange", "due", "s-2"),
        (first, "exchange", "due", "s-1"),
    ]
    listed = shell.ask("calls", "list")
    assert listed.splitlines()[0].split() == ["ID", "CREATED", "KIND", "STATUS", "AUTH", "STATE"]
    assert first in listed


def test_a_listing_is_narrowed(shell: CallShell) -> None:
    done = shell.agree("s-1")
    shell.answer(GRANTED)
    due = shell.agree("s-2")

    def ids(*options: str) -> list[str]:
        return [row["id"] for row in shell.json("calls", "list", *options)]

    client = shell.json("calls", "list")[0]["clientId"]
    assert ids("--status", "done") == [done]
    assert ids("--status", "due", "--kind", "exchange") == [due]
    assert ids("--kind", "revoke") == []
    assert ids("--auth-state", "s-1") == [done]
    assert ids("--auth-state", "s-9") == []
    assert ids("--client", client) == [due, done]
    assert ids("--client", client, "--status", "done", "--auth-state", "s-2") == []
    assert shell.run("calls", "list", "--status", "over").exit_code == 2
    slip = shell.run("calls", "list", "--client", "SLIP")
    assert (slip.exit_code, "SLIP. Known are:" in slip.stderr) == (1, True)


def test_a_listing_says_how_to_go_on(shell: CallShell) -> None:
    first, second = shell.agree("s-1"), shell.agree("s-2")
    result = shell.run("calls", "list", "--limit", "1")
    assert f"Go on with --cursor {second}," in result.stderr
    assert [row["id"] for row in shell.json("calls", "list", "--cursor", second)] == [first]


def test_an_empty_listing_is_an_empty_array(shell: CallShell) -> None:
    assert shell.json("calls", "list") == []


def test_a_terminal_of_80_columns_shows_all_of_it(sqlite_url: str, keyring_path: Path, tmp_path: Path) -> None:
    with a_call_shell(sqlite_url, keyring_path, tmp_path) as shell:
        call_id = shell.agree("an authState that takes more room than the table leaves for it")
        shell.answer(SPENT)
    shown = run_flask_at_terminal("calls", "list", environ=shell.environ)
    assert max(map(len, shown.splitlines())) <= 80
    assert call_id in shown
    assert "\n  an authState that takes more room" in shown
    whole = run_flask_at_terminal("calls", "show", call_id, environ=shell.environ)
    assert max(map(len, whole.splitlines()[1:])) <= 80


# --- showing ---------------------------------------------------------------------------------------------------------


def test_show_has_every_attempt_and_no_secret(shell: CallShell) -> None:
    call_id = shell.agree()
    shell.answer(SILENCE)
    shell.change_call(call_id, due_at=datetime.now(UTC))
    shell.answer(GRANTED)
    document = shell.json("calls", "show", call_id)
    names = ("number", "milliseconds", "httpStatus", "resultStatus", "resultCode", "error")
    assert [tuple(each[name] for name in names) for each in document["attemptsMade"]] == [
        (1, 10_000, None, None, None, SILENCE.why),
        (2, 45, 200, "S", "SUCCESS", None),
    ]
    assert (document["authState"], document["status"], document["remedy"]) == ("s-1", "done", None)
    shown = shell.ask("calls", "show", call_id)
    for part in ("done: Alipay has given a token for the code.", "S SUCCESS", SILENCE.why, "s-1", "token_active"):
        assert part in shown
    everything = shown + str(document) + shell.ask("calls", "list") + str(shell.json("calls", "list"))
    secrets = ("code of s-1", TOKEN["accessToken"], TOKEN["refreshToken"], TOKEN["userLoginId"])
    assert not [each for each in secrets if str(each) in everything]


def test_a_wallet_that_may_be_misspelt_is_shown_and_warned_of(shell: CallShell) -> None:
    result = shell.run("authorizations", "consult", "s-1", "--wallet", "GCSAH")
    assert (result.exit_code, result.stderr) == (0, "GCSAH may be misspelt: GCASH is a wallet that is known.\n")
    shell.notify(authcode_created("s-1", "code of s-1"))
    assert "GCSAH (may be misspelt: GCASH is known)" in shell.ask("calls", "show", shell.newest_call())
    assert shell.run("authorizations", "consult", "s-2", "--wallet", "GCASH").stderr == ""


def test_a_call_that_no_worker_has_begun_says_so_after_a_while(shell: CallShell) -> None:
    call_id = shell.agree()
    assert first_line(shell, call_id).startswith("due: attempt 1 is due at ")
    assert shell.ask("calls", "show", call_id).endswith("\nAttempts\nnone\n")
    shell.change_call(call_id, due_at=datetime.now(UTC) - timedelta(minutes=1))
    assert first_line(shell, call_id).endswith(
        "No background worker has begun it: flask serve runs one, and so does flask work."
    )


def test_a_call_under_way_says_so(shell: CallShell) -> None:
    call_id = shell.agree()
    shell.answer(None)
    assert first_line(shell, call_id) == "due: attempt 1 is under way, and its end is not on record yet."
    assert "its end is not on record" in shell.ask("calls", "show", call_id).splitlines()[-1]


def test_a_call_that_is_repeated_says_when_and_why(shell: CallShell) -> None:
    call_id = shell.agree()
    shell.answer(IN_PROCESS)
    line = first_line(shell, call_id)
    assert line.startswith("due: attempt 2 is due at ")
    assert line.endswith(IN_PROCESS.why)


def test_a_refused_call_says_what_is_to_be_done_once(shell: CallShell) -> None:
    call_id = shell.agree()
    shell.answer(SPENT)
    remedy = "The code is spent: the user must agree again, with a new authState."
    assert first_line(shell, call_id) == (
        f"failed: Alipay refused it (INVALID_AUTHCODE: The auth code is invalid.). {remedy}"
    )
    assert shell.ask("calls", "show", call_id).count(remedy) == 1
    assert shell.json("calls", "show", call_id)["remedy"] == remedy


def test_a_code_that_is_unknown_after_an_attempt_without_an_end_is_undetermined(shell: CallShell) -> None:
    call_id = shell.agree()
    shell.answer(SILENCE)
    shell.change_call(call_id, due_at=datetime.now(UTC))
    shell.answer(SPENT)
    shown = shell.ask("calls", "show", call_id)
    assert shown.startswith("undetermined: Alipay knows this code no more, after an attempt whose outcome is unknown")
    assert f"flask calls retry {call_id}" in shown
    shell.notify(token_created("s-1", "the token"))
    assert shell.json("authorizations", "show", "s-1")["state"] == "token_active"


def test_what_has_come_otherwise_is_unneeded(shell: CallShell) -> None:
    call_id = shell.agree()
    shell.notify(token_created("s-1", "the token"))
    assert first_line(shell, call_id) == "unneeded: The token has come otherwise."


def test_a_wallet_that_nobody_named_is_told_with_what_to_do(shell: CallShell) -> None:
    call_id = shell.agree(wallet=None)
    assert first_line(shell, call_id).startswith("due: it cannot be made")
    end = partial(end_overdue, overdue=[(UUID(call_id), (CLIENT_ID, "s-1"))], now=datetime.now(UTC))
    shell.service.receiver.run_work(end)
    shown = shell.ask("calls", "show", call_id)
    assert shown.startswith("failed: The wallet is not known")
    assert "Within its minute the code can still be exchanged" in shown


def test_a_consult_is_shown_without_its_urls(shell: CallShell) -> None:
    call_id = shell.answer_consult("s-1", Done(CONSULTED, 200, 20))
    shown = shell.ask("calls", "show", call_id)
    assert "done: Alipay has said where the user agrees." in shown
    assert "api shop" in shown
    assert str(CONSULTED["normalUrl"]) not in shown + str(shell.json("calls", "show", call_id))


def test_a_consult_that_was_not_answered_says_what_to_do(shell: CallShell) -> None:
    call_id = shell.answer_consult("s-1", SILENCE)
    shell.change_call(call_id, status="undetermined", due_at=None, reason="Its time is up.")
    assert "Send the same consult again." in shell.ask("calls", "show", call_id)


def test_alipays_own_words_are_not_obeyed(shell: CallShell) -> None:
    call_id = shell.agree()
    shell.answer(Refused("PROCESS_FAIL", "red \x1b[31m text", 200, 1))
    for shown in (shell.ask("calls", "show", call_id), shell.ask("calls", "list")):
        assert "\x1b" not in shown


def test_words_of_a_newer_release_are_shown(shell: CallShell) -> None:
    call_id = shell.agree()
    shell.change_call(call_id, kind="prepare", status="suspended")
    assert first_line(shell, call_id) == "suspended: nothing is on record of why."
    assert shell.json("calls", "show", call_id)["kind"] == "prepare"
    assert "prepare" in shell.ask("authorizations", "show", "s-1") + shell.ask("authorizations", "diagram", "s-1")


@pytest.mark.parametrize("command", ["show", "retry"])
def test_a_call_that_is_not_there_is_refused(shell: CallShell, command: str) -> None:
    result = shell.run("calls", command, NO_CALL)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"There is no call {NO_CALL}." in result.stderr
    assert shell.run("calls", command, "17").exit_code == 2


# --- again -----------------------------------------------------------------------------------------------------------


def test_retry_makes_an_undetermined_call_once_more(shell: CallShell) -> None:
    call_id = shell.agree()
    shell.answer(SILENCE)
    shell.change_call(call_id, status="undetermined", due_at=None, finished_at=datetime.now(UTC))
    assert f"Call {call_id} is due: attempt 2 is due at " in shell.ask("calls", "retry", call_id)
    shell.answer(GRANTED)
    assert shell.json("calls", "show", call_id)["status"] == "done"
    assert shell.json("authorizations", "show", "s-1")["state"] == "token_active"


def test_retry_brings_forward_what_is_to_be_repeated(shell: CallShell) -> None:
    call_id = shell.agree()
    shell.answer(IN_PROCESS)
    shell.change_call(call_id, due_at=datetime.now(UTC) + timedelta(hours=1))
    shell.ask("calls", "retry", call_id)
    shell.answer(GRANTED)
    assert shell.json("calls", "show", call_id)["status"] == "done"


def test_retry_refuses_what_is_done_and_what_can_bring_nothing_more(shell: CallShell) -> None:
    call_id = shell.agree("s-1")
    shell.answer(GRANTED)
    done = shell.run("calls", "retry", call_id)
    assert (done.exit_code, "The call is done: there is nothing to repeat." in done.stderr) == (1, True)
    spent = shell.agree("s-2")
    shell.answer(SPENT)
    shell.notify(token_created("s-2", "the other token"))
    late = shell.run("calls", "retry", spent)
    assert (late.exit_code, "the authorization is token_active: there is nothing to repeat" in late.stderr) == (1, True)


@pytest.mark.parametrize("is_uncertain", [False, True])
def test_retry_refuses_an_exchange_whose_code_is_too_old_unless_alipay_may_have_made_it(
    shell: CallShell, *, is_uncertain: bool
) -> None:
    call_id = shell.agree()
    shell.change_call(
        call_id,
        status="undetermined" if is_uncertain else "failed",
        is_uncertain=is_uncertain,
        due_at=None,
        created_at=datetime.now(UTC) - timedelta(seconds=61),
        finished_at=datetime.now(UTC),
    )
    offered = f"flask calls retry {call_id}" in shell.ask("calls", "show", call_id)
    again = shell.run("calls", "retry", call_id)
    if is_uncertain:
        assert (offered, again.exit_code) == (True, 0)
    else:
        assert (offered, again.exit_code) == (False, 1)
        assert "a code lives for a minute, which is over; the user must agree again" in again.stderr
        assert "must agree again" in shell.ask("calls", "show", call_id)
    assert (shell.json("calls", "show", call_id)["status"] == "due") == is_uncertain


def test_an_answer_that_could_not_be_recorded_is_recorded_also_after_the_code_s_minute(shell: CallShell) -> None:
    call_id = shell.agree()
    with patch.object(reports, "apply", side_effect=RuntimeError("our fault")):
        shell.answer(GRANTED)
    assert shell.json("calls", "show", call_id)["status"] == "failed"
    shell.change_call(call_id, created_at=datetime.now(UTC) - timedelta(hours=1))
    shell.ask("calls", "retry", call_id)
    assert shell.json("authorizations", "show", "s-1")["state"] == "token_active"


# --- events ----------------------------------------------------------------------------------------------------------


def test_the_event_of_a_failed_call_names_it(shell: CallShell) -> None:
    call_id = shell.agree()
    shell.answer(SPENT)
    event = shell.event("exchange_failed")
    assert event["data"]["call"] == {"id": call_id, "status": "failed", "resultCode": "INVALID_AUTHCODE"}
    assert event["data"]["from"] == event["data"]["to"] == "authcode_issued"
    listed = shell.ask("events", "list")
    assert "failed: INVALID_AUTHCODE" in listed
    shown = shell.ask("events", "show", event["id"])
    assert call_id in shown
    assert "consulted" not in shown


def test_a_listing_of_events_without_calls_is_as_it_was(shell: CallShell) -> None:
    shell.consult()
    shell.number_events()
    assert shell.ask("events", "list").splitlines()[0].split() == ["CURSOR", "ID", "AT", "TYPE", "#", "AUTH", "STATE"]
