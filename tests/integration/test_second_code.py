"""Several codes for one consent: the newest is given out, an older one is no news, and no token is refused for one."""

from datetime import timedelta

import pytest

from app.simulator.draft import authcode_created, token_canceled, token_created
from tests.integration.http_client import HttpClient
from tests.integration.stage import Stage
from tests.integration.test_consistency import inconsistencies

SECOND = timedelta(seconds=1)


def reasons(stage: Stage) -> list[str | None]:
    return [move["reason"] for move in stage.document()["history"]]


@pytest.mark.parametrize("first_by", ["notification", "report"])
@pytest.mark.parametrize("second_by", ["notification", "report"])
def test_another_code_takes_the_older_ones_place(stage: Stage, first_by: str, second_by: str) -> None:
    authorization_id = stage.consult()
    for code, way in (("code-1", first_by), ("code-2", second_by)):
        stage.clock.forward(seconds=20)
        if way == "notification":
            assert stage.notify(authcode_created("s-1", code)).outcome == "applied"
        else:
            assert stage.report_authcode(authorization_id, code).changed
    assert stage.auth_code() == "code-2"
    assert stage.moves()[1:] == [
        (2, "authcode_created", "consulted", "authcode_issued"),
        (3, "authcode_created", "authcode_issued", "authcode_issued"),
    ]
    assert reasons(stage) == [None, None, "took the place of another code"]
    assert inconsistencies(stage) == []


@pytest.mark.parametrize("first_by", ["notification", "report"])
@pytest.mark.parametrize("again_by", ["notification", "report"])
def test_a_replaced_code_that_comes_again_is_no_news(stage: Stage, first_by: str, again_by: str) -> None:
    """Also one that the redirect brought first and the notification brings only now."""
    authorization_id = stage.consult()

    def say(code: str, way: str) -> None:
        stage.clock.forward(seconds=20)
        if way == "notification":
            stage.notify(authcode_created("s-1", code))
        else:
            stage.report_authcode(authorization_id, code)

    say("code-1", first_by)
    say("code-2", "notification")
    before = stage.moves()
    say("code-1", again_by)
    assert stage.moves() == before
    assert stage.auth_code() == "code-2"
    assert {entry.outcome for entry in stage.entries()} <= {"applied", "redundant"}
    assert inconsistencies(stage) == []


@pytest.mark.parametrize("codes", [("code-1", "code-2"), ("code-2", "code-1")])
def test_of_codes_in_one_batch_the_latest_is_returned(stage: Stage, codes: tuple[str, str]) -> None:
    """What is stored together is stored in the order of its fingerprints, which says nothing of when it came."""
    stage.consult()
    stage.notify_batch([authcode_created("s-1", code).body() for code in codes], apart=SECOND)
    assert stage.auth_code() == codes[-1]
    assert len(stage.moves()) == 3
    assert inconsistencies(stage) == []


@pytest.mark.parametrize("codes", [("code-1", "code-2"), ("code-2", "code-1")])
def test_of_codes_that_waited_for_their_consult_the_latest_is_returned(stage: Stage, codes: tuple[str, str]) -> None:
    for code in codes:
        stage.clock.forward(seconds=20)
        stage.notify(authcode_created("s-1", code))
    stage.consult()
    assert stage.auth_code() == codes[-1]
    assert stage.outcomes() == [("applied", None)] * 2


def test_a_code_that_is_replayed_late_does_not_take_the_newer_ones_place(stage: Stage) -> None:
    authorization_id = stage.consult()
    stage.report_authcode(authorization_id, "code-0")
    with stage.broken_code(authorization_id):
        assert stage.notify(authcode_created("s-1", "code-1")).outcome == "failed"
    stage.clock.forward(seconds=20)
    stage.notify(authcode_created("s-1", "code-2"))
    stage.clock.forward(seconds=20)
    assert stage.notify(authcode_created("s-1", "code-1")).outcome == "applied"
    assert stage.auth_code() == "code-2"
    assert reasons(stage)[-1] == "older than the code on record, which stays"
    assert inconsistencies(stage) == []


def test_a_code_that_was_held_up_for_seconds_does_not_take_the_newer_ones_place(stage: Stage) -> None:
    """As by another worker: it came first, and is processed after the one that came then."""
    stage.consult()
    stage.clock.forward(seconds=2)
    stage.notify(authcode_created("s-1", "code-2"))
    stage.clock.forward(seconds=-2)
    stage.notify(authcode_created("s-1", "code-1"))
    assert stage.auth_code() == "code-2"


def test_a_code_stamped_by_a_clock_that_was_ahead_is_replaced_by_a_newer_one(stage: Stage) -> None:
    stage.clock.forward(days=1)
    stage.report_authcode(stage.consult(), "code-1")
    stage.clock.forward(days=-1)
    stage.notify(authcode_created("s-1", "code-2"))
    assert stage.auth_code() == "code-2"


