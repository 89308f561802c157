"""`flask authorizations verify`: every authorization follows from what is stored, or is named."""

from sqlalchemy import text

from tests.integration.shell import Shell


def test_verify_says_that_every_authorization_follows_from_what_is_stored(shell: Shell) -> None:
    shell.activate("s-1")
    shell.activate("s-2")
    assert shell.ask("authorizations", "verify") == "2 authorizations checked: everything agrees.\n"
    assert shell.ask("authorizations", "verify", "s-1") == "1 authorization checked: everything agrees.\n"


def test_verify_names_an_inconsistency_and_ends_with_1(shell: Shell) -> None:
    shell.activate("s-1")
    shell.activate("s-2")
    tampering = text("UPDATE authorizations SET state = 'canceled' WHERE auth_state = 's-2'")
    shell.service.database.run(lambda session: session.execute(tampering))
    result = shell.run("authorizations", "verify")
    assert result.exit_code == 1
    assert "s-2 of SANDBOX_5Y00000000000000: the state is canceled, but its history leads to token_active." in (
        result.output
    )
    assert shell.run("authorizations", "verify", "s-1").exit_code == 0
    assert shell.run("authorizations", "verify", "nobody").exit_code == 1
