"""Every state, event and flow, and what the machine says of them."""

from itertools import product

import pytest
from statemachine import State, StateMachine

from app.state_machine import (
    INITIAL_STATE,
    AuthorizationMachine,
    AuthorizationState,
    Decision,
    Event,
    Flow,
    Verdict,
    decide,
)

#: Written by hand from the lifecycle as it is meant, one line for each state: what each event leads to, or is.
#: Columns: authcode_created, token_created, token_refreshed, token_canceled.
EXPECTED = {
    Flow.AUTO_DEBIT: {
        "consulted": ("authcode_issued", "early", "early", "early"),
        "authcode_issued": ("authcode_issued", "token_active", "early", "early"),
        "token_active": ("illegal", "illegal", "token_active", "canceled"),
        "canceled": ("illegal", "illegal", "illegal", "illegal"),
    },
    Flow.DIRECT: {
        "consulted": ("illegal", "token_active", "early", "early"),
        # Not reached in this flow; the machine still has an answer.
        "authcode_issued": ("illegal", "token_active", "early", "early"),
        "token_active": ("illegal", "illegal", "token_active", "canceled"),
        "canceled": ("illegal", "illegal", "illegal", "illegal"),
    },
}


def expected(state: AuthorizationState, event: Event, flow: Flow) -> Decision:
    answer = EXPECTED[flow][state][list(Event).index(event)]
    if answer in {"early", "illegal"}:
        return Decision(Verdict(answer))
    return Decision(Verdict.LEGAL, AuthorizationState(answer))


@pytest.mark.parametrize(("state", "event", "flow"), list(product(AuthorizationState, Event, Flow)))
def test_every_event_in_every_state_has_the_specified_verdict(
    state: AuthorizationState, event: Event, flow: Flow
) -> None:
    assert decide(state, event, flow) == expected(state, event, flow)


def test_there_is_no_way_out_of_canceled() -> None:
    decisions = [decide(AuthorizationState.CANCELED, event, flow) for event in Event for flow in Flow]
    assert {decision.verdict for decision in decisions} == {Verdict.ILLEGAL}


def test_the_machine_has_just_the_states_and_events_that_the_code_names() -> None:
    assert {state.id for state in AuthorizationMachine.states} == set(AuthorizationState)
    assert {event.id for event in AuthorizationMachine(Flow.DIRECT).events} == set(Event)
    assert AuthorizationMachine.initial_state.id == INITIAL_STATE


def test_only_canceled_is_final() -> None:
    final: list[State] = [state for state in AuthorizationMachine.states if state.final]
    assert [state.id for state in final] == ["canceled"]


def test_the_machine_refuses_illegal_events() -> None:
    """A `StateChart` would ignore it."""
    assert issubclass(AuthorizationMachine, StateMachine)
    machine = AuthorizationMachine(Flow.DIRECT)
    with pytest.raises(StateMachine.TransitionNotAllowed):
        machine.send(Event.AUTHCODE_CREATED.value)


def test_decisions_are_cached() -> None:
    arguments = AuthorizationState.CONSULTED, Event.TOKEN_CREATED, Flow.DIRECT
    assert decide(*arguments) is decide(*arguments)
