"""How a delivery ends: every outcome, every reason, every answer."""

import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.alipay.acknowledgement import is_acknowledgement
from app.models import Authorization
from app.receiver import Receipt, Receiver
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from tests.builders import CLIENT_ID, a_delivery, a_signed_delivery
from tests.integration.stage import Stage, a_stage


def ended(receipt: Receipt) -> tuple[int, str | None, str | None]:
    return receipt.answer.status, receipt.outcome, receipt.reason


# --- applied ---


def test_a_whole_life_is_applied_and_every_step_recorded(stage: Stage) -> None:
    stage.consult()
    answers = [
        stage.notify(authcode_created("s-1", "code-1")),
        stage.notify(token_created("s-1", "token-1")),
        stage.notify(token_canceled("token-1")),
    ]
    assert [ended(receipt) for receipt in answers] == [(200, "applied", None)] * 3
    assert all(is_acknowledgement(receipt.answer.status, receipt.answer.body) for receipt in answers)
    assert stage.moves() == [
        (1, "consult", None, "consulted"),
        (2, "authcode_created", "consulted", "authcode_issued"),
        (3, "token_created", "authcode_issued", "token_active"),
        (4, "token_canceled", "token_active", "canceled"),
    ]


def test_a_direct_authorization_gets_its_token_without_a_code(stage: Stage) -> None:
    stage.consult(flow="direct")
    assert ended(stage.notify(token_created("s-1", "token-1"))) == (200, "applied", None)
    assert stage.state() == "token_active"


def test_history_says_what_caused_each_move(stage: Stage) -> None:
    stage.consult()
    receipt = stage.notify(authcode_created("s-1", "code-1"))
    history = stage.document()["history"]
    assert [(move["cause"], move["notificationId"]) for move in history] == [
        ("api", None),
        ("notification", str(receipt.entry_id)),
    ]


def test_who_the_user_is_to_the_wallet_is_learned_from_a_notification(stage: Stage) -> None:
    stage.consult()
    body = {
        "authorizationNotifyType": "AUTHCODE_CREATED",
        "authState": "s-1",
        "authCode": "code-1",
        "userId": "2188000000000001",
        "userLoginId": "someone@example.com",
        "result": {"resultStatus": "S"},
    }
    stage.notify(json.dumps(body).encode())
    assert stage.document()["userId"] == "2188000000000001"
    assert "someone" not in json.dumps(stage.document())


def test_who_the_user_is_may_be_all_that_is_new_in_a_notification(stage: Stage) -> None:
    stage.report_authcode(stage.consult(), "code-1")
    receipt = stage.notify(authcode_created("s-1", "code-1").body()[:-1] + b', "userId": "u-1"}')
    assert receipt.outcome == "redundant"
    assert stage.document()["userId"] == "u-1"


@pytest.mark.parametrize(
    ("result_status", "reason"), [("F", "unsuccessful_result"), ("S", "illegal_transition"), ("S", "contradiction")]
)
def test_nothing_is_learned_of_the_user_from_a_notification_that_is_rejected(
    stage: Stage, result_status: str, reason: str
) -> None:
    authorization_id = stage.consult("s-1")
    if reason == "illegal_transition":
        stage.report_token(authorization_id, "token-0", auth_code="code-1")
    else:
        stage.report_authcode(authorization_id, "code-1")
    if reason == "contradiction":
        stage.report_token(stage.consult("s-2"), "token-1", auth_code="code-2")
    body = {
        "authorizationNotifyType": "TOKEN_CREATED",
        "authState": "s-1",
        "accessToken": "token-1",
        "userId": "2188",
        "userLoginId": "someone@example.com",
        "result": {"resultStatus": result_status},
    }
    assert ended(stage.notify(json.dumps(body).encode())) == (200, "rejected", reason)
    assert stage.document()["userId"] is None
    with Session(stage.database.engine) as session:
        assert set(session.scalars(select(Authorization.sealed_login_id))) == {None}


# --- redundant ---


def test_a_duplicate_is_counted_and_has_no_further_effect(stage: Stage) -> None:
    stage.consult()
    first = stage.notify(authcode_created("s-1", "code-1"))
    stage.clock.forward(minutes=2)
    again = stage.notify(authcode_created("s-1", "code-1"), request_time="2")
    assert ended(again) == ended(first)
    assert again.entry_id == first.entry_id
    (entry,) = stage.entries()
    assert (entry.deliveries, entry.last_received_at - entry.received_at) == (2, timedelta(minutes=2))
    assert len(stage.moves()) == 2


def test_the_same_notification_in_other_bytes_is_the_same_notification(stage: Stage) -> None:
    stage.consult()
    document = json.loads(authcode_created("s-1", "code-1").body())
    first = stage.notify(json.dumps(document).encode())
    again = stage.notify(json.dumps(document | {"news": "of a later version"}, indent=4, sort_keys=True).encode())
    assert again.entry_id == first.entry_id


