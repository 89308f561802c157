"""The version and the migrations are found without an installed package, too."""

from importlib import metadata
from pathlib import Path

import pytest

from app import release


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_none(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(release, "version_of_package", find_none)


@pytest.mark.usefixtures("no_package")
def test_the_version_of_a_folder_is_that_of_the_package() -> None:
    assert release.version() == metadata.version("notifyauth")


@pytest.mark.usefixtures("no_package")
def test_a_folder_without_its_project_file_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "__file__", "/nowhere/app/release.py")
    assert release.version() == "unknown"


def test_the_migrations_are_inside_an_installed_package_and_beside_a_checkout(tmp_path: Path) -> None:
    package = tmp_path / "app"
    package.mkdir()
    assert release.migrations_folder(package) == tmp_path / "migrations"
    (package / "migrations").mkdir()
    assert release.migrations_folder(package) == package / "migrations"
