"""Try for as long as you have to make the service lose something, on both databases at once, and print the figures."""

import json
import logging
import platform
import random
import subprocess
import sys
import tempfile
import time
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
)
from tests.soak.upgrading import RELEASE_BEFORE, release_before, upgrade
from tests.soak.world import Kind, World, world

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
def both(minutes: float, seed: int | None) -> None:
    """Run one process for each database, and exit 1 if anything was lost or wrong."""
    seed = random.randrange(1_000_000) if seed is None else seed
    click.echo(f"seed {seed}, {minutes:g} minutes on each database", err=True)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as runs:
        kinds = get_args(Kind)
        run = partial(_run_elsewhere, minutes=minutes, seed=seed, folder=Path(name))
        figures = dict(zip(kinds, runs.map(run, kinds), strict=True))
    click.echo(f"`make soak MINUTES={minutes:g} SEED={seed}` on {_machine()}:\n")
    click.echo(table(figures))
    for kind, run_figures in figures.items():
        for complaint in run_figures.complaints:
            click.echo(f"{kind}: {complaint}", err=True)
    sys.exit(any(each.faults() for each in figures.values()))


@soak.command()
@click.argument("kind", type=click.Choice(get_args(Kind)))
@click.option("--minutes", type=float, required=True)
@click.option("--seed", type=int, required=True)
@click.option("--figures", "figures_file", type=click.Path(path_type=Path), required=True, help="Where to write them.")
def one(kind: Kind, minutes: float, seed: int, figures_file: Path) -> None:
    """Run lap after lap on one database."""
    # What the service logs goes to a file; what the model's partner logs in this process is of no interest.
    logging.disable()
    chance = random.Random(f"{seed} {kind}")
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="soak-") as name, world(kind, Path(name), figures) as made:
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end:
            _lap(made, chance)
            said = ", ".join(f"{count} {what}" for what, count in figures.counts.items())
            click.echo(f"{kind}: {said}", err=True)
        made.server.end()
        search(made)
    figures_file.write_text(json.dumps({"counts": figures.counts, "complaints": figures.complaints}))


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
        made.figures.counts["wrong"] += 1
        made.figures.complaints.append("\n".join([str(disagreement), *disagreement.__notes__]))
    stage.database.close()


def _run_elsewhere(kind: Kind, *, minutes: float, seed: int, folder: Path) -> Figures:
    file = folder / kind
    command = [sys.executable, "-m", "tests.soak", "one", kind, "--minutes", str(minutes), "--seed", str(seed)]
    subprocess.run([*command, "--figures", file], cwd=ROOT, check=True)
    read = json.loads(file.read_text())
    return Figures(Counter(read["counts"]), read["complaints"])


def _machine() -> str:
    with Path("/proc/cpuinfo").open() as lines:
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} × {models[0]}, Python {platform.python_version()}, SQLAlchemy {version('sqlalchemy')}"


if __name__ == "__main__":
    soak(prog_name="python -m tests.soak")
