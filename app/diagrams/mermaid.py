"""Write a drawing in Mermaid's language, which GitHub, editors and wikis draw.

The output was looked at in Mermaid 10 to 12.
"""

import re
from collections.abc import Sequence

from app.diagrams.drawing import FADED_INK, INK, NOTE_FILL, NOTE_LINE, PALE, Drawing, Edge, Node

#: What Mermaid, or the Markdown, HTML, icons and formulas it finds in labels, could take for more than text: all but
#: letters, digits, blanks, brackets, hyphens and underscores within words, and colons before numbers and blanks.
_MEANINGFUL = re.compile(r"[^\w :()×…-]|(?<![^\W_])[_-]|[_-](?![^\W_])|:(?=[^\W\d])|(?<=\d)\)")
#: Every sign of ASCII has a twin of full width, which looks like it and means nothing.
_FULL_WIDTH = {sign: sign + 0xFEE0 for sign in range(ord("!"), ord("~") + 1)}


def state_diagram(drawing: Drawing) -> str:
    """Write the machine as a state diagram, which knows a beginning and an end."""
    lines = ["stateDiagram-v2", f"    direction {drawing.direction}"]
    lines += [f"    {edge.start or '[*]'} --> {edge.end}: {' '.join(edge.lines)}" for edge in drawing.edges]
    lines += [f"    {node.state} --> [*]" for node in drawing.nodes if node.is_final]
    for node in drawing.nodes:
        lines += [f"    classDef {node.state}_look {_style(node)}", f"    class {node.state} {node.state}_look"]
    return "\n".join(lines) + "\n"


def flowchart(drawing: Drawing) -> str:
    """Write the way of an authorization as a flowchart: state diagrams can neither dot an arrow nor pale one."""
    lines = [
        # Wide enough for the longest line of a note.
        '%%{init: {"flowchart": {"wrappingWidth": 480}}}%%',
        f"flowchart {drawing.direction}",
        "    start(( ))",
        f"    style start fill:{INK},stroke:{INK}",
    ]
    for node in drawing.nodes:
        shape = f'((("{node.state}")))' if node.is_final else f'("{node.state}")'
        lines += [f"    {node.state}{shape}", f"    style {node.state} {_style(node)}"]
    for number, note in enumerate(drawing.notes):
        lines.append(f'    note{number}["{_text(note.lines)}"] -.- {note.state or "start"}')
        lines.append(f"    style note{number} fill:{NOTE_FILL},stroke:{NOTE_LINE},color:{INK},text-align:left")
    lines += [
        f"    classDef taken fill:none,stroke:none,color:{INK}",
        f"    classDef pale fill:none,stroke:none,color:{FADED_INK}",
    ]
    count = len(drawing.notes)
    for edge in drawing.edges:
        links = _links(edge)
        lines += [f"    {link}" for link in links]
        if not edge.is_taken:
            numbers = ",".join(str(count + each) for each in range(len(links)))
            lines.append(f"    linkStyle {numbers} stroke:{PALE},color:{FADED_INK}")
        count += len(links)
    return "\n".join(lines) + "\n"


def _links(edge: Edge) -> list[str]:
    line, arrow, look = ("---", "-->", "taken") if edge.is_taken else ("-.-", "-.->", "pale")
    words = _text(edge.lines)
    if edge.start is edge.end:
        # Mermaid 11 keeps no room free for the words on an arrow that leads back; a node in its middle has room.
        middle = f"{edge.start}_again"
        return [f'{edge.start} {line} {middle}["{words}"]:::{look}', f"{middle} {arrow} {edge.end}"]
    return [f'{edge.start or "start"} {arrow}|"{words}"| {edge.end}']


def _style(node: Node) -> str:
    width = 4 if node.is_current else 1
    return f"fill:{node.fill},stroke:{node.line},color:{node.ink},stroke-width:{width}px"


def _text(lines: Sequence[str]) -> str:
    """Write text that stays text. Escapes would not do: Mermaid resolves them before it looks for Markdown or icons."""
    return "<br/>".join(_MEANINGFUL.sub(_without_meaning, line) for line in lines)


def _without_meaning(sign: re.Match[str]) -> str:
    return sign[0].translate(_FULL_WIDTH) if sign[0].isascii() else "\N{REPLACEMENT CHARACTER}"
