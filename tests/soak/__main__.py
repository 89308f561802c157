"""Try for as long as you have to make the service lose something, on both databases at once, and print the figures."""

import json
import logging
import platform
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import click
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.acceptance.site import a_site
from tests.conftest import ROOT
from tests.integration.stage import a_stage
from tests.postgres import PostgresServer, running_server
from tests.schedules.exploration import explore
from tests.schedules.schedule import DisagreementError, replayable
from tests.soak.figures import Figures, table
from tests.soak.rounds import (
    BACKGROUND_TRAPS,
    CALL_TRAPS,
    race,
    search,
    spring_the_background_trap,
    spring_the_call_trap,
    spring_the_trap,
    storm,
    upgrade_machines,
)
from tests.soak.upgrading import RELEASE_BEFORE, release_before, upgrade
from tests.soak.world import Kind, World, world

#: Where what is lost or wrong is written, with the logs of the service, so that it outlives the run.
_FOLDER = ROOT / "build" / "soak"
#: Where several machines have one database, and so can be upgraded one by one.
_UPGRADED: tuple[Kind, ...] = ("postgresql", "replicated")
#: Such a database is left after this time for a new one, which begins with an upgrade.
_DATABASE_SECONDS = 6 * 60
#: One lap: about a minute, so that a run that is stopped early has had some of everything.
_STORM_SECONDS = 40
_RACES = 150
_TRAPS = 3
_SCHEDULES = 50


@click.group(help=__doc__)
def soak() -> None:
    pass


@soak.command()
@click.option("--minutes", type=float, default=60, show_default=True, help="How long to go on.")
@click.option("--seed", type=int, default=None, help="Makes up the same lives, orders and mishaps each time.")
@click.option("--folder", type=click.Path(path_type=Path), default=_FOLDER, help="Keeps what is lost or wrong.")
def both(minutes: float, seed: int | None, folder: Path) -> None:
    """Run one process for each database, and exit 1 if anything was lost or wrong."""
    seed = random.randrange(1_000_000) if seed is None else seed
    click.echo(f"seed {seed}, {minutes:g} minutes on each database", err=True)
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as runs:
        kinds = get_args(Kind)
        run = partial(_run_elsewhere, minutes=minutes, seed=seed, folder=folder)
        figures = dict(zip(kinds, runs.map(run, kinds), strict=True))
    click.echo(f"`make soak MINUTES={minutes:g} SEED={seed}` on {_machine()}:\n")
    click.echo(table(figures))
    for kind, run_figures in figures.items():
        for complaint in run_figures.complaints:
            click.echo(f"{kind}: {complaint}", err=True)
    if any(each.faults() for each in figures.values()):
        click.echo(f"They are written down in {folder}, with the logs of the service.", err=True)
    sys.exit(any(each.faults() for each in figures.values()))


@soak.command()
@click.argument("kind", type=click.Choice(get_args(Kind)))
@click.option("--minutes", type=float, required=True)
@click.option("--seed", type=int, required=True)
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="Where to write what was found.")
def one(kind: Kind, minutes: float, seed: int, folder: Path) -> None:
    """Run lap after lap on one kind of database."""
    # What the service logs goes to a file; what the model's partner logs in this process is of no interest.
    logging.disable()
    chance = random.Random(f"{seed} {kind}")
    figures = Figures(file=folder / f"{kind}-{seed}.txt")
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        before = release_before(Path(name) / "before") if kind in _UPGRADED else None
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end:
            made_in = Path(tempfile.mkdtemp(dir=name))
            faults = figures.faults()
            try:
                with world(kind, made_in, figures, before) as made:
                    _live(made, chance, until=end if before is None else min(end, time.monotonic() + _DATABASE_SECONDS))
            except Exception:  # noqa: BLE001 -- whatever ends the run is told with what was found before
                figures.complain("wrong", [traceback.format_exc()])
                end = 0
            if figures.faults() > faults:
                _keep_logs(made_in, folder / f"{kind}-{seed}.log")
        document = {"counts": figures.counts, "complaints": figures.complaints}
        (folder / f"{kind}-{seed}.json").write_text(json.dumps(document))


@soak.command()
@click.option("--minutes", type=float, default=10, show_default=True, help="How long to go on.")
def upgrades(minutes: float) -> None:
    """Upgrade two machines under load from the release before, again and again, and end at the first loss."""
    figures: Counter[str] = Counter()
    end = time.monotonic() + minutes * 60
    with tempfile.TemporaryDirectory() as name, running_server() as url, PostgresServer.connected(url) as server:
        before = release_before(Path(name) / "before")
        if before is None:
            click.echo(f"The commit {RELEASE_BEFORE} is not in this checkout.", err=True)
            sys.exit(1)
        while time.monotonic() < end:
            folder = Path(tempfile.mkdtemp(dir=name))
            with (
                server.database(template="template0") as database,
                a_site(folder, database.render_as_string(hide_password=False)) as site,
            ):
                ledger = upgrade(site, before, calm_seconds=5, seed=figures["upgrades"])
            figures += Counter({"upgrades": 1, "notifications": len(ledger.sent)}) + ledger.answers
            click.echo(", ".join(f"{count} {what}" for what, count in figures.items()))


def _live(made: World, chance: random.Random, *, until: float) -> None:
    """Upgrade the machines, where they are of the release before, and run lap after lap."""
    if made.before is not None:
        upgrade_machines(made, chance)
    while time.monotonic() < until:
        _lap(made, chance)
        said = ", ".join(f"{count} {what}" for what, count in made.figures.counts.items())
        click.echo(f"{made.kind}: {said}", err=True)
    made.server.end()
    search(made)


def _keep_logs(folder: Path, file: Path) -> None:
    with file.open("a", encoding="utf-8") as kept:
        for log in sorted(folder.glob("*.log")):
            kept.write(f"--- {log.name}\n{log.read_text(encoding='utf-8', errors='replace')}")


def _lap(made: World, chance: random.Random) -> None:
    storm(made, chance, seconds=_STORM_SECONDS)
    race(made, chance, races=_RACES)
    for _ in range(_TRAPS):
        spring_the_trap(made, chance)
    spring_the_background_trap(made, chance, chance.choice(BACKGROUND_TRAPS))
    spring_the_call_trap(made, chance, chance.choice(CALL_TRAPS))
    stage = a_stage(made.url, rsa.generate_private_key(public_exponent=65537, key_size=2048))
    folder = Path(tempfile.mkdtemp(prefix="schedule-"))
    try:
        with replayable(stage, folder):
            explore(stage, schedules=_SCHEDULES, seed=chance.randrange(1_000_000))
        folder.rmdir()
        made.figures.counts["schedules"] += _SCHEDULES
    except DisagreementError as disagreement:
        made.figures.complain("wrong", ["\n".join([str(disagreement), *disagreement.__notes__])])
    stage.database.close()


def _run_elsewhere(kind: Kind, *, minutes: float, seed: int, folder: Path) -> Figures:
    command = [sys.executable, "-m", "tests.soak", "one", kind, "--minutes", str(minutes), "--seed", str(seed)]
    subprocess.run([*command, "--folder", folder], cwd=ROOT, check=True)
    read = json.loads((folder / f"{kind}-{seed}.json").read_text())
    return Figures(Counter(read["counts"]), read["complaints"])


def _machine() -> str:
    with Path("/proc/cpuinfo").open() as lines:
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} × {models[0]}, Python {platform.python_version()}, SQLAlchemy {version('sqlalchemy')}"


if __name__ == "__main__":
    soak(prog_name="python -m tests.soak")
