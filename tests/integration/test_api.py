"""The merchant's doors: every report, every reading, every refusal."""

import json
import logging
from pathlib import Path

import pytest
from werkzeug.test import TestResponse

from app import create_app
from app.simulator.draft import authcode_created, token_canceled, token_created
from tests.builders import an_environ
from tests.integration.door import API_KEY, AUTHORIZATIONS, Door

TOKEN = {
    "accessToken": "token-1",
    "accessTokenExpiryTime": "2027-06-06T12:12:12+08:00",
    "refreshToken": "refresh-1",
    "authCode": "code-1",
}
NOBODY = f"{AUTHORIZATIONS}/01a205ee-c214-729b-933a-975b301150d6"


def problem(response: TestResponse) -> tuple[int, str]:
    """The status and code of a problem document."""
    assert response.mimetype == "application/problem+json"
    document = response.get_json()
    assert document["status"] == response.status_code
    return document["status"], document["code"]


# --- consult ---


def test_a_consult_is_created_once(door: Door) -> None:
    body = {"authState": "s-1", "userRef": "u-1", "customerBelongsTo": "GCASH", "flow": "direct"}
    first, again = door.post(AUTHORIZATIONS, body), door.post(AUTHORIZATIONS, body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.get_json() == again.get_json()
    assert first.headers["Location"] == door.at(first.get_json())
    document = first.get_json()
    assert {name: document[name] for name in body} == body
    assert (document["state"], document["userId"], document["notifications"]) == ("consulted", None, [])
    assert [(move["event"], move["from"], move["to"]) for move in document["history"]] == [
        ("consult", None, "consulted")
    ]


def test_a_contradicting_consult_is_refused(door: Door) -> None:
    door.consult(userRef="u-1")
    refused = door.post(AUTHORIZATIONS, {"authState": "s-1", "userRef": "u-2"})
    assert problem(refused) == (409, "contradiction")
    assert "userRef" in refused.get_json()["detail"]


def test_a_consult_for_a_client_that_is_not_in_the_keyring_is_refused(door: Door) -> None:
    refused = door.post(AUTHORIZATIONS, {"authState": "s-1", "clientId": "STRANGER"})
    assert problem(refused) == (422, "client-not-in-keyring")


@pytest.mark.parametrize("auth_state", ["用户 👤", "nul \0", "x" * 256, " blanks ", "[red]"])
def test_any_text_may_name_an_authorization(door: Door, auth_state: str) -> None:
    assert door.consult(auth_state)["authState"] == auth_state
    listed = door.app.test_client().get(
        AUTHORIZATIONS, query_string={"authState": auth_state}, headers={"Authorization": f"Bearer {API_KEY}"}
    )
    assert [each["authState"] for each in listed.get_json()["authorizations"]] == [auth_state]


# --- reports and readings ---


def test_a_whole_life_by_reports(door: Door) -> None:
    authorization = door.consult()
    assert (
        door.post(door.at(authorization, "authcode"), {"authCode": "code-1"}).get_json()["state"] == "authcode_issued"
    )
    code = door.get(door.at(authorization, "authcode"))
    assert code.get_json()["authCode"] == "code-1"
    assert door.post(door.at(authorization, "tokens"), TOKEN).get_json()["state"] == "token_active"
    token = door.get(door.at(authorization, "token"))
    assert token.get_json() == {"accessToken": "token-1", "accessTokenExpiryTime": "2027-06-06T04:12:12.000Z"}
    refreshed = {"accessToken": "token-2", "replaces": "token-1"}
    assert door.post(door.at(authorization, "tokens"), refreshed).status_code == 200
    assert door.get(door.at(authorization, "token")).get_json()["accessToken"] == "token-2"
    canceled = door.post(door.at(authorization, "canceled"), {"reason": "asked by phone"})
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
def test_the_same_report_again_answers_200_and_changes_nothing(door: Door, report: str, body: dict[str, str]) -> None:
    authorization = door.consult()
    if report == "canceled":
        door.post(door.at(authorization, "tokens"), TOKEN)
    first = door.post(door.at(authorization, report), body)
    again = door.post(door.at(authorization, report), body)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.get_json() == again.get_json()


def test_a_revoke_may_be_reported_without_a_body(door: Door) -> None:
    authorization = door.consult()
    door.post(door.at(authorization, "tokens"), TOKEN)
    assert door.post(door.at(authorization, "canceled")).get_json()["state"] == "canceled"


def test_notifications_show_in_the_document(door: Door) -> None:
    authorization = door.consult()
    for notification in (authcode_created("s-1", "code-1"), token_created("s-1", "token-1"), token_canceled("token-1")):
        door.notify(notification)
    document = door.get(door.at(authorization)).get_json()
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
def test_what_a_consulted_authorization_cannot_take_is_a_conflict(
    door: Door, report: str, body: dict[str, str], code: str
) -> None:
    assert problem(door.post(door.at(door.consult(), report), body)) == (409, code)


def test_another_code_or_token_is_a_conflict(door: Door) -> None:
    authorization = door.consult()
    door.post(door.at(authorization, "tokens"), TOKEN)
    assert problem(door.post(door.at(authorization, "authcode"), {"authCode": "code-2"})) == (409, "illegal-transition")
    another = door.post(door.at(authorization, "tokens"), {"accessToken": "token-2"})
    assert problem(another) == (409, "illegal-transition")
    later = door.post(door.at(authorization, "tokens"), TOKEN | {"refreshToken": "refresh-2"})
    assert problem(later) == (409, "contradiction")


def test_there_is_no_token_to_read_unless_one_is_active(door: Door) -> None:
    authorization = door.consult()
    assert problem(door.get(door.at(authorization, "authcode"))) == (409, "no-authcode")
    assert problem(door.get(door.at(authorization, "token"))) == (409, "no-active-token")
    door.post(door.at(authorization, "tokens"), TOKEN)
    door.post(door.at(authorization, "canceled"))
    assert problem(door.get(door.at(authorization, "token"))) == (409, "no-active-token")


# --- secrets leave by two doors only ---


def test_a_secret_is_given_out_uncached_and_the_reading_is_logged(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    authorization = door.consult()
    door.post(door.at(authorization, "tokens"), TOKEN)
    logger = logging.getLogger("app")
    logger.addHandler(caplog.handler)
    try:
        for what in ("authcode", "token"):
            assert door.get(door.at(authorization, what)).headers["Cache-Control"] == "no-store"
    finally:
        logger.removeHandler(caplog.handler)
    read = [record for record in caplog.records if record.message == "secret read"]
    assert [(record.what, record.key) for record in read] == [("authcode", "shop"), ("token", "shop")]  # type: ignore[attr-defined]
    assert {str(record.authorization) for record in read} == {authorization["id"]}  # type: ignore[attr-defined]
    logged = " ".join(str(vars(record)) for record in caplog.records)
    assert "token-1" not in logged
    assert "code-1" not in logged


def test_only_token_keys_may_read_secrets_where_there_are_some(sqlite_url: str, keyring: Path) -> None:
    keys = {"FLASK_API_KEYS": f"shop={API_KEY}", "FLASK_TOKEN_KEYS": "billing=another"}
    door = Door(create_app(an_environ(sqlite_url, keyring, **keys)), keyring)
    authorization = door.consult()
    door.post(door.at(authorization, "tokens"), TOKEN)
    for what in ("authcode", "token"):
        assert problem(door.get(door.at(authorization, what))) == (403, "forbidden")
        assert door.get(door.at(authorization, what), key="another").status_code == 200
    door.service.database.close()


# --- keys ---


@pytest.mark.parametrize("path", [AUTHORIZATIONS, NOBODY, f"{NOBODY}/token", f"{NOBODY}/authcode"])
@pytest.mark.parametrize("key", [None, "", "wrong", API_KEY + "x", API_KEY[:-1], "ключ".encode().decode("latin-1")])
def test_without_a_key_nothing_is_looked_up(door: Door, path: str, key: str | None) -> None:
    refused = door.get(path, key=key)
    assert problem(refused) == (401, "unauthorized")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("report", ["authcode", "tokens", "canceled"])
def test_without_a_key_nothing_is_recorded(door: Door, report: str) -> None:
    assert problem(door.post(f"{NOBODY}/{report}", {"authCode": "x"}, key=None)) == (401, "unauthorized")


def test_another_scheme_is_no_key(door: Door) -> None:
    refused = door.get(AUTHORIZATIONS, key=None, headers={"Authorization": f"Basic {API_KEY}"})
    assert problem(refused) == (401, "unauthorized")


def test_an_api_without_keys_refuses_everyone(sqlite_url: str, keyring: Path) -> None:
    door = Door(create_app(an_environ(sqlite_url, keyring)), keyring)
    assert problem(door.get(AUTHORIZATIONS, key="")) == (401, "unauthorized")
    assert problem(door.get(AUTHORIZATIONS, key=API_KEY)) == (401, "unauthorized")


# --- bodies ---


@pytest.mark.parametrize(
    ("report", "body", "wrong"),
    [
        ("authcode", {}, "authCode"),
        ("authcode", {"authCode": ""}, "authCode"),
        ("authcode", {"authCode": 3}, "authCode"),
        ("authcode", {"authCode": "x" * 129}, "authCode"),
        ("authcode", {"authCode": "x", "authcode": "x"}, "authcode"),
        ("tokens", {"accessToken": "t", "accessTokenExpiryTime": "2027-06-06T12:12:12"}, "accessTokenExpiryTime"),
        ("tokens", {"accessToken": "t", "refreshTokenExpiryTime": "soon"}, "refreshTokenExpiryTime"),
        ("tokens", {"accessToken": "t", "access_token_expiry_time": None}, "access_token_expiry_time"),
        ("canceled", {"reason": "x" * 257}, "reason"),
        ("canceled", [], ""),
    ],
)
def test_a_body_of_another_form_is_refused_with_the_name_of_the_field(
    door: Door, report: str, body: object, wrong: str
) -> None:
    refused = door.post(door.at(door.consult(), report), body)
    assert problem(refused) == (422, "invalid")
    assert [each["field"] for each in refused.get_json()["errors"]] == [wrong]


def test_what_was_sent_is_never_quoted(door: Door) -> None:
    body = {"accessToken": ["secret-1"], "refreshToken": "secret-2" * 40, "secret-3": 1}
    refused = door.post(door.at(door.consult(), "tokens"), body)
    assert refused.status_code == 422
    assert not any(secret in refused.text for secret in ("secret-1", "secret-2"))


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 60_000, b"nonsense"])
def test_what_is_not_json_is_refused(door: Door, data: bytes) -> None:
    assert problem(door.post(AUTHORIZATIONS, data=data)) == (400, "not-json")


