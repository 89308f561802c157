"""Draw the machine, and the way of one authorization through it.

Whatever is drawn is read off the machine: its states, and for each the events that it allows in either flow. A drawing
is a value; it is written as Mermaid, or as DOT, from which Graphviz makes SVG and PNG.
"""

import subprocess
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from app.state_machine import INITIAL_STATE, AuthorizationMachine, AuthorizationState, Event, Flow, Verdict, decide

START = "consult"

#: A quiet color for each state: fill, and the line around it.
_COLORS = {
    AuthorizationState.CONSULTED: ("#eef2f7", "#64748b"),
    AuthorizationState.AUTHCODE_ISSUED: ("#fef5e0", "#b7791f"),
    AuthorizationState.TOKEN_ACTIVE: ("#e6f4ea", "#2f855a"),
    AuthorizationState.CANCELED: ("#fbeaea", "#b83232"),
}
_NEVER_VISITED = ("#ffffff", "#b6bec9")
_INK, _PALE, _NOTE = "#1f2933", "#b6bec9", "#fffbe6"
_GRAPHVIZ_SECONDS_MAX = 60


@dataclass(frozen=True, slots=True)
class Step:
    """One transition of a history."""

    sequence: int
    event: str
    from_state: AuthorizationState | None
    to_state: AuthorizationState
    at: datetime


@dataclass(frozen=True, slots=True)
class Knock:
    """A notification that was not let in: parked, rejected or failed. Its type is whatever a stranger wrote."""

    type: str | None
    outcome: str
    reason: str | None
    at: datetime
    deliveries: int = 1
    #: The state it found; `None` if it found no authorization.
    state: AuthorizationState | None = None


@dataclass(frozen=True, slots=True)
class _Node:
    state: AuthorizationState
    fill: str
    line: str
    is_current: bool = False


@dataclass(frozen=True, slots=True)
class _Edge:
    """An arrow. One that starts nowhere is the consult."""

    start: AuthorizationState | None
    end: AuthorizationState
    lines: tuple[str, ...]
    is_taken: bool = True


@dataclass(frozen=True, slots=True)
class _Note:
    state: AuthorizationState | None
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """States, arrows and notes, before they are written in any language."""

    nodes: list[_Node]
    edges: list[_Edge]
    notes: list[_Note] = field(default_factory=list)


def lifecycle() -> Drawing:
    """Draw the machine itself."""
    nodes = [_Node(state, *_COLORS[state]) for state in AuthorizationState]
    edges = [_Edge(None, INITIAL_STATE, (START,))]
    edges += [
        _Edge(start, end, (event, f"({condition})") if condition else (event,))
        for start, event, end, condition in transitions()
    ]
    return Drawing(nodes, edges)


def authorization(
    state: AuthorizationState, flow: Flow, history: Sequence[Step], knocks: Sequence[Knock] = ()
) -> Drawing:
    """Draw one authorization: where it is, the way it came, the ways it did not take, and who knocked in vain."""
    visited = {step.to_state for step in history}
    nodes = [
        _Node(each, *(_COLORS[each] if each in visited else _NEVER_VISITED), is_current=each is state)
        for each in AuthorizationState
    ]
    ways = {(None, START, INITIAL_STATE): True} | {
        (start, event.value, end): True for start, event, end, _ in transitions(flow)
    }
    edges = []
    for start, event, end in ways:
        taken = [step for step in history if (step.from_state, step.event, step.to_state) == (start, event, end)]
        lines = [line for step in taken for line in (f"{step.sequence}. {step.event}", _short(step.at))]
        edges.append(_Edge(start, end, tuple(lines or [event]), is_taken=bool(taken)))
    return Drawing(nodes, edges, _notes(knocks))


def transitions(flow: Flow | None = None) -> list[tuple[AuthorizationState, Event, AuthorizationState, str]]:
    """List every transition of the machine, or of one flow, with the flow that it takes if it takes a certain one."""
    found = []
    for start in AuthorizationState:
        for event in Event:
            flows = [each for each in Flow if decide(start, event, each).verdict is Verdict.LEGAL]
            ends = {decide(start, event, each).next_state for each in flows if flow in {None, each}}
            condition = "" if len(flows) == len(Flow) else " ".join(flows)
            found += [(start, event, end, condition) for end in ends if end is not None]
    return found


def transition_table() -> str:
    """Write the transitions of the machine as a Markdown table."""
    rows = [f"| `{START}` | → `{INITIAL_STATE}` | |"]
    for start, event, end, condition in transitions():
        when = f"flow `{condition}`" if condition else ""
        rows.append(f"| `{event}` | `{start}` → `{end}` | {when} |".replace("|  |", "| |"))
    return "\n".join(["| event | from → to | when |", "|---|---|---|", *rows]) + "\n"


def _notes(knocks: Sequence[Knock]) -> list[_Note]:
    """Gather the notifications that changed nothing and are still of interest, by the state they found."""
    states = [None, *AuthorizationState]
    refused = [knock for knock in knocks if knock.outcome not in {"applied", "redundant"}]
    lines = {
        state: tuple(line for knock in refused if knock.state is state for line in _knocked(knock)) for state in states
    }
    return [_Note(state, lines[state]) for state in states if lines[state]]


