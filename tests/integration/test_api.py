"""The merchant's endpoints: every report and every reading, and what conflicts with what is on record."""

import json
import logging
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from app import create_app
from app.authorizations import LOGIN_ID_COLUMN
from app.models import Authorization
from app.simulator.draft import authcode_created, token_canceled, token_created
from tests.builders import an_environ
from tests.integration.http_client import API_KEY, AUTHORIZATIONS, HttpClient, problem

TOKEN = {
    "accessToken": "token-1",
    "accessTokenExpiryTime": "2087-06-06T12:12:12+08:00",
    "refreshToken": "refresh-1",
    "refreshTokenExpiryTime": "2088-06-06T12:12:12+08:00",
    "authCode": "code-1",
}

#: As applyToken answers where the wallet neither ends a token nor refreshes it.
ANSWER = {
    "result": {"resultCode": "SUCCESS", "resultStatus": "S", "resultMessage": "success"},
    "accessToken": "token-1",
    "accessTokenExpiryTime": "9999-12-31T23:59:59-08:00",
    "refreshToken": "",
    "refreshTokenExpiryTime": "",
    "userLoginId": "some***@example.com",
    "extendInfo": '{"a": "b"}',
    "pspCustomerInfo": {"pspName": "GCASH", "pspCustomerId": "1"},
    "somethingNew": ["whatever"],
}


# --- consult ---


