"""A drawing as a value: states, arrows and notes. `mermaid` and `graphviz` write it, each in its own language."""

from dataclasses import dataclass, field
from typing import Literal

from app.state_machine import AuthorizationState

INK, FADED_INK, PALE = "#1f2933", "#7b8794", "#b6bec9"
NOTE_FILL, NOTE_LINE = "#fffbe6", "#d6b656"
#: Quiet colors for each state: its ground, the line around it, its name.
STATE_COLORS = {
    AuthorizationState.CONSULTED: ("#eef2f7", "#64748b", INK),
    AuthorizationState.AUTHCODE_ISSUED: ("#fef5e0", "#b7791f", INK),
    AuthorizationState.TOKEN_ACTIVE: ("#e6f4ea", "#2f855a", INK),
    AuthorizationState.CANCELED: ("#fbeaea", "#b83232", INK),
}
NEVER_VISITED_COLORS = ("#ffffff", PALE, FADED_INK)


@dataclass(frozen=True, slots=True)
class Node:
    """A state, in its colors."""

    state: AuthorizationState
    fill: str
    line: str
    ink: str
    is_final: bool
    is_current: bool = False


@dataclass(frozen=True, slots=True)
class Edge:
    """An arrow. One that starts nowhere is the consult."""

    start: AuthorizationState | None
    end: AuthorizationState
    lines: tuple[str, ...]
    is_taken: bool = True


@dataclass(frozen=True, slots=True)
class Note:
    """Notifications without effect, or calls, beside the state that they found; `None` is before the consult."""

    state: AuthorizationState | None
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """States, arrows and notes, before they are written in any language."""

    nodes: list[Node]
    edges: list[Edge]
    notes: list[Note] = field(default_factory=list)
    #: From left to right, or from top to bottom, which leaves room beside the arrows for many words.
    direction: Literal["LR", "TB"] = "LR"