def _knocked(knock: Knock) -> tuple[str, str]:
    times = f" × {knock.deliveries}" if knock.deliveries > 1 else ""
    reason = f" ({knock.reason})" if knock.reason else ""
    return f"{knock.type or 'unreadable'}{times}", f"{knock.outcome}{reason} {_short(knock.at)}"


def _short(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


# --- Mermaid ---------------------------------------------------------------------------------------------------------


def mermaid(drawing: Drawing) -> str:
    """Write a drawing as a Mermaid flowchart: state diagrams there can neither dot an arrow nor pale one."""
    lines = ["flowchart LR", "    start((( )))"]
    for node in drawing.nodes:
        label = _mermaid_text((node.state,))
        shape = f'((("{label}")))' if _is_final(node.state) else f'("{label}")'
        lines += [f"    {node.state}{shape}", f"    style {node.state} {_mermaid_style(node)}"]
    for number, edge in enumerate(drawing.edges):
        arrow = "-->" if edge.is_taken else "-.->"
        lines.append(f'    {edge.start or "start"} {arrow}|"{_mermaid_text(edge.lines)}"| {edge.end}')
        if not edge.is_taken:
            lines.append(f"    linkStyle {number} stroke:{_PALE},color:{_PALE}")
    for number, note in enumerate(drawing.notes):
        lines.append(f'    note{number}["{_mermaid_text(note.lines)}"] -.- {note.state or "start"}')
        lines.append(f"    style note{number} fill:{_NOTE},stroke:#d6b656,color:{_INK},text-align:left")
    return "\n".join(lines) + "\n"


def _mermaid_style(node: _Node) -> str:
    width = 4 if node.is_current else 1
    return f"fill:{node.fill},stroke:{node.line},color:{_INK},stroke-width:{width}px"


def _mermaid_text(lines: Sequence[str]) -> str:
    """Write text that Mermaid and HTML read as nothing but text: what could mean something goes by its number."""
    return "<br/>".join(
        "".join(
            character if character.isalnum() or character in " _.:()-" else f"#{ord(character)};" for character in line
        )
        for line in map(_printable, lines)
    )


# --- DOT, SVG, PNG ---------------------------------------------------------------------------------------------------


def dot(drawing: Drawing) -> str:
    """Write a drawing in Graphviz's language."""
    lines = [
        "digraph authorization {",
        "    graph [rankdir=LR, bgcolor=white, pad=0.3, nodesep=0.5, ranksep=0.9]",
        f'    node [shape=box, style="rounded,filled", fontname=Arimo, fontcolor="{_INK}", margin="0.2,0.12"]',
        f'    edge [fontname=Arimo, fontsize=11, color="{_INK}", fontcolor="{_INK}", arrowsize=0.7]',
        f'    start [shape=circle, label="", width=0.16, fillcolor="{_INK}", color="{_INK}"]',
    ]
    for node in drawing.nodes:
        looks = f'fillcolor="{node.fill}", color="{node.line}", penwidth={3 if node.is_current else 1.2}'
        final = ", peripheries=2" if _is_final(node.state) else ""
        lines.append(f"    {node.state} [{looks}{final}]")
    for edge in drawing.edges:
        looks = "" if edge.is_taken else f', style=dotted, color="{_PALE}", fontcolor="{_PALE}"'
        lines.append(f"    {edge.start or 'start'} -> {edge.end} [label={_dot_text(edge.lines)}{looks}]")
    for number, note in enumerate(drawing.notes):
        looks = f'shape=note, style=filled, fillcolor="{_NOTE}", color="#d6b656", fontsize=11'
        lines.append(f"    note{number} [label={_dot_text(note.lines, align='l')}, {looks}]")
        lines.append(f'    {note.state or "start"} -> note{number} [dir=none, style=dashed, color="#d6b656"]')
    return "\n".join([*lines, "}"]) + "\n"


def _dot_text(lines: Sequence[str], *, align: Literal["n", "l"] = "n") -> str:
    escaped = (_printable(line).replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    # A blank on either side keeps a label off its line, and &amp; is Graphviz's way to mean an ampersand.
    return '"' + "".join(f" {line.replace('&', '&amp;')} \\{align}" for line in escaped) + '"'


def picture(drawing: Drawing, kind: Literal["svg", "png"]) -> bytes:
    """Have Graphviz make a picture of a drawing.

    The Graphviz that is installed with the project is used, so that every machine makes the same bytes.
    """
    program = Path(sysconfig.get_path("scripts")) / "graphviz-pure"
    options = [f"-T{kind}", "-Kdot", *(["-Gdpi=144"] if kind == "png" else [])]
    made = subprocess.run(  # noqa: S603 -- a program of our own environment, and text of our own making
        [program, *options], input=dot(drawing).encode(), capture_output=True, check=True, timeout=_GRAPHVIZ_SECONDS_MAX
    )
    return made.stdout


def _is_final(state: AuthorizationState) -> bool:
    return any(each.id == state.value and each.final for each in AuthorizationMachine.states)


def _printable(text: str) -> str:
    """Replace what no picture can show: control characters, and halves of characters."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
