"""The order of arrival does not matter: same final state, same recorded history, nothing left waiting."""

from collections.abc import Callable
from datetime import timedelta
from itertools import permutations

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Authorization
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from tests.integration.stage import Stage

Act = Callable[[Stage], object]


def notify(notification: Draft) -> Act:
    return lambda stage: stage.notify(notification)


def consult(flow: str) -> Act:
    return lambda stage: stage.consult(flow=flow)


AUTO_DEBIT: list[Act] = [
    consult("auto_debit"),
    notify(authcode_created("s-1", "code-1")),
    notify(token_created("s-1", "token-1")),
    notify(token_canceled("token-1")),
]
DIRECT: list[Act] = [
    consult("direct"),
    notify(token_created("s-1", "token-1")),
    notify(token_canceled("token-1")),
]


def in_every_order(acts: list[Act]) -> list[tuple[Act, ...]]:
    return list(permutations(acts))


def order_id(order: tuple[Act, ...]) -> str:
    acts = AUTO_DEBIT if len(order) == len(AUTO_DEBIT) else DIRECT
    return "-".join(str(acts.index(act)) for act in order)


@pytest.mark.parametrize("order", in_every_order(AUTO_DEBIT), ids=order_id)
def test_a_life_in_any_order_ends_canceled_with_the_same_history(stage: Stage, order: tuple[Act, ...]) -> None:
    for act in order:
        act(stage)
    assert stage.moves() == [
        (1, "consult", None, "consulted"),
        (2, "authcode_created", "consulted", "authcode_issued"),
        (3, "token_created", "authcode_issued", "token_active"),
        (4, "token_canceled", "token_active", "canceled"),
    ]
    assert {outcome for outcome, _ in stage.outcomes()} == {"applied"}
    assert stage.key_locks() == []


@pytest.mark.parametrize("order", in_every_order(DIRECT), ids=order_id)
def test_a_direct_life_in_any_order_ends_canceled_with_the_same_history(stage: Stage, order: tuple[Act, ...]) -> None:
    for act in order:
        act(stage)
        if act is not DIRECT[0]:
            act(stage)
    assert stage.moves() == [
        (1, "consult", None, "consulted"),
        (2, "token_created", "consulted", "token_active"),
        (3, "token_canceled", "token_active", "canceled"),
    ]
    assert {outcome for outcome, _ in stage.outcomes()} == {"applied"}


def test_resuming_goes_on_until_nothing_moves(stage: Stage) -> None:
    stage.notify(token_canceled("token-1"))
    stage.notify(token_created("s-1", "token-1"))
    stage.notify(authcode_created("s-1", "code-1"))
    stage.consult()
    assert stage.state() == "canceled"
    assert stage.waiting() == {}


def test_the_minute_of_a_code_that_waited_began_when_it_came(stage: Stage) -> None:
    came = stage.clock.now
    stage.notify(authcode_created("s-1", "code-1"))
    stage.clock.now += timedelta(seconds=65)
    stage.consult()
    with Session(stage.database.engine) as session:
        assert session.scalars(select(Authorization.auth_code_received_at)).one() == came


def test_of_two_contradicting_tokens_the_one_that_was_stored_first_wins(stage: Stage) -> None:
    """Also when the second could be applied in passing, before the first is looked at again."""
    stage.notify(token_created("s-1", "token-1"))
    stage.notify(authcode_created("s-1", "code-1"))
    stage.notify(token_created("s-1", "token-2"))
    stage.consult()
    assert stage.outcomes() == [("applied", None), ("applied", None), ("rejected", "illegal_transition")]


def test_a_parked_entry_is_processed_when_a_report_makes_its_token_known(stage: Stage) -> None:
    stage.notify(token_canceled("token-1"))
    stage.report_token(stage.consult(), "token-1", auth_code="code-1")
    assert stage.state() == "canceled"


def test_a_parked_entry_is_processed_when_a_refresh_makes_its_token_known(stage: Stage) -> None:
    authorization_id = stage.consult()
    stage.report_token(authorization_id, "token-1", auth_code="code-1")
    stage.notify(token_canceled("token-2"))
    stage.report_token(authorization_id, "token-2", replaces="token-1")
    assert stage.state() == "canceled"


def test_resuming_leaves_other_parked_entries_alone(stage: Stage) -> None:
    stage.notify(token_canceled("token-9"))
    stage.notify(authcode_created("s-9", "code-9"))
    stage.consult("s-1")
    stage.notify(authcode_created("s-1", "code-1"))
    assert stage.waiting() == {"unknown_auth_state": 1, "unknown_token": 1}


def test_a_creation_parked_for_another_authorization_is_not_resumed_by_this_ones_token(stage: Stage) -> None:
    stage.notify(token_created("s-2", "token-1"))
    stage.report_token(stage.consult("s-1"), "token-1", auth_code="code-1")
    assert stage.waiting() == {"unknown_auth_state": 1}
    stage.report_authcode(stage.consult("s-2"), "code-2")
    assert stage.outcomes() == [("rejected", "contradiction")]


def test_resumed_entries_name_their_authorization(stage: Stage) -> None:
    stage.notify(token_canceled("token-1"))
    stage.report_token(stage.consult(), "token-1", auth_code="code-1")
    assert [entry["type"] for entry in stage.document()["notifications"]] == ["TOKEN_CANCELED"]
