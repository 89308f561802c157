"""Write the pictures of the lifecycle, and say whether they are fresh: `flask diagrams`."""

from pathlib import Path

import click
from flask.cli import AppGroup

from app import diagrams as drawings
from app.cli.errors import Refusal

FOLDER = Path(__file__).parent.parent.parent / "diagrams"

diagrams = AppGroup("diagrams", help="Draw the lifecycle.")


def pictures() -> dict[str, bytes]:
    """Draw the lifecycle in every form that is kept beside the code, by file name."""
    drawing = drawings.lifecycle()
    return {
        "lifecycle.mmd": drawings.mermaid(drawing).encode(),
        "lifecycle.svg": drawings.picture(drawing, "svg"),
        "lifecycle.png": drawings.picture(drawing, "png"),
        "lifecycle.md": drawings.transition_table().encode(),
    }


class OutdatedError(Refusal):
    """A picture is not what the machine looks like."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"Outdated: {', '.join(names)} in diagrams/. Run: flask diagrams write")


@diagrams.command()
def write() -> None:
    """Draw the lifecycle anew into diagrams/."""
    for name, content in pictures().items():
        (FOLDER / name).write_bytes(content)
        click.echo(f"diagrams/{name}")


@diagrams.command()
def check() -> None:
    """Exit 1 if a picture in diagrams/ is not what the machine looks like."""
    stale = [
        name
        for name, content in pictures().items()
        if not (FOLDER / name).exists() or (FOLDER / name).read_bytes() != content
    ]
    if stale:
        raise OutdatedError(stale)
    click.echo("Every picture is what the machine looks like.")
