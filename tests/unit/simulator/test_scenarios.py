"""Scenarios are whole stories, and expect what the protocol promises."""

from collections.abc import Mapping
from http import HTTPStatus

import pytest

from app.alipay.notification import MalformedNotificationError, parse
from app.simulator.scenarios import ACKNOWLEDGED, MALFORMED, SCENARIOS, Consult, Deliver, LookUp, Report, Scenario

each_scenario = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)


def test_scenarios_of_the_readme_exist() -> None:
    assert set(SCENARIOS) == {
        "full-life",
        "direct",
        "redelivery",
        "wrong-order",
        "illegal",
        "forgery",
        "malformed",
        "re-authorization",
        "merchant-reports",
        "unknown-type",
    }


def test_names_lead_to_their_scenarios() -> None:
    assert all(name == scenario.name for name, scenario in SCENARIOS.items())


@each_scenario
def test_authorization_is_consulted_before_it_is_reported_or_looked_up(scenario: Scenario) -> None:
    consulted = set()
    for step in scenario.steps:
        match step:
            case Consult():
                consulted.add(step.auth_state)
            case Report() | LookUp():
                assert step.auth_state in consulted
            case Deliver():
                pass


@each_scenario
def test_story_ends_with_what_became_of_every_authorization(scenario: Scenario) -> None:
    consulted = {step.auth_state for step in scenario.steps if isinstance(step, Consult)}
    last_lookups: Mapping[str, int] = {
        step.auth_state: number for number, step in enumerate(scenario.steps) if isinstance(step, LookUp)
    }
    last_deed = max(number for number, step in enumerate(scenario.steps) if not isinstance(step, LookUp))
    assert set(last_lookups) == consulted
    assert all(number > last_deed for number in last_lookups.values())


@each_scenario
def test_authentic_notification_is_acknowledged_exactly_if_it_is_understood(scenario: Scenario) -> None:
    for step in scenario.steps:
        if isinstance(step, Deliver) and step.forgery is None:
            assert step.expected == (ACKNOWLEDGED if is_understood(step.draft.marked("mark").body()) else MALFORMED)


@each_scenario
def test_forgery_is_expected_to_be_refused(scenario: Scenario) -> None:
    for step in scenario.steps:
        if isinstance(step, Deliver) and step.forgery is not None:
            assert step.expected.status == HTTPStatus.UNAUTHORIZED


@each_scenario
def test_story_fits_a_line_of_the_help(scenario: Scenario) -> None:
    assert len(f"  {scenario.name:<18}{scenario.story}") <= 78


def is_understood(body: bytes) -> bool:
    try:
        parse(body)
    except MalformedNotificationError:
        return False
    return True
