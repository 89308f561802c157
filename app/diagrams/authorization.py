"""Draw one authorization: where it is, the way it came, its calls, and the notifications that had no effect."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from app.diagrams.drawing import NEVER_VISITED_COLORS, STATE_COLORS, Drawing, Edge, Node, Note
from app.diagrams.lifecycle import START, is_final, transitions
from app.state_machine import INITIAL_STATE, AuthorizationState, Flow, reachable
from app.vocabulary import CallKind

#: Of more entries than twice this, the first and the last are shown: a token refreshed daily would fill a wall.
_ENTRIES_AT_EITHER_END = 3
#: Twice what Alipay allows for a type; a sender may invent one as long as a body.
_TYPE_LENGTH_MAX = 64

#: In which state a call is made.
_CALLED_IN = {
    CallKind.CONSULT: AuthorizationState.CONSULTED,
    CallKind.EXCHANGE: AuthorizationState.AUTHCODE_ISSUED,
    CallKind.REFRESH: AuthorizationState.TOKEN_ACTIVE,
    CallKind.REVOKE: AuthorizationState.TOKEN_ACTIVE,
}


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
    """A notification that did not move the authorization. Its type may be any text: it is the sender's."""

    type: str | None
    outcome: str
    reason: str | None
    at: datetime
    deliveries: int = 1
    #: The state it found; `None` if it found no authorization.
    state: AuthorizationState | None = None


@dataclass(frozen=True, slots=True)
class CallMade:
    """Something that the service asked of Alipay, and how it stands."""

    kind: CallKind | str
    status: str
    result_code: str | None
    at: datetime
    attempts: int


def draw_authorization(
    state: AuthorizationState,
    flow: Flow,
    history: Sequence[Step],
    without_effect: Sequence[WithoutEffect] = (),
    calls: Sequence[CallMade] = (),
) -> Drawing:
    """Draw one authorization: where it is, the ways it took and did not take, its calls, and what had no effect."""
    visited = {state for step in history for state in (step.from_state, step.to_state)}
    ahead = reachable(INITIAL_STATE, flow)
    nodes = [
        Node(
            each,
            *(STATE_COLORS[each] if each in visited else NEVER_VISITED_COLORS),
            is_final=is_final(each),
            is_current=each is state,
        )
        for each in AuthorizationState
        if each in visited | ahead | {state} | {each.state for each in without_effect} | set(map(_called_in, calls))
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
    return Drawing(nodes, edges, [*_notes(without_effect), *_notes_of_calls(calls)], direction="TB")


def _notes(without_effect: Sequence[WithoutEffect]) -> list[Note]:
    """Note the notifications that were parked, rejected or failed beside the state they found."""
    refused = [each for each in without_effect if each.outcome not in {"applied", "redundant"}]
    lines = {
        state: _some([_described(each) for each in refused if each.state is state])
        for state in (None, *AuthorizationState)
    }
    return [Note(state, lines[state]) for state in lines if lines[state]]


def _notes_of_calls(calls: Sequence[CallMade]) -> list[Note]:
    """Note the calls beside the state in which they are made."""
    called_in = set(map(_called_in, calls))
    return [
        Note(state, _some([_told(each) for each in calls if _called_in(each) is state]))
        for state in AuthorizationState
        if state in called_in
    ]


def _called_in(call: CallMade) -> AuthorizationState:
    # A kind that only a newer release knows stands where every authorization begins.
    return _CALLED_IN[call.kind] if isinstance(call.kind, CallKind) else INITIAL_STATE


def _told(call: CallMade) -> tuple[str, str]:
    times = f" × {call.attempts}" if call.attempts > 1 else ""
    code = f" ({call.result_code})" if call.result_code else ""
    return f"call {call.kind}{times}", f"{call.status}{code} {_short(call.at)}"


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
