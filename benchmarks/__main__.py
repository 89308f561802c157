"""Run a bench from the shell: `python -m benchmarks`."""

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from benchmarks import report
from benchmarks.calling import measure_calling
from benchmarks.compare import compare
from benchmarks.contestants import CONTESTANTS, NOTIFYAUTH, NOTIFYAUTH_SQLITE, Contestant, Size, at_another_version
from benchmarks.growth import grow
from benchmarks.rounds import Plan
from benchmarks.telling import measure_telling

#: Seconds of a round, and how many rounds there are.
_THOROUGH = (20.0, 3)
_QUICK = (1.0, 1)
_SIZES = "10000,100000,1000000"
#: What a service has after years: twenty thousand authorizations a day.
_HUGE_SIZES = "100000,1000000,10000000"
_QUICK_SIZE = 1000
#: A worker takes two to start.
_QUICK_TELLING_SECONDS = 3.0


@click.group()
def benchmarks() -> None:
    """Measure the service."""
    # As Ctrl-C does: what was started is ended, and what was written is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _work_trees(_context: click.Context, _parameter: click.Parameter, folders: tuple[Path, ...]) -> tuple[Path, ...]:
    for folder in folders:
        if not (folder / "app" / "__init__.py").is_file():
            # What is installed here would be measured instead.
            message = f"'{folder}' is no work tree of notifyauth: it has no app."
            raise click.BadParameter(message)
    return folders


def _with_other_versions(contestants: Sequence[Contestant], folders: Sequence[Path]) -> Iterator[Contestant]:
    """Give each version of the service beside this one, so that little time lies between what is compared."""
    for each in contestants:
        yield each
        if each in {NOTIFYAUTH, NOTIFYAUTH_SQLITE}:
            yield from (at_another_version(each, folder) for folder in folders)


def _tell(line: str) -> None:
    click.echo(line, err=True)


@benchmarks.command("compare")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes of each contestant."
)
@click.option("--threads", type=click.IntRange(1, 32), default=16, show_default=True, help="Threads of each process.")
@click.option("--connections", type=click.IntRange(1, 128), default=64, show_default=True, help="Of the load client.")
@click.option("--seconds", type=click.FloatRange(1), help=f"How long each is measured.  [default: {_THOROUGH[0]:g}]")
@click.option("--rounds", type=click.IntRange(1), help=f"How often each is measured.  [default: {_THOROUGH[1]}]")
@click.option("--most", type=click.IntRange(1), default=2000, show_default=True, help="Notifications to sign a second.")
@click.option("--rate", type=click.FloatRange(1), help="Send so many a second.  [default: as many as are answered]")
@click.option("--only", multiple=True, type=click.Choice(sorted(CONTESTANTS)), help="Repeatable.")
@click.option(
    "--against",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    callback=_work_trees,
    help="Measure the service of another work tree too, such as one with an earlier commit. Repeatable.",
)
@click.option("--quick", is_flag=True, help="One short round: shows that it works, and measures little.")
@click.option("--write", is_flag=True, help="Put the figures into benchmarks/README.md.")
def compare_contestants(  # noqa: PLR0913 -- as many as the shell offers
    *,
    workers: int,
    threads: int,
    connections: int,
    seconds: float | None,
    rounds: int | None,
    most: int,
    rate: float | None,
    only: tuple[str, ...],
    against: tuple[Path, ...],
    quick: bool,
    write: bool,
) -> None:
    """Measure the service beside what else one could use."""
    default_seconds, default_rounds = _QUICK if quick else _THOROUGH
    plan = Plan(
        Size(workers, threads),
        connections=connections,
        seconds=seconds or default_seconds,
        most_per_second=most,
        rate=rate,
    )
    contestants = list(_with_other_versions([CONTESTANTS[name] for name in only or CONTESTANTS], against))
    done = compare(contestants, plan, rounds=rounds or default_rounds, tell=_tell)
    text = report.page(
        report.comparison(done.results, done.traffic),
        f"Medians, with the least and the most in brackets. Rounds: {rounds or default_rounds}. {plan}",
        report.circumstances(done.postgresql),
        *(f"Mind: {warning}." for warning in report.warnings(done.results)),
    )
    click.echo(text)
    if write:
        report.write_between("compare", text)


