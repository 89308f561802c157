"""Print tables and facts for people, and JSON for programs.

A sender's text reaches a terminal with its control characters spelled out, and is folded rather than cut. Piped, every
row is one line, however long.
"""

import io
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

#: Shown in place of a secret.
MASK = "***"

#: Wider than any row: an authState takes 256 characters, each of them at most ten columns when spelled out.
_UNFOLDED_COLUMNS = 100_000
_GAP_COLUMNS = 2
#: No word of ours is longer. A sender's may be, and is folded.
_WORD_COLUMNS_MAX = 20
#: Folded into less, a text is no longer readable.
_FREE_COLUMNS_MIN = 8
#: A UUID is read at a glance; an authState that is folded into less is not.
_READABLE_COLUMNS = 36
_INDENT_COLUMNS = 2


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


def minute(time: datetime) -> str:
    """Write a time where a whole one takes too much room: in UTC, to the minute."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def ending(outcome: str, reason: str | None) -> str:
    """Write how an entry ended, and why."""
    return outcome if reason is None else f"{outcome}: {reason}"


def print_json(document: object) -> None:
    """Print JSON in ASCII: no terminal obeys a character of it, and every program can read it."""
    click.echo(json.dumps(document, indent=2))


def print_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    free: Sequence[str] = (),
    last: str | None = None,
    shorter: Iterable[Sequence[object]] | None = None,
) -> None:
    """Print rows under their headers. The columns that are `free` give way first where the terminal is narrow.

    The one that is `last` comes on a line of its own, below its row, where too little room is left for it. Before that
    the `shorter` rows are taken, which say the same in less room.
    """
    cells = [[plain(value) for value in row] for row in rows]
    if last is not None and shorter is not None and not _has_room(headers, cells, last):
        cells = [[plain(value) for value in row] for row in shorter]
    if last is not None and not _has_room(headers, cells, last):
        _print_with_lines_below(headers, cells, free=free, last=last)
        return
    if last is not None:
        free = (*free, last)
    widths = _widths([list(column) for column in zip(headers, *cells, strict=True)], headers, free)
    _print(_new_table(headers, widths), cells)


def _has_room(headers: Sequence[str], cells: Sequence[Sequence[str]], last: str) -> bool:
    """Say whether a column can be read beside all others, each as wide as it needs to be."""
    from rich.cells import cell_len  # noqa: PLC0415 -- as below

    columns = zip(headers, *cells, strict=True)
    needed = {header: max(map(cell_len, column)) for header, column in zip(headers, columns, strict=True)}
    room = _columns() - sum(width + _GAP_COLUMNS for header, width in needed.items() if header != last)
    return room >= min(needed[last], _READABLE_COLUMNS)


def _print_with_lines_below(
    headers: Sequence[str], cells: Sequence[Sequence[str]], *, free: Sequence[str], last: str
) -> None:
    """Print a table without its last column, whose cells stand on lines below their rows."""
    position = headers.index(last)

    def without(row: Sequence[str]) -> list[str]:
        return [*row[:position], *row[position + 1 :]]

    columns = [list(column) for column in zip(without(headers), *map(without, cells), strict=True)]
    widths = _filled(columns, _widths(columns, without(headers), free))
    for row in (headers, *cells):
        _print(_new_table(without(headers), widths, show_header=False), [without(row)])
        if row is headers or row[position] == plain(None):
            # Each says itself what it is, and one that is not there says nothing.
            continue
        _print(_new_table(("",), (None,), show_header=False, indent=_INDENT_COLUMNS), [[row[position]]])


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values, one below the other, leaving out what is not known."""
    table = _new_table((), (), show_header=False)
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


def _filled(columns: Sequence[Sequence[str]], widths: Sequence[int | None]) -> Sequence[int]:
    """Share the remaining room among the columns without a width, so that all rows have the same columns."""
    from rich.cells import cell_len  # noqa: PLC0415 -- as below

    needed = [
        max(map(cell_len, column)) if width is None else width for column, width in zip(columns, widths, strict=True)
    ]
    room = _columns() - _GAP_COLUMNS * (len(widths) - 1) - sum(width or 0 for width in widths)
    filled = list(widths)
    for left_open in range(widths.count(None), 0, -1):
        # The column that needs least comes first: the room it leaves goes to the others.
        least = min((each for each, width in enumerate(filled) if width is None), key=needed.__getitem__)
        filled[least] = max(1, min(needed[least], room // left_open))
        room -= filled[least] or 0
    return [width or 1 for width in filled]


def _new_table(
    headers: Sequence[str], widths: Sequence[int | None], *, show_header: bool = True, indent: int = 0
) -> "Table":
    from rich.table import Table  # noqa: PLC0415 -- a tenth of the time that a command takes to start

    padding = (0, 0 if indent else _GAP_COLUMNS, 0, indent)
    table = Table(box=None, pad_edge=bool(indent), padding=padding, show_header=show_header)
    for header, width in zip(headers, widths, strict=True):
        table.add_column(header, overflow="fold", width=width)
    return table


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
