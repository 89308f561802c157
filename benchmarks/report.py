"""Say what was measured: medians with their spread, and how contestants compare within the same round."""

import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import psutil

from benchmarks.calling import Calling
from benchmarks.growth import Grown
from benchmarks.questions import QUESTIONS
from benchmarks.rounds import Measured
from benchmarks.telling import Telling
from benchmarks.wire import Traffic

README = Path(__file__).parent / "README.md"

Results = Mapping[str, Sequence[Measured]]


def _answered(question: str, grown: Grown) -> float:
    return grown.questions_ms[question]


#: What a row of the table says, and how it is read.
_FIGURES: tuple[tuple[str, Callable[[Measured], float | None]], ...] = (
    ("acknowledged per second", lambda each: each.per_second),
    ("p50, ms", lambda each: each.p50_ms),
    ("p99, ms", lambda each: each.p99_ms),
    ("processor of the server, ms each", lambda each: each.server_cpu_ms),
    ("processor of the database, ms each", lambda each: each.database_cpu_ms),
    ("memory of the server at most, MiB", lambda each: each.memory_mib),
    ("memory gained while measured, MiB", lambda each: each.memory_gained_mib),
    ("log written, bytes each", lambda each: each.wal_bytes),
    ("log flushes each", lambda each: each.wal_flushes),
)

#: By the name of its plot: what a row says, and how it is read.
GROWTH_FIGURES: tuple[tuple[str, str, Callable[[Grown], float]], ...] = (
    ("rate", "acknowledged per second", lambda each: each.receiving.per_second),
    ("p99", "p99 of a delivery, ms", lambda each: each.receiving.p99_ms),
    ("database", "processor of the database, ms each", lambda each: each.receiving.database_cpu_ms or 0.0),
    ("log", "log written, bytes each", lambda each: each.receiving.wal_bytes or 0.0),
    *((each.name, each.title, partial(_answered, each.name)) for each in QUESTIONS),
    ("show", "`flask authorizations show`, ms", lambda each: each.show_ms),
    ("parked", "`flask inbox list --outcome parked`, ms", lambda each: each.parked_ms),
    ("purge", "`flask inbox purge` of a tenth, ms", lambda each: each.purge_ms),
    ("verify", "`flask authorizations verify`, ms for 1000", lambda each: each.verify_ms),
    ("vacuum", "VACUUM after that purge, s", lambda each: each.vacuum_s),
    ("analyze", "ANALYZE of all tables, s", lambda each: each.analyze_s),
    ("tables", "rows of one authorization on disk, KiB", lambda each: each.disk.tables_kib),
    ("indexes", "their indexes, KiB", lambda each: each.disk.indexes_kib),
)

#: What the rate of each contestant is held against.
_REFERENCES = ("naive", "floor")
_PACKAGES = ("notifyauth", "granian", "flask", "sqlalchemy", "psycopg", "gunicorn", "global-open-sdk-python")


def comparison(results: Results, traffic: Mapping[str, Traffic]) -> str:
    """Write one table: a row for each figure, a column for each contestant."""
    rows = [
        [title, *(_with_spread([read(each) for each in measured]) for measured in results.values())]
        for title, read in _FIGURES
    ]
    rows += [
        [title, *(write_number(getattr(traffic[name], field)) if name in traffic else "–" for name in results)]
        for title, field in (
            ("statements each", "statements"),
            ("round trips each", "round_trips"),
            ("commits each", "commits"),
        )
    ]
    rows += [
        [f"times the rate of {reference}", *(_with_spread(_ratios(results, name, reference)) for name in results)]
        for reference in _REFERENCES
        if reference in results
    ]
    return table(["", *results], rows)


def growth(grown: Sequence[Grown]) -> str:
    """Write one table: a row for each figure, a column for each number of authorizations."""
    rows = [[title, *(write_number(read(each)) for each in grown)] for _, title, read in GROWTH_FIGURES]
    return table(["authorizations on record", *(f"{each.authorizations:,}".replace(",", " ") for each in grown)], rows)