@pytest.mark.parametrize(
    "other",
    [
        authcode_created("s-1", "code-2"),
        authcode_created("s-2", "code-1"),
        token_created("s-1", "code-1"),
        Draft("AUTHCODE_CREATED", auth_state="s-1", auth_code="code-1", result_status="F"),
    ],
)
def test_a_body_that_differs_in_a_key_is_another_notification(stage: Stage, other: Draft) -> None:
    first = stage.notify(authcode_created("s-1", "code-1"))
    assert stage.notify(other).entry_id != first.entry_id


def test_the_same_notification_to_two_clients_is_two(sqlite_url: str, alipay_key: RSAPrivateKey) -> None:
    stage = a_stage(sqlite_url, alipay_key, clients={CLIENT_ID: "auto_debit", "OTHER": "auto_debit"})
    first = stage.notify(authcode_created("s-1", "code-1"))
    assert stage.notify(authcode_created("s-1", "code-1"), client_id="OTHER").entry_id != first.entry_id


def test_a_code_that_the_redirect_brought_before_is_redundant(stage: Stage) -> None:
    stage.report_authcode(stage.consult(), "code-1")
    assert ended(stage.notify(authcode_created("s-1", "code-1"))) == (200, "redundant", "already_known")


def test_a_token_that_was_reported_before_is_redundant(stage: Stage) -> None:
    stage.report_token(stage.consult(), "token-1", auth_code="code-1")
    assert ended(stage.notify(token_created("s-1", "token-1"))) == (200, "redundant", "already_known")


def test_a_cancellation_after_a_revoke_is_redundant(stage: Stage) -> None:
    authorization_id = stage.consult()
    stage.report_token(authorization_id, "token-1", auth_code="code-1")
    stage.report_canceled(authorization_id)
    assert ended(stage.notify(token_canceled("token-1"))) == (200, "redundant", "already_known")


def test_the_cancellation_of_a_superseded_token_leaves_the_authorization_active(stage: Stage) -> None:
    authorization_id = stage.consult()
    stage.report_token(authorization_id, "token-1", auth_code="code-1")
    stage.report_token(authorization_id, "token-2", replaces="token-1")
    assert ended(stage.notify(token_canceled("token-1"))) == (200, "redundant", "superseded_token")
    assert stage.state() == "token_active"
    assert ended(stage.notify(token_canceled("token-2"))) == (200, "applied", None)


# --- parked ---


@pytest.mark.parametrize(
    ("notification", "reason"),
    [
        (authcode_created("nobody", "code-1"), "unknown_auth_state"),
        (token_created("nobody", "token-1"), "unknown_auth_state"),
        (token_canceled("token-9"), "unknown_token"),
        (token_created("s-1", "token-1"), "early"),
        (Draft("TOKEN_REVIVED", auth_state="s-1"), "unknown_type"),
    ],
)
def test_a_notification_that_cannot_be_decided_yet_is_parked_and_acknowledged(
    stage: Stage, notification: Draft, reason: str
) -> None:
    stage.consult("s-1")
    receipt = stage.notify(notification)
    assert ended(receipt) == (200, "parked", reason)
    assert is_acknowledgement(receipt.answer.status, receipt.answer.body)
    assert stage.waiting() == {reason: 1}
    assert stage.state() == "consulted"


def test_a_cancellation_of_another_users_token_does_not_touch_this_authorization(stage: Stage) -> None:
    stage.report_token(stage.consult(user_ref="u-1"), "token-1", auth_code="code-1")
    assert ended(stage.notify(token_canceled("token-2"))) == (200, "parked", "unknown_token")
    assert stage.state() == "token_active"


def test_the_old_tokens_cancellation_does_not_touch_the_users_newer_authorization(stage: Stage) -> None:
    stage.report_token(stage.consult("s-1", user_ref="u-1"), "old", auth_code="code-1")
    stage.report_token(stage.consult("s-2", user_ref="u-1"), "new", auth_code="code-2")
    stage.notify(token_canceled("old"))
    assert (stage.state("s-1"), stage.state("s-2")) == ("canceled", "token_active")


def test_an_auth_state_sent_along_with_a_cancellation_does_not_choose_the_authorization(stage: Stage) -> None:
    stage.report_token(stage.consult("s-1"), "token-1", auth_code="code-1")
    stage.report_token(stage.consult("s-2"), "token-2", auth_code="code-2")
    stage.notify(Draft("TOKEN_CANCELED", auth_state="s-2", access_token="token-1"))
    assert (stage.state("s-1"), stage.state("s-2")) == ("canceled", "token_active")


# --- rejected ---