def test_a_large_body_is_refused(door: Door) -> None:
    assert problem(door.post(AUTHORIZATIONS, data=b" " * (64 * 1024 + 1))) == (413, "too-large")


# --- finding ---


def test_pages_follow_each_other_newest_first_without_a_gap(door: Door) -> None:
    made = [door.consult(f"s-{number}")["authState"] for number in range(7)]
    pages = [door.get(f"{AUTHORIZATIONS}?limit=3").get_json()]
    while (cursor := pages[-1]["nextCursor"]) is not None:
        pages.append(door.get(f"{AUTHORIZATIONS}?limit=3&cursor={cursor}").get_json())
    assert [len(page["authorizations"]) for page in pages] == [3, 3, 1]
    assert [each["authState"] for page in pages for each in page["authorizations"]] == made[::-1]
    assert "history" not in pages[0]["authorizations"][0]


def test_a_listing_narrows_by_what_is_asked_for(door: Door) -> None:
    door.consult("s-1", userRef="u-1")
    door.consult("s-2", userRef="u-1")
    door.post(door.at(door.consult("s-3", userRef="u-2"), "authcode"), {"authCode": "code-1"})

    def listed(query: str) -> list[str]:
        return [each["authState"] for each in door.get(f"{AUTHORIZATIONS}?{query}").get_json()["authorizations"]]

    assert listed("userRef=u-1") == ["s-2", "s-1"]
    assert listed("state=authcode_issued") == ["s-3"]
    assert listed("authState=s-1&userRef=u-1") == ["s-1"]
    assert listed("authState=s-1&userRef=u-2") == []
    assert listed("clientId=STRANGER") == []


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=many", "limit"),
        ("state=active", "state"),
        ("cursor=nonsense", "cursor"),
        ("cursor=%00", "cursor"),
        ("userref=u-1", "userref"),
        ("userRef=", "userRef"),
        ("state=canceled&state=consulted", "state"),
    ],
)
def test_a_query_of_another_form_is_refused(door: Door, query: str, wrong: str) -> None:
    refused = door.get(f"{AUTHORIZATIONS}?{query}")
    assert problem(refused) == (422, "invalid")
    assert [each["field"] for each in refused.get_json()["errors"]] == [wrong]


def test_what_does_not_exist_is_not_found(door: Door) -> None:
    assert problem(door.get(NOBODY)) == (404, "authorization-not-found")
    assert problem(door.post(f"{NOBODY}/canceled", {})) == (404, "authorization-not-found")
    assert problem(door.get(f"{AUTHORIZATIONS}/17")) == (404, "not-found")
    assert problem(door.get("/v1/nothing")) == (404, "not-found")
    assert problem(door.call("DELETE", AUTHORIZATIONS)) == (405, "method-not-allowed")


def test_a_database_that_is_away_is_said_to_be(keyring: Path) -> None:
    environ = an_environ("postgresql://nobody@127.0.0.1:1/nothing", keyring, FLASK_API_KEYS=API_KEY)
    response = Door(create_app(environ), keyring).get(AUTHORIZATIONS)
    assert problem(response) == (503, "unavailable")
    assert int(response.headers["Retry-After"]) > 0
