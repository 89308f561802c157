"""`flask authorizations diagram` and `verify`, and `flask diagrams`: how it came to be so, and that it follows."""

from pathlib import Path

from sqlalchemy import text

from app.simulator.draft import authcode_created, token_created
from tests.integration.shell import Shell


def an_active_authorization(shell: Shell, auth_state: str = "s-1") -> None:
    shell.ask("authorizations", "consult", auth_state)
    shell.notify(authcode_created(auth_state, f"code of {auth_state}"))
    shell.notify(token_created(auth_state, f"token of {auth_state}"))
    shell.notify(authcode_created(auth_state, "another code"))


def test_diagram_draws_the_way_taken_and_who_knocked_in_vain(shell: Shell) -> None:
    an_active_authorization(shell)
    drawn = shell.ask("authorizations", "diagram", "s-1")
    assert "2: authcode_created" in drawn
    assert '-.->|"token_created"' not in drawn
    assert "rejected (illegal_transition)" in drawn
    assert "another code" not in drawn


def test_diagram_writes_pictures(shell: Shell, tmp_path: Path) -> None:
    an_active_authorization(shell)
    for kind, magic in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        file = tmp_path / f"s-1.{kind}"
        shell.ask("authorizations", "diagram", "s-1", "--format", kind, "-o", str(file))
        assert file.read_bytes().startswith(magic)


def test_diagram_of_nothing_is_refused(shell: Shell, tmp_path: Path) -> None:
    result = shell.run("authorizations", "diagram", "nobody", "-o", str(tmp_path / "nobody.mmd"))
    assert result.exit_code == 1
    assert "no authorization" in result.output


def test_verify_says_that_everything_follows(shell: Shell) -> None:
    an_active_authorization(shell, "s-1")
    an_active_authorization(shell, "s-2")
    assert shell.ask("authorizations", "verify") == "2 authorizations follow from what is stored.\n"
    assert shell.ask("authorizations", "verify", "s-1") == "1 authorization follows from what is stored.\n"


def test_verify_names_a_drift_and_ends_with_1(shell: Shell) -> None:
    an_active_authorization(shell, "s-1")
    an_active_authorization(shell, "s-2")
    tampering = text("UPDATE authorizations SET state = 'canceled' WHERE auth_state = 's-2'")
    shell.service.database.run(lambda session: session.execute(tampering))
    result = shell.run("authorizations", "verify")
    assert result.exit_code == 1
    assert "s-2 of SANDBOX_5Y00000000000000: the state is canceled, but its history leads to token_active." in (
        result.output
    )
    assert shell.run("authorizations", "verify", "s-1").exit_code == 0
    assert shell.run("authorizations", "verify", "nobody").exit_code == 1


def test_the_pictures_of_the_lifecycle_are_written_and_checked(shell: Shell, tmp_path: Path) -> None:
    assert "Every picture is what the machine looks like." in shell.ask("diagrams", "check")
    assert "lifecycle.svg" in shell.ask("diagrams", "write", "--dir", str(tmp_path))
    (tmp_path / "lifecycle.md").write_bytes(b"outdated")
    (tmp_path / "lifecycle.png").unlink()
    result = shell.run("diagrams", "check", "--dir", str(tmp_path))
    assert result.exit_code == 1
    assert "Outdated: lifecycle.png, lifecycle.md." in result.output
