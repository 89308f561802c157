"""What belongs to this release: its version and its migrations, in an installed wheel and in a checkout alike."""

import tomllib
from importlib.metadata import PackageNotFoundError, version as version_of_package
from pathlib import Path


def version() -> str:
    """Return the version, or `unknown` where neither a package nor the folder says it.

    A checkout that was not installed has no metadata of a package.
    """
    try:
        return version_of_package("notifyauth")
    except PackageNotFoundError:
        return _version_of_folder(Path(__file__).parents[1])


def migrations_folder(package: Path = Path(__file__).parent) -> Path:
    """Return the folder of the migrations: the wheel carries it inside the package, a checkout has it beside."""
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def _version_of_folder(folder: Path) -> str:
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["version"])
    except (OSError, ValueError, KeyError):
        return "unknown"
