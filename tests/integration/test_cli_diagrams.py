"""`flask authorizations diagram` and `flask diagrams`: the way of one authorization, and the machine."""

from pathlib import Path

from tests.integration.shell import Shell


def test_diagram_draws_the_way_taken_and_the_notifications_without_effect(shell: Shell) -> None:
    shell.activate("s-1")
    drawn = shell.ask("authorizations", "diagram", "s-1")
    assert "2: authcode_created" in drawn
    assert '-.->|"token_created"' not in drawn
    assert "rejected (illegal_transition)" in drawn
    assert "another code" not in drawn


def test_diagram_writes_pictures(shell: Shell, tmp_path: Path) -> None:
    shell.activate("s-1")
    for kind, magic in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        file = tmp_path / f"s-1.{kind}"
        shell.ask("authorizations", "diagram", "s-1", "--format", kind, "-o", str(file))
        assert file.read_bytes().startswith(magic)


def test_diagram_of_an_unknown_authorization_is_refused(shell: Shell, tmp_path: Path) -> None:
    result = shell.run("authorizations", "diagram", "nobody", "-o", str(tmp_path / "nobody.mmd"))
    assert result.exit_code == 1
    assert "no authorization" in result.output


def test_the_pictures_of_the_lifecycle_are_written_and_outdated_ones_are_named(shell: Shell, tmp_path: Path) -> None:
    assert "Every picture is what the machine looks like." in shell.ask("diagrams", "check")
    assert "lifecycle.svg" in shell.ask("diagrams", "write", "--dir", str(tmp_path))
    (tmp_path / "lifecycle.md").write_bytes(b"outdated")
    (tmp_path / "lifecycle.png").unlink()
    result = shell.run("diagrams", "check", "--dir", str(tmp_path))
    assert result.exit_code == 1
    assert "Outdated: lifecycle.png, lifecycle.md." in result.output
