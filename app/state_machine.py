"""The life of an authorization: its states, the events that move it, and what an event is in a state.

Pure: no session, no clock, no Flask. The rest of the code asks one question of it, `decide`.
"""

import functools
from dataclasses import dataclass
from enum import Enum, StrEnum

from statemachine import State, StateMachine
from statemachine.exceptions import TransitionNotAllowed


class Flow(StrEnum):
    """How the merchant comes by the token."""

    #: A code first, which the merchant exchanges for the token.
    AUTO_DEBIT = "auto_debit"
    #: The token at once, as with EasySafePay.
    DIRECT = "direct"


class AuthorizationState(StrEnum):
    """What an authorization is."""

    CONSULTED = "consulted"
    AUTHCODE_ISSUED = "authcode_issued"
    TOKEN_ACTIVE = "token_active"  # noqa: S105 -- a state, not a password
    CANCELED = "canceled"


class Event(StrEnum):
    """What moves an authorization."""

    AUTHCODE_CREATED = "authcode_created"
    TOKEN_CREATED = "token_created"  # noqa: S105 -- an event, not a password
    TOKEN_REFRESHED = "token_refreshed"  # noqa: S105 -- an event, not a password
    TOKEN_CANCELED = "token_canceled"  # noqa: S105 -- an event, not a password


class AuthorizationMachine(StateMachine):
    """The machine itself. `StateMachine` raises where an event is illegal; a `StateChart` would ignore it."""

    consulted = State(initial=True)
    authcode_issued = State()
    token_active = State()
    canceled = State(final=True)

    # A user who goes back and agrees again is given another code, which takes the older one's place.
    authcode_created = consulted.to(authcode_issued, cond="has_code_step") | authcode_issued.to(
        authcode_issued, cond="has_code_step", internal=True
    )
    token_created = authcode_issued.to(token_active) | consulted.to(token_active, unless="has_code_step")
    token_refreshed = token_active.to(token_active, internal=True)
    token_canceled = token_active.to(canceled)

    def __init__(self, flow: Flow, state: AuthorizationState | None = None) -> None:
        self.flow = flow
        super().__init__(start_value=None if state is None else state.value)

    @property
    def has_code_step(self) -> bool:
        """Whether the token is exchanged for a code."""
        return self.flow is Flow.AUTO_DEBIT


INITIAL_STATE = AuthorizationState(AuthorizationMachine.initial_state.id)


class Verdict(Enum):
    """What an event is in a state."""

    LEGAL = "legal"
    #: Not legal now, legal in a state that can still be reached.
    EARLY = "early"
    #: Legal in no state that can still be reached.
    ILLEGAL = "illegal"


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer of the machine."""

    verdict: Verdict
    #: Where the event leads; `None` unless it is legal.
    next_state: AuthorizationState | None = None


@functools.cache
def decide(state: AuthorizationState, event: Event, flow: Flow) -> Decision:
    """Say whether an event is legal in a state, early, or illegal.

    There are few enough arguments to keep every answer, which spares building a machine for each notification.
    """
    next_state = _after(state, event, flow)
    if next_state is not None:
        return Decision(Verdict.LEGAL, next_state)
    early = any(_after(later, event, flow) is not None for later in reachable(state, flow))
    return Decision(Verdict.EARLY if early else Verdict.ILLEGAL)


def _after(state: AuthorizationState, event: Event, flow: Flow) -> AuthorizationState | None:
    """Send the event to a machine in that state, and see where it goes; `None` where it is not allowed."""
    machine = AuthorizationMachine(flow, state)
    try:
        machine.send(event.value)
    except TransitionNotAllowed:
        return None
    (reached,) = machine.configuration
    return AuthorizationState(reached.id)


def reachable(state: AuthorizationState, flow: Flow) -> set[AuthorizationState]:
    """Find the states that some sequence of events leads to, this one included."""
    found = {state}
    unvisited = [state]
    while unvisited:
        here = unvisited.pop()
        onward = {reached for event in Event if (reached := _after(here, event, flow)) is not None}
        unvisited += onward - found
        found |= onward
    return found