@benchmarks.command("growth")
@click.option("--sizes", metavar="N,N…", default=_SIZES, show_default=True, help="How many authorizations to load.")
@click.option("--huge", "sizes", flag_value=_HUGE_SIZES, help="Load up to ten million: an hour, and 40 GB of disk.")
@click.option(
    "--results",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep what is measured in this file, and go on from what it has.",
)
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes of the service.")
@click.option("--threads", type=click.IntRange(1, 32), default=16, show_default=True, help="Threads of each process.")
@click.option("--connections", type=click.IntRange(1, 128), default=64, show_default=True, help="Of the load client.")
@click.option(
    "--seconds",
    type=click.FloatRange(1),
    default=_THOROUGH[0],
    show_default=True,
    help="For which deliveries are measured.",
)
@click.option("--most", type=click.IntRange(1), default=2000, show_default=True, help="Notifications to sign a second.")
@click.option("--quick", is_flag=True, help="One small size, one short round: shows that it works.")
@click.option("--write", is_flag=True, help="Put the figures and their plots into benchmarks/.")
def measure_growth(  # noqa: PLR0913 -- one for each option
    *,
    sizes: str,
    results: Path | None,
    workers: int,
    threads: int,
    connections: int,
    seconds: float,
    most: int,
    quick: bool,
    write: bool,
) -> None:
    """Measure the service with more and more authorizations on record."""
    plan = Plan(
        Size(workers, threads),
        connections=connections,
        seconds=_QUICK[0] if quick else seconds,
        most_per_second=most,
    )
    numbers = sorted(int(size) for size in sizes.split(","))
    done = grow([_QUICK_SIZE] if quick else numbers, plan, tell=_tell, results=results)
    text = report.page(report.growth(done.grown), f"{plan}", report.circumstances(done.postgresql))
    click.echo(text)
    if write:
        # Only who plots needs what plots.
        from benchmarks import plots  # noqa: PLC0415

        pictures = plots.draw(done.grown)
        report.write_between("growth", "\n\n".join([text, *pictures]))


@benchmarks.command("telling")
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes of the service.")
@click.option("--threads", type=click.IntRange(1, 32), default=16, show_default=True, help="Threads of each process.")
@click.option("--connections", type=click.IntRange(1, 128), default=64, show_default=True, help="Of the load client.")
@click.option("--seconds", type=click.FloatRange(1), default=_THOROUGH[0], show_default=True, help="Of each part.")
@click.option("--most", type=click.IntRange(1), default=2500, show_default=True, help="Notifications to sign a second.")
@click.option("--rate", type=click.FloatRange(1), default=200, show_default=True, help="Send so many a second.")
@click.option("--quick", is_flag=True, help="Short parts: shows that it works.")
@click.option("--write", is_flag=True, help="Put the figures into benchmarks/README.md.")
def measure_how_it_tells(
    *, workers: int, threads: int, connections: int, seconds: float, most: int, rate: float, quick: bool, write: bool
) -> None:
    """Measure how soon and how fast an endpoint is told, and what that takes from receiving."""
    plan = Plan(
        Size(workers, threads),
        connections=connections,
        seconds=_QUICK_TELLING_SECONDS if quick else seconds,
        most_per_second=most,
        rate=rate,
    )
    told = measure_telling(plan, tell=_tell)
    text = report.page(report.telling(told), f"{plan}", report.circumstances(told.postgresql))
    click.echo(text)
    if write:
        report.write_between("telling", text)


@benchmarks.command("calling")
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes of the service.")
@click.option("--threads", type=click.IntRange(1, 32), default=16, show_default=True, help="Threads of each process.")
@click.option("--connections", type=click.IntRange(1, 128), default=64, show_default=True, help="Of the load client.")
@click.option("--seconds", type=click.FloatRange(1), default=_THOROUGH[0], show_default=True, help="Of each part.")
@click.option("--most", type=click.IntRange(1), default=2500, show_default=True, help="Notifications to sign a second.")
@click.option("--rate", type=click.FloatRange(1), default=100, show_default=True, help="Users who agree a second.")
@click.option("--quick", is_flag=True, help="Short parts: shows that it works.")
@click.option("--write", is_flag=True, help="Put the figures into benchmarks/README.md.")
def measure_how_it_calls(
    *, workers: int, threads: int, connections: int, seconds: float, most: int, rate: float, quick: bool, write: bool
) -> None:
    """Measure how soon a code becomes a token, and what calls that hang take from receiving."""
    plan = Plan(
        Size(workers, threads),
        connections=connections,
        seconds=_QUICK_TELLING_SECONDS if quick else seconds,
        most_per_second=most,
        rate=rate,
    )
    called = measure_calling(plan, tell=_tell)
    text = report.page(report.calling(called), f"{plan}", report.circumstances(called.postgresql))
    click.echo(text)
    if write:
        report.write_between("calling", text)


if __name__ == "__main__":
    benchmarks()
