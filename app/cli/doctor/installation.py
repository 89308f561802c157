"""`flask doctor` without a command: how each part of the installation is, a line for each, and what to do."""

from collections.abc import Iterator

import click

from app.cli.current_service import the_service
from app.cli.errors import REFUSED
from app.cli.tables import plain, print_json
from app.config import SettingError
from app.database import DatabaseUnavailableError
from app.documents import Document
from app.installation import Finding, Status, examine

#: What a remedy may begin with and is no word of a sentence.
_COMMANDS = {"flask", "chmod", "chown", "kill", "createdb"}
_MARKS = {Status.OK: "✓", Status.WARNING: "!", Status.FAILED: "✗"}


def examine_installation(*, as_json: bool) -> None:
    """Print how each part is, and end with 1 if something fails."""
    found = list(_findings())
    if as_json:
        print_json([_document(each) for each in found])
    else:
        for each in found:
            click.echo(_line(each))
    if any(each.status is Status.FAILED for each in found):
        raise click.exceptions.Exit(REFUSED)


def _findings() -> Iterator[Finding]:
    try:
        service = the_service()
    except SettingError as error:
        yield Finding("settings", Status.FAILED, str(error))
        return
    try:
        yield from examine(service.settings)
    except DatabaseUnavailableError as error:
        # It went away in the middle.
        yield Finding("database", Status.FAILED, f"unreachable: {error.cause}")


def _line(finding: Finding) -> str:
    said = ". ".join(filter(None, (finding.said.rstrip("."), _sentence(finding.remedy))))
    return f"{_MARKS[finding.status]} {finding.part}" + (f": {plain(said)}" if said else "")


def _sentence(remedy: str) -> str:
    """Begin with a capital letter, unless it begins with a command, which is to be copied as it stands."""
    first = remedy.split(" ", maxsplit=1)[0]
    return remedy[:1].upper() + remedy[1:] if first.isalpha() and first not in _COMMANDS else remedy


def _document(finding: Finding) -> Document:
    is_ok = finding.status is Status.OK
    return {
        "id": finding.part,
        "ok": finding.status is not Status.FAILED,
        "status": str(finding.status),
        "problem": None if is_ok else finding.said,
        "remedy": finding.remedy or None,
        "found": finding.said if is_ok and finding.said else None,
    }
