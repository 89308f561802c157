"""Draw the machine, and the way of one authorization through it.

Whatever is drawn is read off the machine: its states, and for each the events that it allows in either flow. A drawing
is a value, which knows no language; `mermaid` and `graphviz` write it, each in its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from app.state_machine import (
    INITIAL_STATE,
    AuthorizationMachine,
    AuthorizationState,
    Event,
    Flow,
    Verdict,
    decide,
    reachable,
)

START = "consult"

INK, FADED_INK, PALE = "#1f2933", "#7b8794", "#b6bec9"
NOTE_FILL, NOTE_LINE = "#fffbe6", "#d6b656"
#: Quiet colors for each state: its ground, the line around it, its name.
_COLORS = {
    AuthorizationState.CONSULTED: ("#eef2f7", "#64748b", INK),
    AuthorizationState.AUTHCODE_ISSUED: ("#fef5e0", "#b7791f", INK),
    AuthorizationState.TOKEN_ACTIVE: ("#e6f4ea", "#2f855a", INK),
    AuthorizationState.CANCELED: ("#fbeaea", "#b83232", INK),
}
_NEVER_VISITED = ("#ffffff", PALE, FADED_INK)

#: Of more entries than twice this, the first and the last are shown: a token refreshed daily would fill a wall.
_ENTRIES_AT_EITHER_END = 3
#: Twice what Alipay allows for a type; a stranger's may be as long as a body.
_TYPE_LENGTH_MAX = 64


@dataclass(frozen=True, slots=True)
class Step:
    """One transition of a history."""

    sequence: int
    event: str
    from_state: AuthorizationState | None
    to_state: AuthorizationState
    cause: str
    at: datetime


@dataclass(frozen=True, slots=True)
class WithoutEffect:
    """A notification that was not let in: parked, rejected or failed. Its type is whatever a stranger wrote."""

    type: str | None
    outcome: str
    reason: str | None
    at: datetime
    deliveries: int = 1
    #: The state it found; `None` if it found no authorization.
    state: AuthorizationState | None = None


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
    """What came at a state, or before there was one, and had no effect."""

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


def lifecycle() -> Drawing:
    """Draw the machine itself."""
    nodes = [Node(state, *_COLORS[state], is_final=_is_final(state)) for state in AuthorizationState]
    edges = [Edge(None, INITIAL_STATE, (START,))]
    edges += [
        Edge(start, end, (event, f"[{condition}]") if condition else (event,))
        for start, event, end, condition in transitions()
    ]
    return Drawing(nodes, edges)


def authorization(
    state: AuthorizationState, flow: Flow, history: Sequence[Step], without_effect: Sequence[WithoutEffect] = ()
) -> Drawing:
    """Draw one authorization: where it is, the way it came, the ways it did not take, and what had no effect."""
    visited = {state for step in history for state in (step.from_state, step.to_state)}
    ahead = reachable(INITIAL_STATE, flow)
    nodes = [
        Node(
            each,
            *(_COLORS[each] if each in visited else _NEVER_VISITED),
            is_final=_is_final(each),
            is_current=each is state,
        )
        for each in AuthorizationState
        if each in visited | ahead | {state} | {each.state for each in without_effect}
    ]
    taken: dict[tuple[AuthorizationState | None, str, AuthorizationState], list[Step]] = {
        (None, START, INITIAL_STATE): [],
        **{(start, event.value, end): [] for start, event, end, _ in transitions(flow) if start in ahead},
    }
    for step in history:
        # What is on record is drawn, even where the machine of today has no such way.
        taken.setdefault((step.from_state, step.event, step.to_state), []).append(step)
    edges = [
        Edge(start, end, _some([_moved(step) for step in steps]) or (event,), is_taken=bool(steps))
        for (start, event, end), steps in taken.items()
    ]
    return Drawing(nodes, edges, _notes(without_effect), direction="TB")


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


def _is_final(state: AuthorizationState) -> bool:
    return any(each.id == state.value and each.final for each in AuthorizationMachine.states)


def _notes(without_effect: Sequence[WithoutEffect]) -> list[Note]:
    """Gather the notifications that changed nothing and are still of interest, by the state they found."""
    refused = [each for each in without_effect if each.outcome not in {"applied", "redundant"}]
    lines = {
        state: _some([_described(each) for each in refused if each.state is state])
        for state in (None, *AuthorizationState)
    }
    return [Note(state, lines[state]) for state in lines if lines[state]]


def _moved(step: Step) -> tuple[str, str]:
    """Write a step with its number before a colon, as UML does: with a full stop Mermaid would make a list of it."""
    return f"{step.sequence}: {step.event}", f"{_short(step.at)} ({step.cause})"


def _described(each: WithoutEffect) -> tuple[str, str]:
    kind = each.type or "unreadable"
    if len(kind) > _TYPE_LENGTH_MAX:
        kind = f"{kind[: _TYPE_LENGTH_MAX - 1]}…"
    times = f" × {each.deliveries}" if each.deliveries > 1 else ""
    reason = f" ({each.reason})" if each.reason else ""
    return f"{kind}{times}", f"{each.outcome}{reason} {_short(each.at)}"


def _short(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _some(entries: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Give the lines of all entries, or of the first and the last ones if there are many."""
    left_out = len(entries) - 2 * _ENTRIES_AT_EITHER_END
    if left_out > 0:
        first, last = entries[:_ENTRIES_AT_EITHER_END], entries[-_ENTRIES_AT_EITHER_END:]
        entries = [*first, (f"… {left_out} more …",), *last]
    return tuple(_one_line(line) for entry in entries for line in entry)


def _one_line(text: str) -> str:
    """Replace what would break a line, and what no picture can show: control characters, and halves of characters."""
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return " ".join(shown.split())
