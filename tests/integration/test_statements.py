"""What a delivery costs the database: so many statements, in few messages, however many are processed together."""

from typing import NamedTuple

import pytest

from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from tests.integration.stage import Stage

TOGETHER = 32


class PendingEntry(NamedTuple):
    """The last of some deliveries, how it ends, and how many statements that takes, in how many messages."""

    deliveries: str
    outcome: str
    statements: int
    messages: int


CASES = {
    "a code": PendingEntry("code", "applied", 8, 3),
    "a token": PendingEntry("code token", "applied", 12, 3),
    "a cancellation": PendingEntry("code token cancellation", "applied", 8, 3),
    "what comes too early": PendingEntry("cancellation", "parked", 8, 3),
    "what something waits for": PendingEntry("code cancellation token", "applied", 14, 4),
    "what was heard before": PendingEntry("code code", "applied", 4, 2),
}


def draft(kind: str, name: str) -> Draft:
    """Write the notification of this kind for an authorization."""
    match kind:
        case "code":
            return authcode_created(name, f"code-of-{name}")
        case "token":
            return token_created(name, f"token-of-{name}")
        case _:
            return token_canceled(f"token-of-{name}")


@pytest.mark.parametrize("number", [1, TOGETHER])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_any_number_of_deliveries_take_as_many_statements_as_one(stage: Stage, case: PendingEntry, number: int) -> None:
    names = [f"s-{each}" for each in range(number)]
    for name in names:
        stage.consult(name)
    *before, last = case.deliveries.split()
    for kind in before:
        stage.notify_batch([draft(kind, name).body() for name in names])
    with stage.overheard() as overheard:
        receipts = stage.notify_batch([draft(last, name).body() for name in names])
    assert {each.outcome for each in receipts} == {case.outcome}
    assert len(overheard.statements) == case.statements
    if stage.database.engine.dialect.name == "postgresql":
        assert overheard.messages == case.messages
