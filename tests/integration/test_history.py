"""What a history says beside its moves: who reported each, why, when it was learned and when it was recorded."""

from datetime import timedelta
from typing import Any

from sqlalchemy import text

from app.documents import timestamp
from app.simulator.draft import authcode_created, token_canceled, token_created
from tests.integration.http_client import AUTHORIZATIONS, HttpClient
from tests.integration.stage import NOON, Stage


def said(move: dict[str, Any]) -> tuple[Any, ...]:
    return move["cause"], move["by"], move["reason"]


def test_a_report_over_http_is_on_record_with_the_name_of_its_key(http: HttpClient) -> None:
    authorization = http.consult()
    http.post(http.at(authorization, "tokens"), {"accessToken": "token-1", "authCode": "code-1"})
    http.post(http.at(authorization, "canceled"), {"reason": "Jane Doe asked us to"})
    document = http.get(http.at(authorization)).get_json()
    assert [said(move) for move in document["history"]] == [("api", "shop", None)] * 4
    # The reason of a revoke may name a person, and stays sealed.
    assert "Jane" not in str(document)


def test_a_transition_by_a_notification_names_no_reporter(http: HttpClient) -> None:
    authorization = http.consult()
    http.notify(authcode_created("s-1", "code-1"))
    moves = http.get(http.at(authorization)).get_json()["history"]
    assert said(moves[1]) == ("notification", None, None)


def test_a_parked_notification_is_learned_when_it_came_and_recorded_when_it_is_applied(stage: Stage) -> None:
    for notification in (token_canceled("token-1"), token_created("s-1", "token-1")):
        stage.notify(notification)
        stage.clock.forward(minutes=1)
    stage.consult(flow="direct")
    times = [(move["event"], move["learnedAt"], move["at"]) for move in stage.document()["history"]]
    consulted = timestamp(NOON + timedelta(minutes=2))
    assert times == [
        ("consult", consulted, consulted),
        ("token_created", timestamp(NOON + timedelta(minutes=1)), consulted),
        ("token_canceled", timestamp(NOON), consulted),
    ]


def test_a_redelivery_does_not_change_when_it_was_learned(stage: Stage) -> None:
    for _ in range(2):
        stage.notify(authcode_created("s-1", "code-1"))
        stage.clock.forward(minutes=1)
    stage.consult()
    assert stage.document()["history"][1]["learnedAt"] == timestamp(NOON)


def test_what_an_older_release_recorded_was_learned_when_it_was_recorded(stage: Stage) -> None:
    stage.consult()
    stage.database.run(lambda session: session.execute(text("UPDATE transitions SET learned_at = NULL")))
    (move,) = stage.document()["history"]
    assert move["learnedAt"] == move["at"] == timestamp(NOON)


def test_the_history_over_http_is_that_of_the_contract(http: HttpClient) -> None:
    created = http.post(AUTHORIZATIONS, {"authState": "s-1"}).get_json()
    assert list(created["history"][0]) == [
        *("sequence", "event", "from", "to", "cause", "by", "reason", "notificationId", "learnedAt", "at")
    ]
