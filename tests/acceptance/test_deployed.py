"""What the unit in `deploy/` builds on: systemd is told when requests are answered, and a reload is checked first."""

import shutil
import socket
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.acceptance.server import flask, running_server, starting_server
from tests.builders import an_environ

#: Longer than a start takes on a busy machine.
_SECONDS_MAX = 60


@pytest.mark.parametrize("is_abstract", [False, True])
def test_systemd_is_told_when_requests_are_answered(
    sqlite_url: str, keyring_path: Path, tmp_path: Path, *, is_abstract: bool
) -> None:
    """So that `systemctl restart` returns when the other instance may be stopped."""
    name = f"@{tmp_path}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, (tmp_path / "log").open("w") as log:
        systemd.bind("\0" + name[1:] if is_abstract else name)
        systemd.settimeout(_SECONDS_MAX)
        environ = an_environ(sqlite_url, keyring_path, NOTIFY_SOCKET=name)
        with starting_server(environ, log, "--workers", "1") as server:
            assert systemd.recv(100) == b"READY=1"
            assert server.get("/readyz").status == HTTPStatus.OK


def test_a_service_serves_where_nobody_can_be_told(sqlite_url: str, keyring_path: Path, tmp_path: Path) -> None:
    environ = an_environ(sqlite_url, keyring_path, NOTIFY_SOCKET=str(tmp_path / "nothing"))
    with running_server(environ, tmp_path / "log", "--workers", "1") as server:
        assert server.get("/readyz").status == HTTPStatus.OK


def test_the_check_before_a_reload_is_content_with_what_could_start(sqlite_url: str, keyring_path: Path) -> None:
    """With a database that is away, too: workers wait for it."""
    assert flask(an_environ(sqlite_url, keyring_path), "serve", "--check").returncode == 0
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    vault_keys = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    away = flask(an_environ(nowhere, keyring_path, FLASK_VAULT_KEYS=vault_keys), "serve", "--check")
    assert (away.returncode, away.stdout) == (0, "")


@pytest.mark.parametrize("broken", ["keyring.toml", "endpoints.toml"])
def test_the_check_before_a_reload_names_the_file_that_is_wrong(
    sqlite_url: str, keyring_path: Path, tmp_path: Path, broken: str
) -> None:
    shutil.copytree(keyring_path.parent, tmp_path, dirs_exist_ok=True)
    keyring, endpoints = tmp_path / "keyring.toml", tmp_path / "endpoints.toml"
    endpoints.touch()
    keyring.with_name(broken).write_text("[[", encoding="utf-8")
    checked = flask(an_environ(sqlite_url, keyring, FLASK_ENDPOINTS=str(endpoints)), "serve", "--check")
    assert checked.returncode == 2
    assert f"{broken} is not TOML" in checked.stderr
    assert "Traceback" not in checked.stderr