def telling(told: Telling) -> str:
    """Write one table: a row for each figure."""
    rows = [
        ("code received → endpoint called, p50, ms", told.code_p50_ms),
        ("code received → endpoint called, p99, ms", told.code_p99_ms),
        ("a page of 100 events of the feed, p50, ms", told.feed_p50_ms),
        ("a page of 100 events of the feed, p99, ms", told.feed_p99_ms),
        ("webhooks a second to one endpoint that has missed thousands", told.webhooks_per_second),
        ("notifications a second, as many as are answered: nobody is told", told.receiving_alone),
        ("… thousands are due to an endpoint that is away", told.receiving_beside_dead),
    ]
    return table(["", "notifyauth"], [[title, write_number(value)] for title, value in rows])


def calling(called: Calling) -> str:
    """Write one table: a row for each figure."""
    rows = [
        ("code received → exchange on record and on its way, p50, ms", called.call_p50_ms),
        ("code received → exchange on record and on its way, p99, ms", called.call_p99_ms),
        ("code received → token active, p50, ms", called.token_p50_ms),
        ("code received → token active, p99, ms", called.token_p99_ms),
        ("notifications a second, as many as are answered: no gateway", called.receiving_alone),
        ("… a gateway that never answers", called.receiving_beside_hanging),
    ]
    return table(["", "notifyauth"], [[title, write_number(value)] for title, value in rows])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table that reads well as text and is Markdown too: the first column is words, the others numbers."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    lines = [
        "| " + " | ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in cells) + " |"
        for row in (head, *rows)
        for cells in [list(enumerate(zip(row, widths, strict=True)))]
    ]
    rule = "|" + "|".join(
        ("-" * (width + 1) + ":") if place else "-" * (width + 2) for place, width in enumerate(widths)
    )
    return "\n".join([lines[0], rule + "|", *lines[1:]])


def _ratios(results: Results, name: str, reference: str) -> list[float | None]:
    """Compare within each round only: what disturbs the machine for a minute disturbs both."""
    pairs = zip(results[name], results[reference], strict=True)
    return [each.per_second / other.per_second if other.per_second else None for each, other in pairs]


def _with_spread(values: Sequence[float | None]) -> str:
    """Write the median and, in brackets, the least and the most."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    middle, least, most = (write_number(value) for value in (median(known), min(known), max(known)))
    return middle if least == most else f"{middle} ({least}–{most})"


def write_number(value: float) -> str:
    """Write three digits that count."""
    if value >= 100:  # noqa: PLR2004 -- from here on, no decimals
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def warnings(results: Results) -> list[str]:
    """Say what makes a figure worth less than it looks."""
    said = []
    for name, measured in results.items():
        for number, each in enumerate(measured, 1):
            said += [f"{name}, round {number}: {times} × {what}" for what, times in each.refused.items()]
            if each.ran_out:
                said.append(f"{name}, round {number}: all that was prepared was sent too early; prepare more (--most)")
            if each.unsent:
                said.append(
                    f"{name}, round {number}: it did not keep up, and {each.unsent} that were due were never sent; "
                    "its latencies are only those of what was"
                )
    return said


def page(figures: str, *notes: str) -> str:
    """Put notes below the figures, as paragraphs of Markdown."""
    return "\n\n".join([figures, *notes])


def circumstances(postgresql: str) -> str:
    """Say on what, with what and how it was measured."""
    return f"{_machine()}; {_versions(postgresql)}; `{' '.join(['python -m benchmarks', *sys.argv[1:]])}`."


def _machine() -> str:
    gigabytes = psutil.virtual_memory().total / 2**30
    return f"{psutil.cpu_count()} × {_processor()}, {gigabytes:.0f} GiB, {platform.system()} {platform.release()}"


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _versions(postgresql: str) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return f"Python {platform.python_version()}, PostgreSQL {postgresql}, {packages}"


def write_between(marker: str, text: str, readme: Path = README) -> None:
    """Replace what the README says between two marks of this name, which it must have."""
    begin, end = f"<!-- {marker}: begin -->", f"<!-- {marker}: end -->"
    before, rest = readme.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    readme.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
