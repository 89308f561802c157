"""`flask inbox find-token`: the notifications and the authorization that name a token."""

import json

from app.simulator.draft import authcode_created, token_canceled, token_created
from tests.integration.shell import Shell


def found_by_token(shell: Shell, token: str) -> tuple[list[str], list[str]]:
    result = shell.run("inbox", "find-token", "--json", stdin=f"{token}\n")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    return [each["authState"] for each in document["authorizations"]], [
        each["id"] for each in document["notifications"]
    ]


def test_find_token_finds_its_authorization_and_every_entry_that_names_it(shell: Shell) -> None:
    shell.consult()
    shell.notify(authcode_created("s-1", "code-1"))
    created = shell.notify(token_created("s-1", "secret-1"))
    illegal = shell.notify(token_created("s-1", "secret-2"))
    foreign = shell.notify(token_created("s-2", "secret-1"))
    broken = shell.notify(b'{"authorizationNotifyType": "TOKEN_CANCELED", "accessToken": "secret-1"}')
    canceled = shell.notify(token_canceled("secret-1"))
    assert found_by_token(shell, "secret-1") == (["s-1"], [canceled, broken, foreign, created])
    assert found_by_token(shell, "secret-2") == ([], [illegal])
    shown = shell.ask("inbox", "find-token", stdin="secret-1")
    assert "authState      s-1\n" in shown
    assert "secret" not in shown


def test_find_token_of_a_token_that_nothing_names_is_not_found(shell: Shell) -> None:
    shell.consult()
    result = shell.run("inbox", "find-token", stdin="secret-9")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: Nothing on record names this access token.\n"


def test_find_token_without_a_token_is_a_usage_error(shell: Shell) -> None:
    assert shell.run("inbox", "find-token").exit_code == 2
