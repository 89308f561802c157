"""The six steps of the README, typed as they stand there."""

import os
import re
import signal
import subprocess
import sysconfig
from contextlib import suppress
from pathlib import Path

import pytest

from app.config import new_vault_key
from tests.conftest import ROOT
from tests.readme import steps

#: Installing is what brought this test here, and a port of its own keeps it out of everybody's way.
PORT = "18642"


def commands() -> str:
    lines = re.sub(r"^make \.venv/installed.*$", "", steps(), flags=re.MULTILINE)
    assert lines.count(":8000") == 1, "another port is set in one place"
    return lines.replace(":8000", f":{PORT}")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_six_steps_lead_from_a_consult_to_a_cancellation(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    environ = {
        "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
        "FLASK_DATABASE_URL": request.getfixturevalue(f"unmigrated_{kind}_url"),
        "FLASK_KEYRING": str(tmp_path / "keyring.toml"),
        "FLASK_VAULT_KEYS": new_vault_key(),
    }
    shell = subprocess.Popen(
        ["bash", "-euc", commands() + "\nkill -TERM $!; wait $!"],  # noqa: S607 -- whichever bash there is
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = shell.communicate(timeout=300)
    finally:
        # A step that fails ends the shell, and leaves the server running in its group.
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, output
    assert '"state": "consulted"' in output
    assert '"authCode": "281001139396"' in output
    assert '"state": "token_active"' in output
    assert '"accessToken": "281006020901", "accessTokenExpiryTime": "2087-06-06T04:12:12.000Z"' in output
    assert '"state": "canceled"' in output
    assert "TOKEN_CANCELED" in output
    assert "authorization.canceled" in output
