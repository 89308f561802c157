"""Play a scenario against a running service, and say of every answer whether it was the right one."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import assert_never

from app.simulator.forgery import forge
from app.simulator.merchant import Merchant
from app.simulator.scenarios import Consult, Deliver, LookUp, Report, Scenario
from app.simulator.sender import Sender, Signer, epoch_milliseconds

#: Enough that no two runs ever share an authState, and few enough to be read aloud.
_MARK_BYTES = 5


@dataclass(frozen=True, slots=True)
class Performance:
    """One step as it went: who did what, what came back, and what should have."""

    actor: str
    action: str
    answer: str
    expected: str

    @property
    def right(self) -> bool:
        """Whether the answer was the right one."""
        return self.answer == self.expected


@dataclass(frozen=True, slots=True)
class Player:
    """Plays Alipay, and the merchant too if it is given one; without, the merchant's steps are left out."""

    signer: Signer
    sender: Sender
    #: What is signed: the sender's own URI, unless a proxy before the service rewrites paths.
    uri: str
    now: Callable[[], datetime]
    merchant: Merchant | None = None

    def play(self, scenario: Scenario) -> Iterator[Performance]:
        """Play the steps one after the other, all of them, however the answers turn out."""
        mark = secrets.token_hex(_MARK_BYTES)
        for step in scenario.steps:
            if isinstance(step, Deliver):
                yield self._deliver(step, mark)
            elif self.merchant is not None:
                yield _act(self.merchant, step, mark)

    def _deliver(self, step: Deliver, mark: str) -> Performance:
        draft = step.draft.marked(mark)
        action = f"{draft}\n{step.forgery}" if step.forgery else str(draft)
        delivery = forge(
            self.signer, step.forgery, draft.body(), uri=self.uri, request_time=epoch_milliseconds(self.now())
        )
        return Performance("Alipay", action, str(self.sender.send(delivery)), str(step.expected))


def _act(merchant: Merchant, step: Consult | Report | LookUp, mark: str) -> Performance:
    auth_state = f"{step.auth_state}-{mark}"
    match step:
        case Consult():
            action = f"consults {auth_state}, {step.flow}"
            reply = merchant.consult(auth_state, flow=step.flow, user_ref=f"{step.user}-{mark}")
            return Performance("merchant", action, str(reply), f"{HTTPStatus.CREATED} {step.expected}")
        case Report():
            action = f"reports {step.what} of {auth_state}"
            reply = merchant.report(auth_state, step.what, {k: f"{v}-{mark}" for k, v in step.secrets.items()})
            return Performance("merchant", action, str(reply), f"{HTTPStatus.OK} {step.expected}")
        case LookUp():
            reply = merchant.look_up(auth_state)
            answer = ", ".join(reply.states) or str(reply)
            return Performance("merchant", f"looks up {auth_state}", answer, ", ".join(step.expected))
        case _:
            assert_never(step)
