"""`make demo` shows what it promises, touches nothing else and leaves nothing running."""

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.simulator.demo import CALLING_LIFE, SCENARIOS

ROOT = Path(__file__).parent.parent.parent

#: What somebody who runs a real instance has in their shell. The demo must not so much as look at it.
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT),
    "FLASK_DATABASE_URL": "postgresql://127.0.0.1:1/nobody-listens",
    "FLASK_API_KEYS": "real=real",
    "FLASK_NOTIFY_PATH": "/elsewhere",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the demo is given in."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def demo(folder: Path) -> subprocess.CompletedProcess[str]:
    """The demo, given once for all tests."""
    return _run(sys.executable, "-m", "app.simulator.demo", cwd=folder)


def test_every_answer_is_the_right_one(demo: subprocess.CompletedProcess[str]) -> None:
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "✗" not in demo.stdout
    for name in SCENARIOS:
        assert f"\n{name}: " in demo.stdout


def test_every_authorization_is_shown_with_its_history(demo: subprocess.CompletedProcess[str]) -> None:
    _, _, shown = demo.stdout.partition("What became of the authorizations")
    for name in SCENARIOS:
        assert re.search(rf"\b{name}-[0-9a-f]{{10}}\b", shown)
    for state in ("consulted", "authcode_issued", "token_active", "canceled"):
        assert state in shown


def test_a_life_is_told_in_order(demo: subprocess.CompletedProcess[str]) -> None:
    _, _, told = demo.stdout.partition("What the merchant was told")
    told, _, _ = told.partition("What became of the authorizations")
    assert told_of("full-life", told) == ["consulted 1", "authcode_issued 2", "token_active 3", "canceled 4"]
    life = ["consulted 1", "authcode_issued 2", "token_active 3", "token_refreshed 4", "canceled 5"]
    assert told_of(CALLING_LIFE, told) == life
    assert told.count("✓ verified; answered 200") == 9
    assert re.search(r"^In all \d+ arrived: \d+ taken\.$", told, re.MULTILINE)


def told_of(life: str, told: str) -> list[str]:
    """Which events the endpoint heard of a life, each with its sequence."""
    found = re.findall(rf"^authorization\.(\w+)  authState {life}-\w+  sequence (\d)", told, re.MULTILINE)
    return [" ".join(each) for each in found]


def test_a_life_goes_by_with_calls_that_the_service_makes(demo: subprocess.CompletedProcess[str], folder: Path) -> None:
    _, _, life = demo.stdout.partition("A life in which the service calls Alipay")
    life, _, _ = life.partition("What the merchant was told")
    assert re.findall("[✓✗] (.*)", life) == [
        "201 consulted",
        "back with a code",
        "200 token_active",
        "200 token_refreshed by gateway",
        "200 canceled",
    ]
    called = re.findall(r"✓ call    (\w+) +S", (folder / "instance" / "demo" / "gateway.log").read_text())
    assert called == ["consult", "exchange", "refresh", "revoke"]


def test_way_to_look_further_leads_there(demo: subprocess.CompletedProcess[str], folder: Path) -> None:
    command = re.search(r"^.*flask .* authorizations show (\S+)$", demo.stdout, re.MULTILINE)
    assert command is not None
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("FLASK_")}
    looked = _run(*shlex.split(command[0]), cwd=folder, environment=environment | {"FLASK_APP": "app"})
    assert looked.returncode == 0, looked.stderr
    assert command[1] in looked.stdout


def test_no_server_is_left_running(demo: subprocess.CompletedProcess[str]) -> None:
    address = re.search(r"http://127\.0\.0\.1:(\d+)", demo.stdout)
    assert address is not None
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(address[1]))) != 0


def test_nothing_is_written_elsewhere(demo: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert demo.returncode == 0
    written = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert all(path.is_relative_to("instance/demo") for path in written)


def test_no_secret_is_shown_or_logged(demo: subprocess.CompletedProcess[str], folder: Path) -> None:
    log = (folder / "instance" / "demo" / "server.log").read_text()
    settings = (folder / "instance" / "demo" / "demo.env").read_text()
    keys = re.findall(r"^(?:FLASK_VAULT_KEYS|FLASK_SIMULATOR_API_KEY)=(.+)$", settings, re.MULTILINE)
    assert len(keys) == 2
    keys += re.findall(r"whsec_[^\"]+", (folder / "instance" / "demo" / "endpoints.toml").read_text())
    for told in (demo.stdout, demo.stderr, log):
        assert not re.search(r"\b(token|code)-[0-9a-f]{10}\b", told)
        assert not any(key in told for key in keys)


def _run(*command: str, cwd: Path, environment: dict[str, str] = ENVIRONMENT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
