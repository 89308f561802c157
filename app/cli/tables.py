"""Print what was found: tables and facts for people, JSON for programs.

What a stranger wrote reaches a terminal with its control characters spelled out, and is folded rather than cut. Piped,
every row is one line, however long.
"""

import io
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

#: Wider than any row: an authState takes 256 characters, each of them at most ten columns when spelled out.
_UNFOLDED_COLUMNS = 100_000
_GAP_COLUMNS = 2


def plain(value: object) -> str:
    r"""Write a value on one line, with every character that a terminal would obey, or not show, as `\x1b`.

    So are lone surrogates, which no output can encode, and what this one cannot encode.
    """
    if value is None:
        return "-"
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in str(value)
    )
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def moment(time: datetime | None) -> str:
    """Write a time for people, in UTC, to the second."""
    return "-" if time is None else time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def print_json(document: object) -> None:
    """Print JSON, in ASCII: whatever is in it, no terminal obeys it and every program can read it."""
    click.echo(json.dumps(document, indent=2))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their headers."""
    table = _new_table(show_header=True)
    for header in headers:
        table.add_column(header, overflow="fold")
    _print(table, rows)


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values, one below the other, leaving out what is not known."""
    table = _new_table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    _print(table, (item for item in facts.items() if item[1] is not None))


def _new_table(**options: Any) -> "Table":  # noqa: ANN401 -- whatever a table takes
    from rich.table import Table  # noqa: PLC0415 -- a tenth of the time that a command takes to start

    return Table(box=None, pad_edge=False, padding=(0, _GAP_COLUMNS, 0, 0), **options)


def _print(table: "Table", rows: Iterable[Sequence[object]]) -> None:
    from rich.console import Console  # noqa: PLC0415 -- as above
    from rich.text import Text  # noqa: PLC0415 -- as above

    for row in rows:
        # A Text is shown as it is; in a plain string the console would look for markup and emoji.
        table.add_row(*(Text(plain(value)) for value in row))
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNFOLDED_COLUMNS
    page = io.StringIO()
    Console(file=page, width=columns, color_system=None, legacy_windows=False).print(table)
    for line in page.getvalue().splitlines():
        click.echo(line.rstrip())