def test_a_consult_is_created_once(http: HttpClient) -> None:
    body = {"authState": "s-1", "userRef": "u-1", "customerBelongsTo": "GCASH", "flow": "direct"}
    first, again = http.post(AUTHORIZATIONS, body), http.post(AUTHORIZATIONS, body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.get_json() == again.get_json()
    assert first.headers["Location"] == http.at(first.get_json())
    document = first.get_json()
    assert {name: document[name] for name in body} == body
    assert (document["state"], document["userId"], document["notifications"]) == ("consulted", None, [])
    assert [(move["event"], move["from"], move["to"]) for move in document["history"]] == [
        ("consult", None, "consulted")
    ]


def test_a_contradicting_consult_is_refused(http: HttpClient) -> None:
    http.consult(userRef="u-1")
    refused = http.post(AUTHORIZATIONS, {"authState": "s-1", "userRef": "u-2"})
    assert problem(refused) == (409, "contradiction")
    assert "userRef" in refused.get_json()["detail"]


def test_a_consult_for_a_client_that_is_not_in_the_keyring_is_refused(http: HttpClient) -> None:
    refused = http.post(AUTHORIZATIONS, {"authState": "s-1", "clientId": "STRANGER"})
    assert problem(refused) == (422, "client-not-in-keyring")


@pytest.mark.parametrize("auth_state", ["用户 👤", "nul \0", "x" * 256, " blanks ", "[red]"])
def test_any_text_may_name_an_authorization(http: HttpClient, auth_state: str) -> None:
    assert http.consult(auth_state)["authState"] == auth_state
    listed = http.app.test_client().get(
        AUTHORIZATIONS, query_string={"authState": auth_state}, headers={"Authorization": f"Bearer {API_KEY}"}
    )
    assert [each["authState"] for each in listed.get_json()["authorizations"]] == [auth_state]


# --- reports and readings ---


def test_a_whole_life_by_reports(http: HttpClient) -> None:
    authorization = http.consult()
    assert (
        http.post(http.at(authorization, "authcode"), {"authCode": "code-1"}).get_json()["state"] == "authcode_issued"
    )
    code = http.get(http.at(authorization, "authcode"))
    assert code.get_json()["authCode"] == "code-1"
    assert http.post(http.at(authorization, "tokens"), TOKEN).get_json()["state"] == "token_active"
    token = http.get(http.at(authorization, "token"))
    assert token.get_json() == {
        "accessToken": "token-1",
        "accessTokenExpiryTime": "2087-06-06T04:12:12.000Z",
        "refreshToken": "refresh-1",
        "refreshTokenExpiryTime": "2088-06-06T04:12:12.000Z",
    }
    refreshed = {"accessToken": "token-2", "replaces": "token-1"}
    assert http.post(http.at(authorization, "tokens"), refreshed).status_code == 200
    assert http.get(http.at(authorization, "token")).get_json()["accessToken"] == "token-2"
    canceled = http.post(http.at(authorization, "canceled"), {"reason": "asked by phone"})
    assert canceled.get_json()["state"] == "canceled"
    assert [move["event"] for move in canceled.get_json()["history"]] == [
        "consult",
        "authcode_created",
        "token_created",
        "token_refreshed",
        "token_canceled",
    ]
    assert {move["cause"] for move in canceled.get_json()["history"]} == {"api"}


@pytest.mark.parametrize(
    ("report", "body"), [("authcode", {"authCode": "code-1"}), ("tokens", TOKEN), ("canceled", {"reason": "enough"})]
)
def test_the_same_report_again_answers_200_and_changes_nothing(
    http: HttpClient, report: str, body: dict[str, str]
) -> None:
    authorization = http.consult()
    if report == "canceled":
        http.post(http.at(authorization, "tokens"), TOKEN)
    first = http.post(http.at(authorization, report), body)
    again = http.post(http.at(authorization, report), body)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.get_json() == again.get_json()


@pytest.mark.parametrize(
    ("told", "given"),
    [
        ("2087-06-06T00:12:12.5+08:00", "2087-06-05T16:12:12.500Z"),
        ("2087-06-06T12:12Z", "2087-06-06T12:12:00.000Z"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.000Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.000Z"),
        ("9999-12-31T23:59:59-08:00", "9999-12-31T23:59:59.000Z"),
        ("10000-01-01T00:00:00+08:00", "9999-12-31T23:59:59.000Z"),
        ("+12000-02-29T12:12:12.1234567Z", "9999-12-31T23:59:59.000Z"),
        ("+002087-06-06T12:12:12Z", "2087-06-06T12:12:12.000Z"),
    ],
)
def test_times_are_given_in_utc(http: HttpClient, told: str, given: str) -> None:
    authorization = http.consult()
    report = TOKEN | {"accessTokenExpiryTime": told}
    assert [http.post(http.at(authorization, "tokens"), report).status_code for _ in range(2)] == [200, 200]
    assert http.get(http.at(authorization, "token")).get_json()["accessTokenExpiryTime"] == given


@pytest.mark.parametrize(
    ("told", "given"),
    [
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59.000Z"),
        ("0001-01-01T00:00:00+05:00", "0001-01-01T00:00:00.000Z"),
        ("0000-12-31t23:59:59z", "0001-01-01T00:00:00.000Z"),
    ],
)
def test_a_time_that_is_over_or_that_no_database_holds_is_given_in_utc_too(
    http: HttpClient, told: str, given: str
) -> None:
    authorization = http.consult()
    expired = TOKEN | {"accessTokenExpiryTime": told}
    assert http.post(http.at(authorization, "tokens"), expired).status_code == 200
    assert problem(http.get(http.at(authorization, "token"))) == (409, "token-expired")
    refresh = {"replaces": TOKEN["accessToken"], "accessToken": "token-2", "refreshToken": "refresh-2"}
    report = refresh | {"refreshTokenExpiryTime": told}
    assert [http.post(http.at(authorization, "tokens"), report).status_code for _ in range(2)] == [200, 200]
    assert http.get(http.at(authorization, "token")).get_json()["refreshTokenExpiryTime"] == given


def test_an_answer_of_apply_token_is_taken_as_it_came_and_again(http: HttpClient) -> None:
    authorization = http.consult("s-1", flow="direct")
    first, again = (http.post(http.at(authorization, "tokens"), ANSWER) for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.get_json() == again.get_json()
    assert http.get(http.at(authorization, "token")).get_json() == {
        "accessToken": "token-1",
        "accessTokenExpiryTime": "9999-12-31T23:59:59.000Z",
        "refreshToken": None,
        "refreshTokenExpiryTime": None,
    }


def test_the_login_id_of_an_answer_is_kept_sealed(http: HttpClient) -> None:
    authorization = http.consult("s-1", flow="direct")
    assert str(ANSWER["userLoginId"]) not in http.post(http.at(authorization, "tokens"), ANSWER).text

    def login_id(session: Session) -> str:
        row = session.get_one(Authorization, UUID(authorization["id"]))
        assert row.sealed_login_id is not None
        return http.service.vault.open_text(row.sealed_login_id, column=LOGIN_ID_COLUMN, row_key=row.id.bytes)

    assert http.service.database.run(login_id, read_only=True) == ANSWER["userLoginId"]


@pytest.mark.parametrize("login_id", ["", "x" * 65, 7, None, {}])
def test_a_bad_login_id_is_no_reason_to_refuse_a_token(http: HttpClient, login_id: object) -> None:
    authorization = http.consult("s-1", flow="direct")
    assert http.post(http.at(authorization, "tokens"), ANSWER | {"userLoginId": login_id}).status_code == 200


def test_an_optional_field_that_is_empty_is_absent(http: HttpClient) -> None:
    consult = {"authState": "s-1", "clientId": "", "flow": "", "userRef": "", "customerBelongsTo": ""}
    authorization = http.post(AUTHORIZATIONS, consult).get_json()
    assert (authorization["userRef"], authorization["customerBelongsTo"]) == (None, None)
    report = {"accessToken": "token-1", "accessTokenExpiryTime": "", "authCode": "code-1", "replaces": ""}
    assert http.post(http.at(authorization, "tokens"), report).get_json()["state"] == "token_active"
    assert http.post(http.at(authorization, "canceled"), {"reason": ""}).get_json()["state"] == "canceled"


def test_a_token_can_be_read_until_it_expires(http: HttpClient) -> None:
    authorization = http.consult()
    http.post(http.at(authorization, "tokens"), TOKEN | {"accessTokenExpiryTime": "2026-01-01T00:00:00Z"})
    refused = http.get(http.at(authorization, "token"))
    assert problem(refused) == (409, "token-expired")
    assert "2026-01-01T00:00:00.000Z" in refused.get_json()["detail"]
    assert not any(secret in refused.text for secret in ("token-1", "refresh-1"))
    refresh = {"accessToken": "token-2", "replaces": "token-1", "accessTokenExpiryTime": "2087-01-01T00:00:00Z"}
    http.post(http.at(authorization, "tokens"), refresh)
    assert http.get(http.at(authorization, "token")).get_json()["accessToken"] == "token-2"


def test_a_revoke_may_be_reported_without_a_body(http: HttpClient) -> None:
    authorization = http.consult()
    http.post(http.at(authorization, "tokens"), TOKEN)
    assert http.post(http.at(authorization, "canceled")).get_json()["state"] == "canceled"


def test_notifications_show_in_the_document(http: HttpClient) -> None:
    authorization = http.consult()
    for notification in (authcode_created("s-1", "code-1"), token_created("s-1", "token-1"), token_canceled("token-1")):
        http.notify(notification)
    document = http.get(http.at(authorization)).get_json()
    assert [(each["type"], each["outcome"]) for each in document["notifications"]] == [
        ("AUTHCODE_CREATED", "applied"),
        ("TOKEN_CREATED", "applied"),
        ("TOKEN_CANCELED", "applied"),
    ]
    linked = [each["id"] for each in document["notifications"]]
    assert [move["notificationId"] for move in document["history"]] == [None, *linked]
    assert "token-1" not in json.dumps(document)
    assert "code-1" not in json.dumps(document)


@pytest.mark.parametrize(
    ("report", "body", "code"),
    [
        ("tokens", {"accessToken": "token-1"}, "early"),
        ("canceled", {}, "early"),
        ("tokens", {"accessToken": "token-2", "replaces": "token-1"}, "contradiction"),
    ],
)
def test_a_report_that_is_early_or_illegal_is_a_conflict(
    http: HttpClient, report: str, body: dict[str, str], code: str
) -> None:
    assert problem(http.post(http.at(http.consult(), report), body)) == (409, code)


def test_a_report_of_another_code_or_token_is_a_conflict(http: HttpClient) -> None:
    authorization = http.consult()
    http.post(http.at(authorization, "tokens"), TOKEN)
    assert problem(http.post(http.at(authorization, "authcode"), {"authCode": "code-2"})) == (409, "illegal-transition")
    another = http.post(http.at(authorization, "tokens"), {"accessToken": "token-2"})
    assert problem(another) == (409, "illegal-transition")
    later = http.post(http.at(authorization, "tokens"), TOKEN | {"refreshToken": "refresh-2"})
    assert problem(later) == (409, "contradiction")


def test_there_is_no_token_to_read_unless_one_is_active(http: HttpClient) -> None:
    authorization = http.consult()
    assert problem(http.get(http.at(authorization, "authcode"))) == (409, "no-authcode")
    assert problem(http.get(http.at(authorization, "token"))) == (409, "no-active-token")
    http.post(http.at(authorization, "tokens"), TOKEN)
    http.post(http.at(authorization, "canceled"))
    assert problem(http.get(http.at(authorization, "token"))) == (409, "no-active-token")


# --- two endpoints only reveal a secret ---


def test_a_secret_is_given_out_uncached_and_the_reading_is_logged(
    http: HttpClient, caplog: pytest.LogCaptureFixture
) -> None:
    authorization = http.consult()
    http.post(http.at(authorization, "tokens"), TOKEN)
    logger = logging.getLogger("app")
    logger.addHandler(caplog.handler)
    try:
        for what in ("authcode", "token"):
            assert http.get(http.at(authorization, what)).headers["Cache-Control"] == "no-store"
    finally:
        logger.removeHandler(caplog.handler)
    read = [record for record in caplog.records if record.message == "secret read"]
    assert [(record.what, record.key) for record in read] == [("authcode", "shop"), ("token", "shop")]  # type: ignore[attr-defined]
    assert {str(record.authorization) for record in read} == {authorization["id"]}  # type: ignore[attr-defined]
    logged = " ".join(str(vars(record)) for record in caplog.records)
    assert "token-1" not in logged
    assert "refresh-1" not in logged
    assert "code-1" not in logged


def test_only_token_keys_may_read_secrets_where_there_are_some(sqlite_url: str, keyring_path: Path) -> None:
    keys = {"FLASK_API_KEYS": f"shop={API_KEY}", "FLASK_TOKEN_KEYS": "billing=another"}
    http = HttpClient(create_app(an_environ(sqlite_url, keyring_path, **keys)), keyring_path)
    authorization = http.consult()
    http.post(http.at(authorization, "tokens"), TOKEN)
    for what in ("authcode", "token"):
        assert problem(http.get(http.at(authorization, what))) == (403, "forbidden")
        assert http.get(http.at(authorization, what), key="another").status_code == 200
    http.service.database.close()
