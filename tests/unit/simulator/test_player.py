"""The player says of every answer whether it was right, and never says the same of two runs."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from app.alipay.notification import parse
from app.secret import Secret
from app.simulator.merchant import Merchant
from app.simulator.player import Player
from app.simulator.scenarios import SCENARIOS, Deliver, Scenario
from app.simulator.sender import Sender, Signer
from tests.unit.simulator.endpoint import OUTAGE, Endpoint


@pytest.fixture
def player(signer: Signer, sender: Sender) -> Player:
    """A player of Alipay alone."""
    return Player(signer, sender, sender.uri, now=lambda: datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def merchant(endpoint: Endpoint, signer: Signer) -> Iterator[Merchant]:
    """A merchant whose service is the endpoint."""
    with Merchant(endpoint.url, Secret("key"), client_id=signer.client_id) as merchant:
        yield merchant


def test_right_answers_are_right(player: Player) -> None:
    performances = list(player.play(SCENARIOS["full-life"]))
    assert [performance.answer for performance in performances] == ["200 S SUCCESS"] * 3
    assert all(performance.right for performance in performances)


def test_acknowledged_forgery_is_a_wrong_answer(player: Player) -> None:
    *forgeries, genuine = player.play(SCENARIOS["forgery"])
    assert not any(performance.right for performance in forgeries)
    assert genuine.right


def test_wrong_answer_is_told_and_does_not_end_the_story(endpoint: Endpoint, player: Player) -> None:
    endpoint.answers = [OUTAGE]
    performances = list(player.play(SCENARIOS["direct"]))
    assert [performance.right for performance in performances] == [False, False]
    assert all(performance.answer.startswith("no answer: ") for performance in performances)


def test_no_two_runs_speak_of_the_same_authorization(endpoint: Endpoint, player: Player) -> None:
    for _ in range(2):
        list(player.play(SCENARIOS["direct"]))
    created, canceled, created_later, canceled_later = [parse(delivery.body) for delivery in endpoint.deliveries]
    assert created.auth_state != created_later.auth_state
    assert created.access_token == canceled.access_token
    assert created_later.access_token == canceled_later.access_token
    assert created.access_token != created_later.access_token


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_no_code_or_token_is_told(endpoint: Endpoint, player: Player, scenario: Scenario) -> None:
    told = "".join(performance.action for performance in player.play(scenario))
    sent = [json.loads(delivery.body) for delivery in endpoint.deliveries]
    secrets = [body[name] for body in sent for name in ("authCode", "accessToken") if name in body]
    assert not any(secret in told for secret in secrets)


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (500, b"<html>", "500 without an authorization"),
        (200, b"[]", "200 without an authorization"),
        (409, b'{"title": "Contradicts"}', "409 Contradicts"),
        (201, b'{"id": "1", "state": "consulted"}', "201 consulted"),
    ],
)
def test_a_reply_is_shown_in_words(endpoint: Endpoint, merchant: Merchant, status: int, body: bytes, told: str) -> None:
    endpoint.answers = [(status, body)]
    assert str(merchant.consult("s-1", flow="direct", user_ref="u-1")) == told


def test_merchant_is_told_of_an_outage(endpoint: Endpoint, merchant: Merchant) -> None:
    endpoint.answers = [OUTAGE]
    assert str(merchant.consult("s-1", flow="direct", user_ref="u-1")) == "no answer"


def test_every_scenario_lets_alipay_deliver() -> None:
    assert all(any(isinstance(step, Deliver) for step in scenario.steps) for scenario in SCENARIOS.values())


def test_a_merchant_with_a_wrong_key_is_told_so_at_every_step(endpoint: Endpoint, merchant: Merchant) -> None:
    """What was never consulted has no address at which it could be looked up."""
    endpoint.answers = [(401, b'{"title": "No valid API key"}')]
    merchant.consult("s-1", flow="direct", user_ref="u-1")
    assert str(merchant.look_up("s-1")) == "401 No valid API key"
    assert str(merchant.report("s-1", "canceled", {})) == "401 No valid API key"
