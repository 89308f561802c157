"""The files in `deploy/` are what their own tools take, and name what there is.

Those of systemd and of Kubernetes are checked where the tool is installed: `make dist` installs all that Python brings.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from app.config import NAMES, SECRETS
from app.release import version
from tests.conftest import ROOT
from tests.readme import commands

DEPLOY = ROOT / "deploy"
FILES = [path for path in DEPLOY.rglob("*") if path.is_file()]
UNIT = DEPLOY / "notifyauth@.service"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))

#: The most that `systemd-analyze security` may say: from 0, safe, to 10.
EXPOSURE_MAX = 2.0

SYSTEMD_ANALYZE = shutil.which("systemd-analyze")
with_systemd = pytest.mark.skipif(SYSTEMD_ANALYZE is None, reason="systemd-analyze is not installed")


def run_tool(name: str, *arguments: str | Path) -> None:
    """Run a tool of the tests' environment, which has to be content."""
    tool = Path(sys.executable).with_name(name)
    if not tool.exists():
        pytest.skip(f"{name} is not installed: make .venv/release-installed")
    checked = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def manifests() -> Iterable[dict[str, Any]]:
    return (each for path in MANIFESTS for each in yaml.safe_load_all(path.read_text(encoding="utf-8")))


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    run_tool("hadolint", DEPLOY / "Dockerfile")


def test_the_compose_file_is_one() -> None:
    run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_kubernetes_takes_the_manifests(path: Path) -> None:
    run_tool("kubernetes-validate", "--strict", path)


@with_systemd
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """With a program that is there, as the release would be."""
    assert SYSTEMD_ANALYZE is not None
    unit = tmp_path / UNIT.name
    program = str(Path(sys.executable).with_name("flask"))
    unit.write_text(UNIT.read_text().replace("/opt/notifyauth/current/bin/notifyauth", program), encoding="utf-8")
    checked = subprocess.run([SYSTEMD_ANALYZE, "verify", unit], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@with_systemd
def test_systemd_finds_the_unit_little_exposed() -> None:
    assert SYSTEMD_ANALYZE is not None
    threshold = f"--threshold={round(EXPOSURE_MAX * 10)}"
    command = [SYSTEMD_ANALYZE, "security", "--no-pager", "--offline=true", threshold, str(UNIT)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_setting_that_a_file_names_is_one(path: Path) -> None:
    named = set(re.findall(r"\bFLASK_[A-Z_]+\b", path.read_text(encoding="utf-8")))
    assert named <= {*NAMES, *(f"{name}_FILE" for name in SECRETS)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_runs_this_release(path: Path) -> None:
    assert set(re.findall(r"notifyauth:(\d+\.\d+\.\d+)", path.read_text(encoding="utf-8"))) <= {version()}


def test_every_command_that_a_container_runs_exists() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    of_compose = [each["command"] for each in compose["services"].values() if "command" in each]
    of_pods = [
        container["args"]
        for manifest in manifests()
        if manifest["kind"] in {"Deployment", "Job"}
        for container in manifest["spec"]["template"]["spec"]["containers"]
    ]
    of_image = re.findall(r'^CMD \["(\w+)"', (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    for name, *rest in [*of_compose, *of_pods, of_image]:
        command = commands()[name]
        if isinstance(command, click.Group):
            command = command.commands[rest[0]]
        options = {option for each in command.params for option in each.opts}
        assert {word for word in rest if word.startswith("--")} <= options


def test_every_command_of_the_unit_exists() -> None:
    run_by_the_unit = re.findall(r"^Exec\w+=/opt/notifyauth/current/bin/(.*)$", UNIT.read_text(), re.MULTILINE)
    assert len(run_by_the_unit) == 2
    for program, name, *rest in map(str.split, run_by_the_unit):
        assert program == "notifyauth"
        options = {option for each in commands()[name].params for option in each.opts}
        assert {word for word in rest if word.startswith("--")} <= options


def test_nginx_asks_the_instances_that_the_pages_start() -> None:
    """The first one always, and the second one while that is restarted."""
    asked = re.findall(r"^ +server 127\.0\.0\.1:(\d+) .*$", (DEPLOY / "nginx.conf").read_text(), re.MULTILINE)
    (default,) = re.findall(r"^DefaultInstance=(.*)$", UNIT.read_text(), re.MULTILINE)
    upgrades = (ROOT / "docs" / "upgrades.md").read_text(encoding="utf-8")
    started = re.findall(r"systemctl (\w+) notifyauth@(\d+)", upgrades)
    assert asked[0] == default
    assert started == [("start", asked[1]), ("restart", asked[0]), ("stop", asked[1])]


def test_no_container_runs_as_root_or_writes_to_its_image() -> None:
    """Nor does one hold a secret: each is a file of another's keeping."""
    pods = [each["spec"]["template"]["spec"] for each in manifests() if each["kind"] in {"Deployment", "Job"}]
    assert len(pods) == len(MANIFESTS)
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            secret = [each["name"] for each in container["env"] if each["name"] in SECRETS]
            assert secret == []
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert all(services[name]["read_only"] for name in ("migrate", "notifyauth"))
    users = re.findall(r"^USER (.*)$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert users == ["10001:10001"]


def test_the_image_is_made_from_the_lock_and_the_wheel_alone() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = [line for line in ignored if not line.startswith("#")]
    assert allowed == ["*", "!requirements/run.lock", "!dist/*.whl"]


def test_the_versions_of_the_image_are_among_those_that_the_project_allows() -> None:
    allowed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    images = re.findall(r"^FROM python:3\.(\d+)-", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(set(images)) == 1
    assert int(images[0]) >= int(allowed.removeprefix(">=3."))
