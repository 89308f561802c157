"""Which of what is due is sent now: codes first, each authorization in order, nothing that is of no use any more."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid5

import pytest

from app.events.schedule import AGE_MAX
from app.events.sender import Choice, choose
from app.models import WebhookDelivery
from tests.integration.stage import NOON

NAMESPACE = UUID(int=0)


@dataclass
class Deliveries:
    """Makes them, each with the next position."""

    last: int = 0

    def a(self, of: str, *, code: bool = False, attempts: int = 0, age: float = 0) -> WebhookDelivery:
        self.last += 1
        created_at = NOON - timedelta(seconds=age)
        return WebhookDelivery(
            id=self.last,
            position=self.last,
            authorization_id=uuid5(NAMESPACE, of),
            attempts=attempts,
            created_at=created_at,
            due_at=created_at,
            expires_at=created_at + timedelta(minutes=1) if code else None,
        )


@pytest.fixture
def make() -> Deliveries:
    return Deliveries()


def ids(choice: Choice) -> tuple[list[int], list[int]]:
    return [each.id for each in choice.urgent], [each.id for each in choice.others]


def chosen(*due: WebhookDelivery, now: datetime = NOON, is_failing: bool = False) -> Choice:
    return choose(due, now=now, is_failing=is_failing)


def test_codes_come_before_all_else(make: Deliveries) -> None:
    assert ids(chosen(make.a("x"), make.a("y"), make.a("z", code=True))) == ([3], [1, 2])


def test_of_one_authorization_the_first_is_sent_and_no_other(make: Deliveries) -> None:
    first, second, third = make.a("x"), make.a("x"), make.a("y")
    assert ids(chosen(second, first, third)) == ([], [1, 3])


def test_a_code_takes_along_what_precedes_it(make: Deliveries) -> None:
    assert ids(chosen(make.a("x"), make.a("x", code=True), make.a("y"))) == ([1], [3])


def test_a_code_does_not_wait_for_what_has_failed_before(make: Deliveries) -> None:
    assert ids(chosen(make.a("x", attempts=1), make.a("x", code=True))) == ([2], [])


def test_a_code_for_an_endpoint_that_fails_waits_for_nothing(make: Deliveries) -> None:
    assert ids(chosen(make.a("x"), make.a("x", code=True), is_failing=True)) == ([2], [])


def test_a_code_whose_minute_is_over_is_not_sent(make: Deliveries) -> None:
    choice = chosen(make.a("x", code=True, age=60), make.a("y", code=True, age=59))
    assert (ids(choice), choice.expired, choice.dead) == (([2], []), [1], [])


def test_what_was_kept_from_being_sent_for_too_long_is_not_sent(make: Deliveries) -> None:
    longest = AGE_MAX.total_seconds()
    choice = chosen(make.a("x", age=longest + 1), make.a("y", age=longest))
    assert (ids(choice), choice.expired, choice.dead) == (([], [2]), [], [1])


def test_what_is_given_up_holds_nothing_back(make: Deliveries) -> None:
    assert ids(chosen(make.a("x", code=True, age=61), make.a("x"))) == ([], [2])
