"""`flask inbox list`: its filters, its pages, and what it says of a filter that nothing can match."""

from dataclasses import replace
from pathlib import Path

import pytest

from app import create_app
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from tests.builders import an_environ
from tests.integration.shell import Shell


def test_list_narrows_by_outcome_type_and_auth_state(shell: Shell) -> None:
    shell.consult()
    applied = shell.notify(authcode_created("s-1", "code-1"))
    parked = shell.notify(token_created("s-2", "token-1"))

    def listed(*options: str) -> list[str]:
        return [row["id"] for row in shell.json("inbox", "list", *options)]

    assert listed() == [parked, applied]
    assert listed("--outcome", "parked") == [parked]
    assert listed("--type", "AUTHCODE_CREATED") == [applied]
    assert listed("--auth-state", "s-2") == [parked]
    assert listed("--limit", "1") == [parked]


def test_list_needs_no_keyring(shell: Shell, database_url: str, tmp_path: Path) -> None:
    shell.notify(authcode_created("s-1", "code-1"))
    settings = shell.service.settings
    without = create_app(an_environ(database_url, tmp_path / "none.toml"))
    without.extensions["notifyauth"].settings = replace(settings, keyring_path=tmp_path / "none.toml")
    result = without.test_cli_runner().invoke(args=["inbox", "list"])
    without.extensions["notifyauth"].database.close()
    assert result.exit_code == 0
    assert "parked: unknown_auth_state" in result.stdout


def test_list_narrows_by_reason_goes_on_after_a_cursor_and_begins_with_the_oldest(shell: Shell) -> None:
    first, second = (shell.notify(token_canceled(f"token-{number}")) for number in range(2))
    third = shell.notify(authcode_created("s-1", "code-1"))
    last = shell.notify(token_canceled("token-3"))

    def listed(*options: str) -> list[str]:
        return [row["id"] for row in shell.json("inbox", "list", *options)]

    assert listed("--reason", "unknown_token") == [last, second, first]
    assert listed("--reason", "unknown_token", "--cursor", last) == [second, first]
    assert listed("--oldest-first") == [first, second, third, last]
    assert listed("--oldest-first", "--cursor", second, "--limit", "1") == [third]


def test_a_listing_that_does_not_show_everything_says_how_to_go_on(shell: Shell) -> None:
    for number in range(3):
        shell.notify(token_canceled(f"token-{number}"))
    result = shell.run("inbox", "list", "--limit", "2", "--json")
    assert result.stderr == "Only 2 are shown: there are more. Go on with --cursor 2, or see --limit.\n"
    assert [row["id"] for row in shell.json("inbox", "list", "--cursor", "2")] == ["1"]


def test_a_slip_in_a_filter_is_no_empty_list(shell: Shell) -> None:
    """A known value that nothing has is one; so is an authState, of which nobody has a list."""
    shell.notify(Draft("TOKEN_PAUSED"))
    for filters in (("--type", "TOKEN_CANCELED"), ("--reason", "early"), ("--auth-state", "s-1")):
        assert shell.json("inbox", "list", *filters) == []
    for filters, known in (
        (("--type", "TOKEN_CANCELLED"), "AUTHCODE_CREATED, TOKEN_CANCELED, TOKEN_CREATED, TOKEN_PAUSED"),
        (("--reason", "erly"), "already_known, contradiction, early, "),
    ):
        result = shell.run("inbox", "list", *filters)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"Error: Nothing on record has {' '.join(filters)}. Known are: {known}")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("show", "abc"), "abc is not the ID of an entry, a number such as 17."),
        (("show", "0"), "0 is not the ID of an entry, a number such as 17."),
        (("show", "9" * 5000), "999… is not the ID of an entry, a number such as 17."),
        (("process", "1", "x"), "x is not the ID of an entry, a number such as 17."),
        (("list", "--cursor", "-1"), "-1 is not the ID of an entry, a number such as 17."),
        (("list", "--limit", "1001"), "1001 is not a number from 1 to 1000."),
        (("list", "--limit", "many"), "many is not a number from 1 to 1000."),
    ],
)
def test_an_argument_that_is_no_number_is_a_usage_error(
    shell: Shell, arguments: tuple[str, ...], sentence: str
) -> None:
    result = shell.run("inbox", *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert "range" not in result.stderr
