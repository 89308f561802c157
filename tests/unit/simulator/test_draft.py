"""Bodies are what Alipay's documents say they are."""

import json
from dataclasses import replace

import pytest

from app.alipay.notification import MalformedNotificationError, parse
from app.secret import Secret
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created


def test_authcode_created_says_state_and_code() -> None:
    notification = parse(authcode_created("s-1", "c-1").body())
    assert (notification.type, notification.result_status) == ("AUTHCODE_CREATED", "S")
    assert (notification.auth_state, notification.auth_code) == ("s-1", Secret("c-1"))


def test_token_created_says_state_and_token() -> None:
    notification = parse(token_created("s-1", "t-1").body())
    assert (notification.type, notification.result_status) == ("TOKEN_CREATED", "S")
    assert (notification.auth_state, notification.access_token) == ("s-1", Secret("t-1"))


def test_token_canceled_says_the_token_and_never_a_state() -> None:
    body = token_canceled("t-1", reason="不再需要").body()
    notification = parse(body)
    assert (notification.type, notification.access_token) == ("TOKEN_CANCELED", Secret("t-1"))
    assert json.loads(body)["reason"] == "不再需要"
    assert "authState" not in json.loads(body)


def test_body_is_the_sample_of_the_documents() -> None:
    assert json.loads(token_canceled("28100103_20215703001538122119").body()) == {
        "authorizationNotifyType": "TOKEN_CANCELED",
        "accessToken": "28100103_20215703001538122119",
        "result": {"resultCode": "SUCCESS", "resultMessage": "success", "resultStatus": "S"},
    }


def test_result_has_the_status_that_is_asked_for() -> None:
    assert parse(replace(token_canceled("t-1"), result_status="U").body()).result_status == "U"


def test_a_field_that_is_left_out_is_missing_from_the_body() -> None:
    with pytest.raises(MalformedNotificationError, match="authCode"):
        parse(Draft("AUTHCODE_CREATED", auth_state="s-1").body())


def test_an_empty_field_is_not_left_out() -> None:
    assert json.loads(token_canceled("").body())["accessToken"] == ""


def test_marked_draft_speaks_of_another_authorization_and_says_the_same() -> None:
    marked = Draft("T", auth_state="s", auth_code="c", access_token="t", reason="r").marked("m")
    assert marked == Draft("T", auth_state="s-m", auth_code="c-m", access_token="t-m", reason="r")


@pytest.mark.parametrize("show", [str, repr])
def test_codes_and_tokens_are_never_shown(show: type[str]) -> None:
    shown = show(Draft("T", auth_state="shown", auth_code="hidden", access_token="hidden"))
    assert "shown" in shown
    assert "hidden" not in shown
