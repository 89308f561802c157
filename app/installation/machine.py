"""Whether the folders have room and may be written to, and whether only the service can read what is secret."""

import os
import shutil
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.config import Settings
from app.installation.findings import Finding, failed, ok, warning

#: A day of a busy service writes a gigabyte.
_ROOMY_BYTES = 1024**3
#: SQLite and its journal stop at the first page that has no room.
_FULL_BYTES = 100 * 1024**2
_OTHERS = stat.S_IRWXO


def examine_machine(settings: Settings) -> Iterator[Finding]:
    """Look at the folder of the database, or of the instance, and at the files that hold secrets."""
    file = settings.sqlite_file
    folder = settings.instance_path if file is None else file.absolute().parent
    yield from _examine_folder(folder, is_needed=file is not None)
    secrets = [
        settings.instance_path / "vault.key",
        *([] if file is None else [file]),
        *settings.secret_files,
        *_files_of_values(settings.keyring_path, "clients", "merchant_private_key"),
        *([] if settings.endpoints_path is None else _files_of_values(settings.endpoints_path, "endpoints", "secrets")),
    ]
    open_to_all = [path for path in dict.fromkeys(secrets) if _is_open_to_all(path)]
    for path in open_to_all:
        yield warning("permissions", f"every account of this machine may use {path}", f"chmod o= {path}")
    if not open_to_all:
        yield ok("permissions", "only the service and its group may use the files that hold secrets")


def _examine_folder(folder: Path, *, is_needed: bool) -> Iterator[Finding]:
    if not folder.is_dir():
        if is_needed:
            yield failed("folder", f"there is no folder {folder}", "correct FLASK_DATABASE_URL, or make the folder")
        else:
            yield ok("folder", f"{folder} is not there, and is not needed")
        return
    if os.access(folder, os.W_OK | os.X_OK):
        yield ok("folder", f"{folder} may be written to")
    elif is_needed:
        yield failed(
            "folder",
            f"this account may not write to {folder}, where SQLite keeps its journal",
            "run the doctor as the account of the service, or give it the folder: chown",
        )
    else:
        yield warning("folder", f"this account may not write to {folder}", "give it to the account of the service")
    yield _examine_room(folder)


def _examine_room(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    said = f"{free // 1024**2} MiB are free where {folder} is"
    if free < _FULL_BYTES:
        return failed("disk", said, "make room: nothing can be stored on a full disk")
    if free < _ROOMY_BYTES:
        return warning("disk", said, "make room, and see that an alert tells of it in time")
    return ok("disk", said)


def _is_open_to_all(path: Path) -> bool:
    """Say whether others may use a file, and that can be changed: where Docker mounts secrets, for one, it cannot."""
    try:
        return bool(path.stat().st_mode & _OTHERS) and not os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError:
        return False


def _files_of_values(path: Path, table: str, field: str) -> Iterator[Path]:
    """Name the files that hold a secret of this field: those that are named there, or the document itself.

    What is wrong with the document is said elsewhere.
    """
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text("utf-8-sig"))
        values = [each.get(field) for each in document[table].values()]
    except (OSError, ValueError, KeyError, AttributeError):
        return
    for value in values:
        for each in value if isinstance(value, list) else filter(None, [value]):
            text = str(each).strip()
            yield path.parent / text.removeprefix("file:") if text.startswith("file:") else path
