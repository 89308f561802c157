"""The locks are what is installed, so they say the same as pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT


def locked_versions(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", lock.read_text(), flags=re.MULTILINE))


RUN, DEV, BENCH = (locked_versions(ROOT / "requirements" / f"{name}.lock") for name in ("run", "dev", "bench"))
RELEASE = locked_versions(ROOT / "requirements" / "release.lock")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUN_NEEDS: list[str] = PYPROJECT["project"]["dependencies"]
DEV_NEEDS: list[str] = PYPROJECT["dependency-groups"]["dev"]
RELEASE_NEEDS: list[str] = PYPROJECT["dependency-groups"]["release"]
BENCH_NEEDS: list[str] = PYPROJECT["dependency-groups"]["bench"]


@pytest.mark.parametrize(
    ("need", "locked"),
    [(need, RUN) for need in RUN_NEEDS]
    + [(need, DEV) for need in DEV_NEEDS]
    + [(need, RELEASE) for need in RELEASE_NEEDS]
    + [(need, BENCH) for need in BENCH_NEEDS],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_lock_holds_a_release_that_pyproject_allows(need: str, locked: dict[str, str]) -> None:
    requirement = Requirement(need)
    assert requirement.specifier.contains(locked[requirement.name.replace("_", "-")]), "run make lock"


def test_development_runs_the_releases_that_production_runs() -> None:
    assert RUN.items() <= DEV.items()


@pytest.mark.parametrize("others", [BENCH, RELEASE], ids=["bench", "release"])
def test_nothing_else_changes_a_release_of_development(others: dict[str, str]) -> None:
    assert all(DEV.get(name, version) == version for name, version in others.items())


@pytest.mark.parametrize("name", ["run", "dev", "release", "bench"])
def test_every_locked_release_has_a_hash_and_none_an_address(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    releases = re.split(r"^(?=\S+==)", text, flags=re.MULTILINE)[1:]
    assert releases
    assert all("--hash=sha256:" in release for release in releases)
    assert "://" not in text
