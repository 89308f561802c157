"""`flask authorizations refresh` and `revoke` begin calls and wait for them; `show` and `diagram` have the calls."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import click
import pytest

from app import create_app
from app.alipay.keyring import load_private_key
from app.cli.authorizations import calling
from app.cli.current_service import operating_user
from app.gateway.runner import CallRunner
from tests.builders import an_environ
from tests.gateway import REVOKED, TOKEN, a_gateway, a_result, answers
from tests.integration.calls_shell import GRANTED, SPENT, CallShell, a_call_shell
from tests.integration.shell import Shell, run_flask_at_terminal
from tests.receiver import Receiver

#: The token that a refresh brings.
NEXT_TOKEN = TOKEN | {"accessToken": "281001_next", "refreshToken": "281001_next_refresh"}


@pytest.fixture
def shell(database_url: str, keyring_path: Path, tmp_path: Path) -> Iterator[CallShell]:
    """An operator of a service whose gateway nobody answers for, and whose calls nobody makes."""
    with a_call_shell(database_url, keyring_path, tmp_path) as shell:
        yield shell


@contextmanager
def a_worker(database_url: str, keyring_path: Path, folder: Path) -> Iterator[tuple[CallShell, Receiver]]:
    """The same with a background worker that makes calls, and a gateway that takes them."""
    with (
        a_gateway() as (gateway, url),
        a_call_shell(database_url, keyring_path, folder, gateway=url) as shell,
    ):
        activate(shell)
        stop = threading.Event()
        runner = CallRunner(shell.service)
        thread = threading.Thread(target=runner.run_until, args=(stop,))
        thread.start()
        try:
            yield shell, gateway
        finally:
            stop.set()
            thread.join()


def activate(shell: CallShell, auth_state: str = "s-1") -> str:
    call_id = shell.agree(auth_state)
    shell.answer(GRANTED)
    return call_id


def alipay_answers(keyring_path: Path, gateway: Receiver, document: Mapping[str, object]) -> None:
    key = load_private_key(keyring_path.with_name("simulator.pem").read_bytes())
    gateway.behave = answers(key, document)


def test_refresh_waits_for_the_new_token(database_url: str, keyring_path: Path, tmp_path: Path) -> None:
    with a_worker(database_url, keyring_path, tmp_path) as (shell, gateway):
        alipay_answers(keyring_path, gateway, NEXT_TOKEN)
        said = shell.ask("authorizations", "refresh", "s-1", "--wait", "60")
        document = shell.json("authorizations", "show", "s-1")
    assert said.startswith("s-1 is token_active.\nCall ")
    assert said.endswith(" is done: Alipay has given a new token.\n")
    assert [(each["event"], each["cause"], each["by"]) for each in document["history"]][-1] == (
        "token_refreshed",
        "gateway",
        operating_user(),
    )
    assert (document["call"]["cause"], document["call"]["by"]) == ("shell", operating_user())


def test_revoke_waits_until_the_token_is_gone(database_url: str, keyring_path: Path, tmp_path: Path) -> None:
    with a_worker(database_url, keyring_path, tmp_path) as (shell, gateway):
        alipay_answers(keyring_path, gateway, REVOKED)
        said = shell.ask("authorizations", "revoke", "s-1", "--yes", "--wait", "60")
        again = shell.ask("authorizations", "revoke", "s-1", "--yes")
    assert said.startswith("s-1 is canceled.\nCall ")
    assert said.endswith(" is done: The token is gone.\n")
    assert again == "Nothing new.\ns-1 is canceled.\n"


def test_a_refused_call_ends_the_command_with_1_and_says_what_to_do(
    database_url: str, keyring_path: Path, tmp_path: Path
) -> None:
    with a_worker(database_url, keyring_path, tmp_path) as (shell, gateway):
        alipay_answers(keyring_path, gateway, a_result("F", "INVALID_REFRESH_TOKEN", "no"))
        result = shell.run("authorizations", "refresh", "s-1", "--wait", "60")
    assert result.exit_code == 1
    assert "failed: Alipay refused it (INVALID_REFRESH_TOKEN: no)." in result.stdout
    assert result.stdout.count("The user must authorize again before the token expires.") == 1
    assert "s-1 is token_active." in result.stdout


def test_what_has_not_ended_in_time_goes_on(shell: CallShell) -> None:
    activate(shell)
    said = shell.ask("authorizations", "refresh", "s-1", "--wait", "0")
    call_id = shell.newest_call()
    assert said.splitlines()[-1] == f"It goes on in the background: flask calls show {call_id}"
    # Asked again it is the same call.
    shell.ask("authorizations", "refresh", "s-1", "--wait", "0")
    assert shell.newest_call() == call_id


def test_revoke_shuts_the_door_at_once_and_is_shown(shell: CallShell) -> None:
    activate(shell)
    shell.ask("authorizations", "revoke", "s-1", "--yes", "--wait", "0")
    assert "revoke asked" in shell.ask("authorizations", "show", "s-1")
    refused = shell.run("authorizations", "refresh", "s-1")
    assert (refused.exit_code, "its revoke was asked for" in refused.stderr) == (1, True)


def test_a_call_that_is_not_wanted_any_more_ends_the_command_with_1(shell: CallShell) -> None:
    activate(shell)
    shell.ask("authorizations", "refresh", "s-1", "--wait", "0")
    refresh = shell.newest_call()
    shell.ask("authorizations", "revoke", "s-1", "--yes", "--wait", "0")
    assert shell.json("calls", "show", refresh)["reason"] == "The authorization is to be revoked."
    with shell.app.app_context(), pytest.raises(click.exceptions.Exit) as ended:
        calling.wait_and_print(UUID(refresh), "s-1", seconds=0)
    assert ended.value.exit_code == 1


def test_revoke_without_a_terminal_needs_a_yes(shell: CallShell) -> None:
    activate(shell)
    result = shell.run("authorizations", "revoke", "s-1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Nothing was done: there is no terminal to ask at." in result.stderr
    assert shell.json("calls", "list", "--kind", "revoke") == []


def test_revoke_asks_first_at_a_terminal(sqlite_url: str, keyring_path: Path, tmp_path: Path) -> None:
    with a_call_shell(sqlite_url, keyring_path, tmp_path) as shell:
        activate(shell)
        command = ("authorizations", "revoke", "s-1", "--wait", "0")
        said = [
            run_flask_at_terminal(*command, environ=shell.environ, answers={b"[y/N]: ": answer})
            for answer in (b"n", b"y")
        ]
    assert ("for good" in said[0], "Call " in said[0]) == (True, False)
    assert "It goes on in the background" in said[1]


@pytest.mark.parametrize("command", [("refresh",), ("revoke", "--yes")])
def test_without_a_gateway_nothing_is_called(database_url: str, keyring_path: Path, command: tuple[str, ...]) -> None:
    shell = Shell(create_app(an_environ(database_url, keyring_path)), keyring_path)
    shell.activate("s-1")
    name, *options = command
    result = shell.run("authorizations", name, "s-1", *options)
    shown = shell.ask("authorizations", "show", "s-1")
    shell.service.database.close()
    assert (result.exit_code, "no gateway in the keyring" in result.stderr) == (1, True)
    assert "\nCalls\n" not in shown


@pytest.mark.parametrize("command", ["refresh", "revoke"])
def test_a_wait_is_a_number_of_seconds(shell: CallShell, command: str) -> None:
    for seconds in ("-1", "601", "x", "1.5"):
        assert shell.run("authorizations", command, "s-1", "--wait", seconds).exit_code == 2
    assert shell.run("authorizations", command, "s-9").exit_code == 1


def test_nothing_is_refreshed_without_a_token(shell: CallShell) -> None:
    shell.agree()
    result = shell.run("authorizations", "refresh", "s-1")
    assert (result.exit_code, "No token is active" in result.stderr) == (1, True)


# --- seeing ----------------------------------------------------------------------------------------------------------


def test_show_has_the_calls_first_to_last(shell: CallShell) -> None:
    exchange = activate(shell)
    shell.ask("authorizations", "refresh", "s-1", "--wait", "0")
    refresh = shell.newest_call()
    shown = shell.ask("authorizations", "show", "s-1")
    calls = shown[shown.index("\nCalls\n") : shown.index("\nNotifications\n")]
    assert calls.index(exchange) < calls.index(refresh)
    assert "done: SUCCESS" in calls
    assert "*** until 2027-11-22T04:00:00Z" in shown


def test_show_says_when_the_service_refreshes_a_token(shell: CallShell) -> None:
    activate(shell)
    assert "refresh due" in shell.ask("authorizations", "show", "s-1")
    shell.ask("authorizations", "refresh", "s-1", "--wait", "0")
    assert "refresh due" not in shell.ask("authorizations", "show", "s-1")


def test_a_listing_says_until_when_tokens_are_good(shell: CallShell) -> None:
    shell.consult("s-2")
    assert "TOKEN UNTIL" not in shell.ask("authorizations", "list")
    activate(shell)
    listed = shell.ask("authorizations", "list")
    assert "TOKEN UNTIL" in listed
    assert "2027-11-22T04:00:00Z" in listed


def test_the_diagram_notes_each_call_beside_the_state_in_which_it_was_made(shell: CallShell) -> None:
    shell.agree()
    shell.answer(SPENT)
    drawn = shell.ask("authorizations", "diagram", "s-1")
    (note,) = [line for line in drawn.splitlines() if "call exchange" in line]
    assert "failed (INVALID_AUTHCODE)" in note
    assert note.endswith(" -.- authcode_issued")
    assert "call exchange" in shell.ask("authorizations", "diagram", "s-1", "--format", "svg")
