"""Play a schedule from a file, or try made-up ones for as long as you have, outside of a test run."""

import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path

import click
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.conftest import migrate
from tests.integration.stage import Stage, a_stage
from tests.schedules.calls_exploration import explore_calls
from tests.schedules.exploration import explore
from tests.schedules.live import Live
from tests.schedules.pieces import LiveInPieces, resumed_in_pieces
from tests.schedules.queue_exploration import explore_queue
from tests.schedules.queue_promises import BrokenPromiseError
from tests.schedules.schedule import DisagreementError, Play, read, replayable, written

#: So few take some twenty seconds; then the time is looked at again.
BATCH_SIZE = 100

database_url_option = click.option(
    "--database-url", metavar="URL", help="An empty or migrated database; by default an SQLite file made for this."
)


@click.group(help=__doc__)
def schedules() -> None:
    pass


@schedules.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--piece", type=int, default=None, help="How many parked entries a transaction resumes.")
@database_url_option
def replay(file: Path, piece: int | None, database_url: str | None) -> None:
    """Play FILE on the service and on the model, print the result of each step, and exit 1 where they disagree."""
    in_pieces = nullcontext() if piece is None else resumed_in_pieces(piece)
    with a_migrated_stage(database_url) as stage, in_pieces:
        play = Play(Live(stage) if piece is None else LiveInPieces(stage))
        try:
            for step in read(file.read_text()):
                click.echo(f"{written(step):<40} {play.step(*step)}")
                if piece is None:
                    play.compare()
            # In pieces only at the end: a comparison resumes the rest.
            play.compare()
        except DisagreementError as disagreement:
            raise click.ClickException(str(disagreement)) from disagreement
        click.echo("\nThe service and the model agree on what is on record:\n")
        click.echo("\n".join(play.live.record()))


@schedules.command()
@click.option("--minutes", type=float, default=60, show_default=True, help="How long to go on.")
@click.option("--seed", type=int, default=None, help="Makes up the same schedules each time.")
@database_url_option
def soak(minutes: float, seed: int | None, database_url: str | None) -> None:
    """Make up schedules, print how many there were, and exit 1 with the shortest that the two disagree about."""
    end = time.monotonic() + minutes * 60
    first_seed = random.randrange(1_000_000) if seed is None else seed
    steps = 0
    merchant_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with a_migrated_stage(database_url) as stage:
        for batch in count():
            try:
                with replayable(stage, Path(tempfile.mkdtemp(prefix="schedule-"))):
                    steps += explore(stage, schedules=BATCH_SIZE, seed=first_seed + batch)
            except DisagreementError as disagreement:
                raise click.ClickException("\n".join([str(disagreement), *disagreement.__notes__])) from disagreement
            try:
                explore_queue(stage, schedules=BATCH_SIZE, seed=first_seed + batch)
                explore_calls(stage, merchant_key, schedules=BATCH_SIZE, seed=first_seed + batch)
            except BrokenPromiseError as broken:
                raise click.ClickException(str(broken)) from broken
            tried = (batch + 1) * BATCH_SIZE
            said = (
                f"{tried} schedules of {steps} steps so far, all as the model says, {tried} of the queue and of calls"
            )
            click.echo(f"seed {first_seed + batch}: {said}")
            if time.monotonic() > end:
                return


@contextmanager
def a_migrated_stage(database_url: str | None) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory() as folder:
        url = database_url or f"sqlite:///{folder}/schedules.db"
        migrate(url)
        stage = a_stage(url, rsa.generate_private_key(public_exponent=65537, key_size=2048))
        try:
            yield stage
        finally:
            stage.database.close()


if __name__ == "__main__":
    schedules(prog_name="python -m tests.schedules")
