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

#: What is shown of a secret.
MASK = "***"

#: Wider than any row: an authState takes 256 characters, each of them at most ten columns when spelled out.
_UNFOLDED_COLUMNS = 100_000
_GAP_COLUMNS = 2
#: No word of ours is longer. A stranger's may be, and is folded.
_WORD_COLUMNS_MAX = 20
#: Folded into less, a text is no longer readable.
_FREE_COLUMNS_MIN = 8


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
    """Write a time for people: RFC 3339, in UTC, to the second."""
    return "-" if time is None else time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ending(outcome: str, reason: str | None) -> str:
    """Write how an entry ended, and why."""
    return outcome if reason is None else f"{outcome}: {reason}"


def print_json(document: object) -> None:
    """Print JSON, in ASCII: whatever is in it, no terminal obeys it and every program can read it."""
    click.echo(json.dumps(document, indent=2))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, free: Sequence[str] = ()) -> None:
    """Print rows under their headers. The columns that are `free` give way first where the terminal is narrow."""
    cells = [[plain(value) for value in row] for row in rows]
    widths = _widths([list(column) for column in zip(headers, *cells, strict=True)], headers, free)
    table = _new_table(show_header=True)
    for header, width in zip(headers, widths, strict=True):
        table.add_column(header, overflow="fold", width=width)
    _print(table, cells)


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values, one below the other, leaving out what is not known."""
    table = _new_table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    _print(table, ([name, plain(value)] for name, value in facts.items() if value is not None))


def _columns() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNFOLDED_COLUMNS


def _widths(table: Sequence[Sequence[str]], headers: Sequence[str], free: Sequence[str]) -> Sequence[int | None]:
    """Give the columns that are not free the room they need, or what their words need; else leave it to the console."""
    from rich.cells import cell_len  # noqa: PLC0415 -- as below

    def longest_word(cell: str) -> int:
        return min(max(map(cell_len, cell.split()), default=0), _WORD_COLUMNS_MAX)

    room = _columns() - _GAP_COLUMNS * (len(headers) - 1) - _FREE_COLUMNS_MIN * len(free)
    for measure in (cell_len, longest_word):
        widths = [
            None if header in free else max(map(measure, column)) for header, column in zip(headers, table, strict=True)
        ]
        if sum(width or 0 for width in widths) <= room:
            return widths
    return [None] * len(headers)


def _new_table(**options: Any) -> "Table":  # noqa: ANN401 -- whatever a table takes
    from rich.table import Table  # noqa: PLC0415 -- a tenth of the time that a command takes to start

    return Table(box=None, pad_edge=False, padding=(0, _GAP_COLUMNS, 0, 0), **options)


def _print(table: "Table", rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415 -- as above
    from rich.text import Text  # noqa: PLC0415 -- as above

    for row in rows:
        # A Text is shown as it is; in a plain string the console would look for markup and emoji.
        table.add_row(*map(Text, row))
    page = io.StringIO()
    Console(file=page, width=_columns(), color_system=None, legacy_windows=False).print(table)
    for line in page.getvalue().splitlines():
        click.echo(line.rstrip())
