"""The wheel works without a checkout, and what is built twice is the same.

The virtual environment is empty but for what `requirements/run.lock` names: hard links to the files that are installed
beside the tests, so that nothing is fetched.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import click.testing
import pytest
from packaging.requirements import Requirement

import notifyauth_commands
from app.cli.keys import keys
from app.cli.simulator import simulator
from app.models import REVISION
from app.release import version
from app.simulator.draft import authcode_created
from tests.acceptance.server import Program, run, running_server
from tests.builders import a_genuine_delivery, a_raw_request, an_environ
from tests.conftest import ROOT

#: What `make dist` builds beside the wheel.
PEX, SBOM = ROOT / "dist" / "notifyauth.pex", ROOT / "dist" / "notifyauth.cdx.json"


def build(folder: Path) -> Path:
    """Build the wheel, at a time of our own."""
    environ = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def locked_requirements() -> Iterator[Requirement]:
    """What the run lock has installed on this machine."""
    lock = (ROOT / "requirements" / "run.lock").read_text(encoding="utf-8")
    for line in re.findall(r"^([a-z0-9-]+==.*?) \\$", lock, re.MULTILINE):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            yield requirement


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The command `notifyauth` of a virtual environment with the run lock and the wheel, and a folder to call it in."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv")
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    for requirement in locked_requirements():
        for file in distribution(requirement.name).files or ():
            # Programs, which are outside, belong to the environment of the tests.
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(Path(str(file.locate())), target)
    python = folder / "venv" / "bin" / "python"
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "pip", "install", "--python", python, "--offline", "--no-deps", "--quiet", wheel], check=True)
    (folder / "elsewhere").mkdir()
    return Program(folder / "venv" / "bin" / "notifyauth", folder / "elsewhere")


def test_the_wheel_brings_the_plugin_for_integrators(wheel: Path) -> None:
    """Pytest finds it by itself. What runs the service here has no pytest, so nothing of it needs one."""
    with ZipFile(wheel) as files:
        (entry_points,) = (name for name in files.namelist() if name.endswith(".dist-info/entry_points.txt"))
        said = files.read(entry_points).decode()
    assert re.search(r"^\[pytest11\]\nnotifyauth = notifyauth_pytest$", said, re.MULTILINE)


def link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        # The folder for temporary files may be on another file system.
        shutil.copyfile(source, target)


def serves_a_delivery(program: Program, url: str, keyring_path: Path, folder: Path) -> None:
    """Migrate, serve and deliver with this program alone, and find the delivery applied."""
    environ = an_environ(url, keyring_path, HOME=str(folder))
    upgraded = run(program, environ, "db", "upgrade")
    assert upgraded.stdout.strip() == f"Upgraded the database from no tables to {REVISION}.", upgraded.stderr
    assert run(program, environ, "db", "check").returncode == 0
    assert run(program, environ, "authorizations", "consult", "s-1").returncode == 0
    with running_server(environ, folder / "log", "--workers", "1", program=program) as server:
        told = {"name": "notifyauth", "version": version(), "revision": REVISION}
        assert json.loads(server.get("/version").data) == told
        delivery = a_genuine_delivery(keyring_path, authcode_created(auth_state="s-1", auth_code="c-1"))
        assert b'"resultStatus":"S"' in server.say(a_raw_request(delivery)).replace(b" ", b"")
    (entry,) = json.loads(run(program, environ, "inbox", "list", "--json").stdout)
    assert entry["outcome"] == "applied"


def test_a_wheel_that_is_built_twice_is_the_same(wheel: Path, tmp_path: Path) -> None:
    assert build(tmp_path).read_bytes() == wheel.read_bytes()


def test_the_wheel_carries_the_migrations_and_nothing_of_development(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    migrations = {path.name for path in (ROOT / "migrations" / "versions").glob("*.py")}
    assert {Path(name).name for name in names if name.startswith("app/migrations/versions/")} == migrations
    entry_points = {"notifyauth_commands.py", "notifyauth_pytest.py"}
    assert {name.partition("/")[0] for name in names} == {"app", f"notifyauth-{version()}.dist-info", *entry_points}


def test_the_wheel_says_its_version_outside_a_checkout(installed: Program) -> None:
    said = run(installed, {}, "--version").stdout
    assert said == f"notifyauth {version()} (migrations {REVISION})\n"


MINE = """
from flask import Flask

def create_app():
    app = Flask("mine")
    app.cli.command("hello")(lambda: print("hello from mine"))
    return app
"""


@pytest.mark.parametrize("flask", ["-m flask", "-c import+flask.cli;flask.cli.main()"], ids=["module", "program"])
def test_another_project_with_an_app_of_its_own_has_its_own_commands(
    installed: Program, tmp_path: Path, flask: str
) -> None:
    """Flask loads the commands of every package that is installed, before it looks for the application."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text(MINE)
    arguments = [each.replace("+", " ") for each in flask.split()]
    python = installed.path.with_name("python")
    environ = {"PATH": os.environ["PATH"]}
    found = subprocess.run(
        [python, *arguments, "--app", "app", "hello"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (found.stdout, found.stderr) == ("hello from mine\n", "")


def test_the_commands_that_flask_finds_are_those_of_the_package() -> None:
    for name, group in (("keys", keys), ("simulator", simulator)):
        found: click.Command = getattr(notifyauth_commands, name)
        assert (found.name, found.help) == (group.name, group.help)
        result = click.testing.CliRunner().invoke(found, ["--help"])
        assert result.output == click.testing.CliRunner().invoke(group, ["--help"]).output


def test_the_wheel_with_the_run_lock_alone_migrates_serves_and_applies(
    installed: Program, unmigrated_postgresql_url: str, keyring_path: Path, tmp_path: Path
) -> None:
    """On PostgreSQL, whose driver is in the lock; the single file does the same on SQLite."""
    serves_a_delivery(installed, unmigrated_postgresql_url, keyring_path, tmp_path)


@pytest.fixture(scope="module")
def single_file() -> Program:
    """The single file that `make dist` built from the sources as they are now."""
    if not PEX.exists():
        pytest.skip("make dist has not built it")
    sources = [*ROOT.glob("app/**/*.py"), *ROOT.glob("migrations/**/*.py"), ROOT / "requirements" / "run.lock"]
    if PEX.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        pytest.skip("make dist has not built it since the sources were changed")
    return Program(PEX, PEX.parent)


def test_the_single_file_migrates_serves_and_applies(
    single_file: Program, unmigrated_sqlite_url: str, keyring_path: Path, tmp_path: Path
) -> None:
    """Where it unpacks itself is the home of who runs it."""
    serves_a_delivery(single_file, unmigrated_sqlite_url, keyring_path, tmp_path)


@pytest.mark.skipif(not SBOM.exists(), reason="make dist has not built it")
def test_the_bill_of_materials_names_what_the_run_lock_installs() -> None:
    bill = json.loads(SBOM.read_text(encoding="utf-8"))
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "notifyauth")
    named = {(each["name"], each["version"]) for each in bill["components"]}
    assert {(each.name, str(each.specifier).removeprefix("==")) for each in locked_requirements()} <= named
    assert all(each["purl"].startswith("pkg:pypi/") for each in bill["components"])
