"""Make up whole lives without contradictions, and put their acts in an order that keeps the merchant's reports legal.

A life is a consult, a code and a first token, by notification, by report or both, then perhaps refreshes and an end;
every notification may come again, and a cancellation before its token. Refreshes and revokes divide a life into phases.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from hypothesis import strategies as st

from tests.schedules.model import Words


@dataclass(frozen=True)
class Act:
    """A step, and where in its life it belongs: refreshes and revokes have the odd phases to themselves."""

    auth_state: str
    phase: int
    step: Words


@st.composite
def lives(draw: st.DrawFn) -> list[Act]:
    """Make up one to three lives, of one user, that have nothing to do with each other."""
    numbers = range(draw(st.integers(1, 3)))
    return [act for number in numbers for act in draw(a_life(f"s-{number}", f"code-{number}", f"token-{number}"))]


@st.composite
def a_life(draw: st.DrawFn, auth_state: str, code: str, token: str) -> list[Act]:
    flow = draw(st.sampled_from(["auto_debit", "direct"]))
    refreshes = draw(st.integers(0, 2))
    tokens = [f"{token}.{number}" for number in range(refreshes + 1)]
    last_phase = 2 * refreshes
    acts = [Act(auth_state, 0, ("consult", auth_state, flow, "u-1"))]

    def tell(phase: int, *ways: Words) -> None:
        """Say something at least once in its phase, and perhaps again, also later."""
        acts.append(Act(auth_state, phase, draw(st.sampled_from(ways))))
        later = st.sampled_from(range(phase, last_phase + 1, 2))
        acts.extend(draw(st.lists(st.builds(Act, st.just(auth_state), later, st.sampled_from(ways)), max_size=2)))

    codes = [code] if flow == "auto_debit" else []
    for each in codes:
        tell(0, ("AUTHCODE_CREATED", auth_state, each), ("authcode", auth_state, each))
    tell(0, ("TOKEN_CREATED", auth_state, tokens[0]), ("token", auth_state, tokens[0], *codes))
    for number in range(refreshes):
        acts.append(Act(auth_state, 2 * number + 1, ("refresh", auth_state, tokens[number], tokens[number + 1])))
        if draw(st.booleans()):
            tell(2 * number + 2, ("TOKEN_CANCELED", tokens[number]))
    # The last token may be canceled before it is known, but it must not end the life before the last refresh does.
    end = draw(st.sampled_from(["none", "canceled", "revoked"]))
    if end == "canceled":
        tell(draw(st.sampled_from(range(0, last_phase + 1, 2))), ("TOKEN_CANCELED", tokens[-1]))
    if end == "revoked":
        acts.append(Act(auth_state, last_phase + 1, ("revoke", auth_state)))
    return acts


def arranged(shuffled: Iterable[Act]) -> list[Words]:
    """Put the phases of each life in order, and what the merchant can only report after the consult behind it.

    Everything else stays where it was shuffled to: each life keeps its places among the others.
    """
    places = list(shuffled)
    steps: dict[str, list[Words]] = {}
    for auth_state in {act.auth_state for act in places}:
        own = sorted((act for act in places if act.auth_state == auth_state), key=lambda act: act.phase)
        ordered = [act.step for act in own]
        consult = next(step for step in ordered if step[0] == "consult")
        reported = [number for number, step in enumerate(ordered) if step[0].islower()]
        ordered.remove(consult)
        ordered.insert(reported[0], consult)
        steps[auth_state] = ordered[::-1]
    return [steps[act.auth_state].pop() for act in places]
