"""The version of this release, installed as a package or run from its folder.

On a server nothing is installed but what the lock names with its hash, and the folder has no metadata of a package.
"""

import tomllib
from importlib.metadata import PackageNotFoundError, version as version_of_package
from pathlib import Path


def version() -> str:
    """Return the version, or `unknown` where neither a package nor the folder says it."""
    try:
        return version_of_package("notifyauth")
    except PackageNotFoundError:
        return _version_of_folder(Path(__file__).parents[1])


def _version_of_folder(folder: Path) -> str:
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["version"])
    except (OSError, ValueError, KeyError):
        return "unknown"
