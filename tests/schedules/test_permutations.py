"""Every order there is in which the consult and the notifications of one life can come, each notification twice.

An order without some of the duplicates is how one with all of them begins. So these are all, since each history must be
complete at the very step with which everything has come once, and not change any more.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import permutations
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Authorization, Transition
from tests.integration.stage import NOON, Stage
from tests.schedules.live import Live
from tests.schedules.model import Words
from tests.schedules.schedule import DisagreementError, replayable

#: What comes in a life, by flow, and the history it leaves behind.
LIVES = {
    "auto_debit": ["consult", "AUTHCODE_CREATED", "TOKEN_CREATED", "TOKEN_CANCELED"],
    "direct": ["consult", "TOKEN_CREATED", "TOKEN_CANCELED"],
}
HISTORIES = {
    "auto_debit": [
        (1, "consult", None, "consulted"),
        (2, "authcode_created", "consulted", "authcode_issued"),
        (3, "token_created", "authcode_issued", "token_active"),
        (4, "token_canceled", "token_active", "canceled"),
    ],
    "direct": [
        (1, "consult", None, "consulted"),
        (2, "token_created", "consulted", "token_active"),
        (3, "token_canceled", "token_active", "canceled"),
    ],
}

#: All on SQLite, and each third on PostgreSQL: what is decided is decided in memory, alike on both.
EVERY = {"sqlite": 1, "postgresql": 3}

Moves = list[tuple[int, str, str | None, str]]


@pytest.mark.no_cover  # Nothing runs here that other tests do not cover, and it takes a third less time.
@pytest.mark.parametrize(("flow", "first"), [(flow, first) for flow, life in LIVES.items() for first in life])
def test_every_order_of_a_life_leaves_the_same_history_at_once(
    stage: Stage, tmp_path: Path, flow: str, first: str
) -> None:
    """Many lives share a database, for it is the making of databases that takes time."""
    consult, *notifications = LIVES[flow]
    orders = [order for order in orders_of(consult, notifications) if order[0] == first]
    orders = orders[:: EVERY[stage.database.engine.dialect.name]]
    schedules = [[step_of(kind, flow, number) for kind in order] for number, order in enumerate(orders)]
    live = Live(stage)
    for schedule in schedules:
        live_through(live, schedule)
    lives = stage.database.run(all_lives, read_only=True)
    with replayable(stage, tmp_path):
        for number, schedule in enumerate(schedules):
            expected = HISTORIES[flow], NOON + timedelta(seconds=everything_came(schedule))
            if lives[f"s-{number}"] != expected:
                raise DisagreementError(schedule, f"Expected {expected}, found {lives[f's-{number}']}.")
    entries = stage.entries()
    assert {(entry.outcome, entry.deliveries) for entry in entries} == {("applied", 2)}
    assert len(entries) == len(orders) * len(notifications)
    assert stage.key_locks() == []


@pytest.mark.parametrize(("flow", "count"), [("auto_debit", 402), ("direct", 24)])
def test_that_many_orders_there_are(flow: str, count: int) -> None:
    consult, *notifications = LIVES[flow]
    assert len(orders_of(consult, notifications)) == count


def orders_of(consult: str, notifications: list[str]) -> list[tuple[str, ...]]:
    """List the orders up to where everything has come once, each with one order of what can only be the same again."""
    orders: dict[tuple[str, ...], tuple[str, ...]] = {}
    for order in permutations([consult, *notifications * 2]):
        orders[order[: everything_came(order) + 1]] = order
    return list(orders.values())


def everything_came(order: Sequence[object]) -> int:
    """Say with which step everything has come once."""
    return max(order.index(step) for step in order)


def step_of(kind: str, flow: str, number: int) -> Words:
    match kind:
        case "consult":
            return kind, f"s-{number}", flow, "u-1"
        case "AUTHCODE_CREATED":
            return kind, f"s-{number}", f"code-{number}"
        case "TOKEN_CREATED":
            return kind, f"s-{number}", f"token-{number}"
        case _:
            return kind, f"token-{number}"


def live_through(live: Live, schedule: Sequence[Words]) -> None:
    """Play a schedule at one step a second, so that the history tells which step made each move."""
    for second, step in enumerate(schedule):
        live.stage.clock.now = NOON + timedelta(seconds=second)
        live.perform(step)


def all_lives(session: Session) -> dict[str, tuple[Moves, datetime]]:
    """Read the history of every authorization, and when its last move was made."""
    lives: dict[str, tuple[Moves, datetime]] = {}
    rows = session.execute(
        select(Authorization.auth_state, Transition)
        .join(Transition, Transition.authorization_id == Authorization.id)
        .order_by(Transition.authorization_id, Transition.sequence)
    )
    for auth_state, move in rows:
        moves, _ = lives.get(auth_state, ([], NOON))
        lives[auth_state] = [*moves, (move.sequence, move.event, move.from_state, move.to_state)], move.at
    return lives