def test_a_code_that_comes_after_the_token_is_rejected_and_changes_nothing(stage: Stage) -> None:
    stage.consult()
    stage.notify(authcode_created("s-1", "code-1"))
    stage.notify(token_created("s-1", "token-1"))
    before = stage.moves()
    receipt = stage.notify(authcode_created("s-1", "code-2"))
    assert ended(receipt) == (200, "rejected", "illegal_transition")
    assert is_acknowledgement(receipt.answer.status, receipt.answer.body)
    assert stage.moves() == before


def test_a_canceled_token_cannot_be_created_again(stage: Stage) -> None:
    stage.consult()
    for notification in (
        authcode_created("s-1", "code-1"),
        token_created("s-1", "token-1"),
        token_canceled("token-1"),
    ):
        stage.notify(notification)
    assert ended(stage.notify(token_created("s-1", "token-2"))) == (200, "rejected", "illegal_transition")
    assert ended(stage.notify(authcode_created("s-1", "code-2"))) == (200, "rejected", "illegal_transition")
    assert stage.state() == "canceled"


def test_a_token_of_another_authorization_is_a_contradiction(stage: Stage) -> None:
    stage.report_token(stage.consult("s-1"), "token-1", auth_code="code-1")
    stage.report_authcode(stage.consult("s-2"), "code-2")
    assert ended(stage.notify(token_created("s-2", "token-1"))) == (200, "rejected", "contradiction")
    assert (stage.state("s-1"), stage.state("s-2")) == ("token_active", "authcode_issued")


@pytest.mark.parametrize("status", ["F", "U", "X"])
def test_an_unsuccessful_result_moves_nothing(stage: Stage, status: str) -> None:
    stage.consult()
    notification = Draft("AUTHCODE_CREATED", auth_state="s-1", auth_code="code-1", result_status=status)
    assert ended(stage.notify(notification)) == (200, "rejected", "unsuccessful_result")
    assert stage.state() == "consulted"
    assert [entry["outcome"] for entry in stage.document()["notifications"]] == ["rejected"]


# --- malformed, and what is not authentic ---


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"{}", Draft("AUTHCODE_CREATED", auth_state="s-1").body()])
def test_a_malformed_notification_is_stored_and_refused_each_time(stage: Stage, body: bytes) -> None:
    for _ in range(2):
        receipt = stage.notify(body)
        assert (receipt.answer.status, receipt.answer.result_code) == (400, "PARAM_ILLEGAL")
    (entry,) = stage.entries()
    assert (entry.outcome, entry.deliveries) == ("malformed", 2)


def test_forged_delivery_is_refused_and_not_stored(stage: Stage) -> None:
    forged = a_delivery(signature="algorithm=RSA256, keyVersion=1, signature=Zm9yZ2Vk")
    receipt = stage.receiver.receive(forged)
    assert (receipt.answer.status, receipt.answer.result_code) == (401, "INVALID_SIGNATURE")
    assert stage.entries() == []


def test_an_unknown_client_is_told_so_and_not_stored(stage: Stage) -> None:
    receipt = stage.notify(authcode_created("s-1", "code-1"), client_id="STRANGER")
    assert (receipt.answer.status, receipt.answer.result_code) == (401, "UNKNOWN_CLIENT")
    assert stage.entries() == []


def test_an_old_request_time_is_refused_only_where_the_operator_asked_for_it(stage: Stage) -> None:
    day_old = a_signed_delivery(stage.alipay_key, request_time="2026-11-21T12:00:00Z")
    strict = Receiver(stage.database, stage.keyring, stage.vault, freshness=timedelta(hours=1), clock=stage.clock)
    assert strict.receive(day_old).answer.status == 401
    assert stage.receiver.receive(day_old).answer.status == 200


@pytest.mark.parametrize("auth_state", ["nul \0", "half a pair \ud83d", "back\\slash", "\\u0000", "用户"])
def test_any_text_a_body_can_hold_is_stored_and_found_again(stage: Stage, auth_state: str) -> None:
    stage.consult(auth_state)
    body = {
        "authorizationNotifyType": "AUTHCODE_CREATED",
        "authState": auth_state,
        "authCode": f"code {auth_state}",
        "userId": auth_state,
        "result": {"resultStatus": "S"},
    }
    assert ended(stage.notify(json.dumps(body).encode())) == (200, "applied", None)
    assert stage.document(auth_state)["authState"] == auth_state


def test_nothing_is_learned_of_the_user_from_a_notification_that_waits(stage: Stage) -> None:
    stage.consult()
    early = token_created("s-1", "token-1").body()[:-1] + b', "userId": "u-1"}'
    assert ended(stage.notify(early)) == (200, "parked", "early")
    assert stage.document()["userId"] is None
    stage.notify(authcode_created("s-1", "code-1"))
    assert (stage.state(), stage.document()["userId"]) == ("token_active", "u-1")
