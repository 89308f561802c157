"""What reaches a terminal: all of it, in 80 columns, and nothing that a stranger could make it do."""

import json
from pathlib import Path

import pytest

from app import create_app
from app.cli.tables import plain
from app.simulator.draft import Draft, authcode_created
from tests.builders import an_environ
from tests.integration.shell import Shell, run_flask, run_flask_at_terminal

#: Two columns a character at a terminal; blanks, markup and emoji that nothing may take for such.
LONG = ("用户授权 [red]x[/red] :smile: " * 11)[:256]
HOSTILE = "s\x1b[31m\x07\r\n\t\u202e\x9b2J\ud800\x00 [bold]"


@pytest.fixture
def environ(sqlite_url: str, keyring_path: Path) -> dict[str, str]:
    """The environment of a service that real processes are run in."""
    return an_environ(sqlite_url, keyring_path)


@pytest.fixture
def filled(environ: dict[str, str], keyring_path: Path) -> dict[str, str]:
    """The same, with a long authState and every kind of ending of an ordinary length."""
    shell = Shell(create_app(environ), keyring_path)
    shell.ask("authorizations", "consult", LONG, "--user-ref", "张三")
    shell.notify(authcode_created(LONG, "code-1"))
    shell.notify(authcode_created(LONG, "code-2"))
    shell.notify(Draft("TOKEN_CREATED", auth_state="s-1", access_token="token-1", result_status="F"))
    shell.service.database.close()
    return environ


def unfolded(shown: str) -> str:
    return "".join(shown.split())


def test_no_text_of_a_stranger_is_obeyed_or_breaks_the_output(shell: Shell) -> None:
    body = {
        "authorizationNotifyType": HOSTILE,
        "authState": HOSTILE,
        "accessToken": "t",
        "result": {"resultStatus": "S"},
    }
    shell.notify(json.dumps(body | {"authorizationNotifyType": "TOKEN_CREATED"}).encode())
    shell.notify(json.dumps(body).encode())
    outputs = [
        shell.ask("inbox", "list"),
        shell.ask("inbox", "show", "1"),
        shell.ask("inbox", "show", "2"),
        shell.run("authorizations", "show", HOSTILE).stderr,
        shell.run("inbox", "list", "--json").stdout,
    ]
    for output in outputs:
        assert all(character.isprintable() or character == "\n" for character in output)
    assert r"s\x1b[31m\x07\r\n\t\u202e\x9b2J\ud800\x00 [bold]" in outputs[0]
    assert json.loads(outputs[-1])[1]["authState"] == HOSTILE


def test_authorizations_with_hostile_names_can_be_seen(shell: Shell) -> None:
    shell.ask("authorizations", "consult", HOSTILE.replace("\x00", ""), "--user-ref", "[/red]")
    shown = shell.ask("authorizations", "list")
    assert r"s\x1b[31m" in shown
    assert "[/red]" in shown


def test_what_an_output_cannot_encode_is_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ascii:
        encoding = "ascii"

    monkeypatch.setattr("sys.stdout", Ascii())
    assert plain("用\x1b户") == r"\u7528\x1b\u6237"


def test_a_terminal_of_80_columns_shows_everything(filled: dict[str, str]) -> None:
    for command in (("inbox", "list"), ("authorizations", "list"), ("authorizations", "show", LONG)):
        shown = run_flask_at_terminal(*command, environ=filled)
        assert max(map(_columns, shown.splitlines())) <= 80
        # Folded between other columns, its characters are all there.
        assert shown.count("授") >= LONG.count("授")
    assert "TOKEN_CREATED     rejected: unsuccessful_result" in run_flask_at_terminal("inbox", "list", environ=filled)


