"""Write a drawing in DOT, the language of Graphviz, and have Graphviz make a picture of it.

Graphviz runs as a program of its own, so that the server never loads it.
"""

import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from app.diagrams.drawing import FADED_INK, INK, NOTE_FILL, NOTE_LINE, PALE, Drawing

#: A drawing takes a tenth of a second, and the first one on a busy machine a few.
_SECONDS_MAX = 60


def picture(drawing: Drawing, kind: Literal["svg", "png"]) -> bytes:
    """Have Graphviz make a picture of a drawing.

    The Graphviz that is installed with the project is used, which brings its own font, so that every machine makes the
    same bytes.
    """
    program = Path(sysconfig.get_path("scripts")) / "graphviz-pure"
    options = [f"-T{kind}", "-Kdot", *(["-Gdpi=144"] if kind == "png" else [])]
    made = subprocess.run(  # noqa: S603 -- a program of our own environment, and text of our own making
        [program, *options], input=dot(drawing).encode(), capture_output=True, check=True, timeout=_SECONDS_MAX
    )
    return made.stdout


def dot(drawing: Drawing) -> str:
    """Write a drawing in DOT."""
    lines = [
        "digraph authorization {",
        f"    graph [rankdir={drawing.direction}, bgcolor=white, pad=0.3, nodesep=0.5, ranksep=0.9]",
        # The one name that is drawn in Graphviz's own font, and in an SVG leaves every reader some font without serifs.
        '    node [shape=box, style="rounded,filled", fontname=Helvetica, margin="0.2,0.12"]',
        f'    edge [fontname=Helvetica, fontsize=11, color="{INK}", fontcolor="{INK}", arrowsize=0.7]',
        f'    start [shape=circle, label="", width=0.16, fillcolor="{INK}", color="{INK}"]',
    ]
    for node in drawing.nodes:
        looks = f'fillcolor="{node.fill}", color="{node.line}", fontcolor="{node.ink}"'
        rims = f"penwidth={3 if node.is_current else 1.2}, peripheries={2 if node.is_final else 1}"
        lines.append(f"    {node.state} [{looks}, {rims}]")
    for edge in drawing.edges:
        looks = "" if edge.is_taken else f', style=dotted, color="{PALE}", fontcolor="{FADED_INK}"'
        lines.append(f"    {edge.start or 'start'} -> {edge.end} [label={_text(edge.lines)}{looks}]")
    for number, note in enumerate(drawing.notes):
        looks = (
            f'shape=note, style=filled, fillcolor="{NOTE_FILL}", color="{NOTE_LINE}", fontcolor="{INK}", fontsize=11'
        )
        tie = f'dir=none, style=dashed, color="{NOTE_LINE}"'
        lines.append(f"    note{number} [label={_text(note.lines, align='l')}, {looks}]")
        # Before its state, and so on the side where no arrow leads back.
        lines.append(f"    {{rank=same; note{number} -> {note.state or 'start'} [{tie}]}}")
    return "\n".join([*lines, "}"]) + "\n"


def _text(lines: Sequence[str], *, align: Literal["n", "l"] = "n") -> str:
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    # A blank on either side keeps a label off its line, and &amp; is Graphviz's way to mean an ampersand.
    return '"' + "".join(f" {line.replace('&', '&amp;')} \\{align}" for line in escaped) + '"'