def test_very_many_codes_are_forgotten_from_the_first_and_nothing_breaks(stage: Stage) -> None:
    authorization_id = stage.consult()
    for number in range(70):
        stage.report_authcode(authorization_id, f"code-{number}")
    assert not stage.report_authcode(authorization_id, "code-6").changed
    assert inconsistencies(stage) == []


# --- tokens ---


def test_a_token_of_another_code_than_the_one_on_record_is_recorded_with_its_code(stage: Stage) -> None:
    authorization_id = stage.consult()
    stage.notify(authcode_created("s-1", "code-1"))
    stage.report_token(authorization_id, "token-1", auth_code="code-2")
    assert [event for _, event, _, _ in stage.moves()] == [
        *("consult", "authcode_created", "authcode_created", "token_created")
    ]
    assert stage.notify(authcode_created("s-1", "code-2")).reason == "already_known"
    assert inconsistencies(stage) == []


def test_a_token_of_a_replaced_code_is_recorded_and_the_history_says_so(stage: Stage) -> None:
    authorization_id = stage.consult()
    stage.notify(authcode_created("s-1", "code-1"))
    stage.notify(authcode_created("s-1", "code-2"))
    stage.report_token(authorization_id, "token-1", auth_code="code-1")
    assert stage.state() == "token_active"
    assert reasons(stage)[-1] == "exchanged for another code than the one on record"
    assert inconsistencies(stage) == []


def test_a_known_token_is_not_refused_for_an_unknown_code(stage: Stage) -> None:
    """The code's own notification was overtaken: it was refused, or comes later."""
    authorization_id = stage.consult()
    stage.notify(authcode_created("s-1", "code-1"))
    stage.notify(token_created("s-1", "token-1"))
    assert stage.notify(authcode_created("s-1", "code-2")).outcome == "rejected"
    before = stage.moves()
    for code in ("code-2", "code-3"):
        assert stage.report_token(authorization_id, "token-1", auth_code=code).has_other_codes
        assert not stage.report_token(authorization_id, "token-1", auth_code=code).changed
    assert stage.moves() == before
    assert stage.notify(authcode_created("s-1", "code-3")).reason == "already_known"
    assert inconsistencies(stage) == []


def test_a_token_in_the_direct_flow_is_not_refused_for_a_code(stage: Stage) -> None:
    authorization_id = stage.consult(flow="direct")
    recorded = stage.report_token(authorization_id, "token-1", auth_code="code-1")
    assert stage.moves()[1:] == [(2, "token_created", "consulted", "token_active")]
    assert not recorded.has_other_codes
    assert stage.auth_code() is None
    assert inconsistencies(stage) == []


def test_a_canceled_authorization_takes_no_new_token_whatever_its_code(stage: Stage) -> None:
    authorization_id = stage.consult()
    stage.report_token(authorization_id, "token-1", auth_code="code-1")
    stage.notify(token_canceled("token-1"))
    assert not stage.report_token(authorization_id, "token-1", auth_code="code-1").changed
    assert stage.report_token(authorization_id, "token-1", auth_code="code-2").has_other_codes
    assert stage.state() == "canceled"
    assert len(stage.moves()) == 4


# --- over HTTP ---


def test_the_code_that_is_given_out_says_whether_it_replaced_another(http: HttpClient) -> None:
    authorization = http.consult()
    http.notify(authcode_created("s-1", "code-1"))
    first = http.get(http.at(authorization, "authcode")).get_json()
    http.notify(authcode_created("s-1", "code-2"))
    second = http.get(http.at(authorization, "authcode")).get_json()
    assert (first["authCode"], first["replacedAnother"]) == ("code-1", False)
    assert (second["authCode"], second["replacedAnother"]) == ("code-2", True)
    assert second["receivedAt"] > first["receivedAt"]


def test_a_token_reported_with_another_code_is_200_and_says_that_another_was_there(http: HttpClient) -> None:
    authorization = http.consult()
    http.notify(authcode_created("s-1", "code-1"))
    report = {"accessToken": "token-1", "authCode": "code-2"}
    for _ in range(2):
        answer = http.post(http.at(authorization, "tokens"), report)
        assert (answer.status_code, answer.get_json()["replacedAnother"]) == (200, True)
        assert answer.get_json()["state"] == "token_active"


def test_a_token_reported_with_the_code_on_record_says_that_no_other_was_there(http: HttpClient) -> None:
    authorization = http.consult()
    http.notify(authcode_created("s-1", "code-1"))
    answer = http.post(http.at(authorization, "tokens"), {"accessToken": "token-1", "authCode": "code-1"})
    assert (answer.status_code, answer.get_json()["replacedAnother"]) == (200, False)
