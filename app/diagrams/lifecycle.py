"""Draw the machine itself, and write its transitions as a table.

Both are read off the machine: its states, and for each the events that it allows in either flow.
"""

from app.diagrams.drawing import STATE_COLORS, Drawing, Edge, Node
from app.state_machine import (
    INITIAL_STATE,
    AuthorizationMachine,
    AuthorizationState,
    Event,
    Flow,
    Verdict,
    decide,
)

START = "consult"


def draw_lifecycle() -> Drawing:
    """Draw the machine itself."""
    nodes = [Node(state, *STATE_COLORS[state], is_final=is_final(state)) for state in AuthorizationState]
    edges = [Edge(None, INITIAL_STATE, (START,))]
    edges += [
        Edge(start, end, (event, f"[{condition}]") if condition else (event,))
        for start, event, end, condition in transitions()
    ]
    return Drawing(nodes, edges)


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


def is_final(state: AuthorizationState) -> bool:
    """Say whether no event leads on from a state."""
    return any(each.id == state.value and each.final for each in AuthorizationMachine.states)
