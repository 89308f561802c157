"""The version is known without a package: a release on a server runs from its folder."""

from importlib import metadata

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
