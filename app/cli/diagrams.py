"""`flask diagrams`: write the pictures of the lifecycle, and check that they show the machine as it is."""

from pathlib import Path

import click
from flask.cli import AppGroup

from app.cli.errors import Refusal
from app.diagrams import graphviz, mermaid
from app.diagrams.lifecycle import draw_lifecycle, transition_table

FOLDER = Path(__file__).parent.parent.parent / "diagrams"

diagrams = AppGroup("diagrams", help="Draw the lifecycle.")


def pictures() -> dict[str, bytes]:
    """Draw the lifecycle in every form that the repository holds, by file name."""
    drawing = draw_lifecycle()
    return {
        "lifecycle.mmd": mermaid.state_diagram(drawing).encode(),
        "lifecycle.svg": graphviz.picture(drawing, "svg"),
        "lifecycle.png": graphviz.picture(drawing, "png"),
        "lifecycle.md": transition_table().encode(),
    }


class OutdatedError(Refusal):
    """A picture is not what the machine looks like."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"Outdated: {', '.join(names)}. Run: flask diagrams write")


_folder = click.option(
    "--dir",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=FOLDER,
    help="By default the project's own diagrams/.",
)


@diagrams.command()
@_folder
def write(folder: Path) -> None:
    """Draw the lifecycle anew."""
    for name, content in pictures().items():
        (folder / name).write_bytes(content)
        click.echo(folder / name)


@diagrams.command()
@_folder
def check(folder: Path) -> None:
    """Exit 1 if a picture is not what the machine looks like."""
    files = {folder / name: content for name, content in pictures().items()}
    outdated = [file.name for file, content in files.items() if not file.exists() or file.read_bytes() != content]
    if outdated:
        raise OutdatedError(outdated)
    click.echo("Every picture is what the machine looks like.")
