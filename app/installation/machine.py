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
    secrets = [settings.instance_path / "vault.key", *([] if file is None else [file]), *_private_key_files(settings)]
    open_to_all = [path for path in secrets if _is_open_to_all(path)]
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
    try:
        return bool(path.stat().st_mode & _OTHERS)
    except OSError:
        return False


def _private_key_files(settings: Settings) -> Iterator[Path]:
    """Name the files with a private key that the keyring names; the keyring itself says what is wrong with it."""
    path = settings.keyring_path
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text("utf-8-sig"))
        values = [client.get("merchant_private_key") for client in document["clients"].values()]
    except (OSError, ValueError, KeyError, AttributeError):
        return
    for value in filter(None, values):
        text = str(value).strip()
        yield path.parent / text.removeprefix("file:") if text.startswith("file:") else path
