"""The six steps of the README and the consent behind them, typed as they stand there."""

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

#: Installing is what brought this test here, and ports of its own keep it out of everybody's way.
PORT, GATEWAY_PORT = "18642", "18643"
#: What a user does in a browser, and how long an endpoint waits to hear of it.
AGREE = """
PAGE=$(curl -sS "$GATEWAY/" | grep -o '/consent/[A-Za-z0-9_-]*' | head -1)
curl -sS "$GATEWAY$PAGE" | grep -o 'Let this merchant use your GCash wallet?'
curl -sS "$GATEWAY$PAGE" -d user=alma -d decision=agree
for _ in $(seq 100); do
    flask authorizations list --state token_active --json | grep -q my-first-call && break; sleep 0.1
done
"""


def commands(folder: Path) -> str:
    lines = re.sub(r"^make \.venv/installed.*$", "", steps(), flags=re.MULTILINE)
    assert (lines.count(":8000"), lines.count("=http://127.0.0.1:8800")) == (1, 1), "another port is set in one place"
    assert lines.count("=instance/calls/") == 1
    lines = lines.replace(":8000", f":{PORT}").replace(":8800", f":{GATEWAY_PORT}")
    lines = lines.replace("=instance/calls/", f"={folder}/calls/")
    before, comment, after = lines.partition("# Open its normalUrl in a browser and agree.")
    assert comment
    return f"{before}{AGREE}{comment}{after}\nkill $(jobs -p); wait"


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_steps_lead_from_a_consult_to_a_cancellation_and_to_a_token_without_the_merchant(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    environ = {
        "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
        "FLASK_DATABASE_URL": request.getfixturevalue(f"unmigrated_{kind}_url"),
        "FLASK_KEYRING": str(tmp_path / "keyring.toml"),
        "FLASK_VAULT_KEYS": new_vault_key(),
    }
    shell = subprocess.Popen(
        ["bash", "-euc", commands(tmp_path)],  # noqa: S607 -- whichever bash there is
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
    _, asked, consented = output.partition("Let this merchant use your GCash wallet?")
    assert asked
    assert '"normalUrl": "http://127.0.0.1:' in output
    assert re.search(r"token_created +token_active +gateway", consented)
    assert "canceled" in consented.rpartition("token_created")[2]