@pytest.mark.parametrize("columns", [80, 120])
def test_an_auth_state_can_be_read_at_a_terminal(environ: dict[str, str], keyring_path: Path, columns: int) -> None:
    """Folded into eight columns, a UUID is a riddle."""
    auth_state = "0193a7c4-5f1e-7b2a-9c3d-4e5f60718293"
    shell = Shell(create_app(environ), keyring_path)
    shell.notify(authcode_created(auth_state, "code-1"))
    shell.ask("authorizations", "consult", auth_state, "--user-ref", "9f1b3c58-1c7e-4f43-8d0f-5f0c4e9d8a77")
    shell.notify(Draft("TOKEN_CREATED", auth_state="s-1", access_token="token-1"))
    shell.service.database.close()
    for command in (("inbox", "list"), ("authorizations", "list")):
        shown = run_flask_at_terminal(*command, environ=environ, columns=columns)
        assert any(auth_state in line.split() for line in shown.splitlines()), shown
        assert max(map(_columns, shown.splitlines())) <= columns
    listed = run_flask_at_terminal("inbox", "list", environ=environ, columns=columns)
    assert "TOKEN_CREATED     parked: unknown_auth_state" in listed


@pytest.mark.parametrize("columns", [1, 40])
def test_no_terminal_is_too_narrow(filled: dict[str, str], columns: int) -> None:
    shown = run_flask_at_terminal("inbox", "list", "--outcome", "applied", environ=filled, columns=columns)
    assert "applied" in unfolded(shown) or columns == 1
    assert "Traceback" not in shown


def test_piped_every_row_is_one_whole_line(filled: dict[str, str]) -> None:
    header, *rows = run_flask("inbox", "list", environ=filled).stdout.splitlines()
    assert header.split() == ["ID", "RECEIVED", "TYPE", "OUTCOME", "AUTH", "STATE"]
    assert len(rows) == 3
    assert sum(row.endswith(LONG.rstrip()) for row in rows) == 2


def test_piped_ascii_gets_everything_too(filled: dict[str, str]) -> None:
    result = run_flask("authorizations", "list", environ=filled | {"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0
    assert r"\u5f20\u4e09" in result.stdout


def test_progress_is_for_terminals(filled: dict[str, str]) -> None:
    piped = run_flask("inbox", "process", environ=filled)
    assert (piped.stdout, piped.stderr) == ("There was nothing to process.\n", "")
    assert "100%" in run_flask_at_terminal("keys", "reseal", environ=filled)


def test_secrets_typed_at_a_terminal_are_not_shown(filled: dict[str, str]) -> None:
    answers = {
        b"Access token: ": b"the-token",
        b"Refresh token (Enter for none): ": b"the-refresh-token",
        b"Auth code it was exchanged for (Enter for none): ": b"",
        b"Old access token, if this is a refresh (Enter for none): ": b"",
    }
    shown = run_flask_at_terminal("authorizations", "record", "token", LONG, environ=filled, answers=answers)
    assert "is token_active" in shown
    assert "the-" not in shown


def test_no_log_line_disturbs_a_person(environ: dict[str, str]) -> None:
    result = run_flask("authorizations", "consult", "s-1", environ=environ)
    assert (result.returncode, result.stderr) == (0, "")


def _columns(line: str) -> int:
    return sum(2 if character > "\u2e80" else 1 for character in line)


def test_a_narrow_listing_has_one_header_line_and_no_line_that_says_nothing(
    environ: dict[str, str], keyring_path: Path
) -> None:
    shell = Shell(create_app(environ), keyring_path)
    shell.notify(authcode_created("s-1", "code-1"))
    shell.notify(Draft("TOKEN_CANCELED", access_token="token-1"))
    shell.service.database.close()
    header, *rows = run_flask_at_terminal("inbox", "list", environ=environ, columns=80).splitlines()
    assert header.split() == ["ID", "RECEIVED", "TYPE", "OUTCOME", "AUTH", "STATE"]
    assert len(rows) == 2
    shell.notify(authcode_created("s-" + "1" * 60, "code-1"))
    shell.service.database.close()
    header, *rows = run_flask_at_terminal("inbox", "list", environ=environ, columns=80).splitlines()
    assert header.startswith("ID ")
    assert len(rows) == 5
    assert "-" not in [row.strip() for row in rows]
