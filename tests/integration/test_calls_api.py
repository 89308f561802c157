"""The merchant's endpoints: ask for a consult, a refresh or a revoke, and say what a charge was answered."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from werkzeug.test import TestResponse

from app import long_polling
from app.gateway import requests
from app.models import Lease
from app.simulator.keys import SANDBOX_CLIENT_ID
from app.web import calls as web_calls
from tests.integration.calling_http import CONSULT, CONSULTS, CallingHttp, a_calling_service
from tests.integration.http_client import AUTHORIZATIONS, HttpClient, problem

NOBODY = {"id": "01a205ee-c214-729b-933a-975b301150d6"}
URLS = ("normalUrl", "schemeUrl", "applinkUrl", "appIdentifier", "authCodeForm")


@pytest.fixture
def calling(database_url: str, keyring_path: Path, tmp_path: Path) -> Iterator[CallingHttp]:
    yield from a_calling_service(database_url, keyring_path, tmp_path)


@pytest.fixture
def client() -> Iterator[ThreadPoolExecutor]:
    """Clients that wait beside the test."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for half a second where the service waits for several."""
    monkeypatch.setattr(web_calls, "CONSULT_WAIT_SECONDS", 0.5)
    monkeypatch.setattr(web_calls, "WAIT_SECONDS", 0.5)


def urls(answer: TestResponse) -> dict[str, object]:
    assert answer.status_code in {200, 201}, answer.text
    return {name: answer.get_json()[name] for name in URLS}


def sent_bodies(calling: CallingHttp, operation: str = "consult") -> int:
    """How many different bodies went out."""
    return len({each.digest for each in calling.received(operation)})


# --- a consult -------------------------------------------------------------------------------------------------------


def test_a_consult_is_registered_and_answered_with_where_the_user_agrees(calling: CallingHttp) -> None:
    with calling.running():
        answer = calling.consult(userRef="u-1")
    assert answer.status_code == 201
    document = answer.get_json()
    assert document["normalUrl"].startswith(f"{calling.gateway.url}/consent/")
    assert document["authCodeForm"]["codeDetails"] == [{"displayType": "TEXT", "codeValue": document["normalUrl"]}]
    assert (document["state"], document["userRef"], document["customerBelongsTo"]) == ("consulted", "u-1", "GCASH")
    assert (document["call"]["kind"], document["call"]["status"], document["call"]["by"]) == ("consult", "done", "shop")
    assert answer.headers["Location"] == calling.http.at(document)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Request-Id"]


def test_the_same_again_has_the_same_urls_and_calls_nobody(calling: CallingHttp) -> None:
    with calling.running():
        first = calling.consult()
    again = calling.consult()
    assert (first.status_code, again.status_code) == (201, 200)
    assert urls(first) == urls(again)
    assert again.headers["Cache-Control"] == "no-store"
    assert "Location" not in again.headers
    assert len(calling.received("consult")) == 1


def test_a_consult_that_was_only_reported_can_be_made(calling: CallingHttp) -> None:
    reported = calling.http.consult("s-1")
    with calling.running():
        made = calling.consult()
    assert (made.status_code, made.get_json()["id"]) == (200, reported["id"])
    assert made.get_json()["normalUrl"]


@pytest.mark.parametrize("auth_state", [None, ""])
def test_where_no_auth_state_is_given_one_is_made(calling: CallingHttp, auth_state: str | None) -> None:
    with calling.running():
        documents = [calling.consult(auth_state).get_json() for _ in range(2)]
    states = [each["authState"] for each in documents]
    assert len({*states}) == 2
    assert [each.subject for each in calling.received("consult")] == states


def test_the_client_may_be_named_and_must_be_one_of_the_keyring(calling: CallingHttp) -> None:
    with calling.running():
        assert calling.consult(clientId=SANDBOX_CLIENT_ID).status_code == 201
    assert problem(calling.consult("s-2", clientId="nobody")) == (422, "client-not-in-keyring")


@pytest.mark.parametrize(
    "other",
    [
        {"scopes": ["AGREEMENT_PAY", "USER_INFO"]},
        {"authRedirectUrl": "https://shop.example/elsewhere"},
        {"terminalType": "WEB"},
        {"customerBelongsTo": "DANA"},
        {"flow": "direct"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_the_same_auth_state_with_other_words_is_a_contradiction(calling: CallingHttp, other: dict[str, Any]) -> None:
    with calling.running():
        first = calling.consult(flow="auto_debit")
        refused = calling.consult(**{"flow": "auto_debit", **other})
    assert problem(refused) == (409, "contradiction")
    assert next(iter(other)) in refused.get_json()["detail"]
    assert urls(calling.consult(flow="auto_debit")) == urls(first)
    assert len(calling.received("consult")) == 1


@pytest.mark.parametrize(
    "device",
    [
        {"terminalType": "APP", "osType": "IOS", "osVersion": "17.2"},
        {"env": {"terminalType": "APP", "osType": "ANDROID", "clientIp": "192.0.2.1"}},
    ],
    ids=["before January 2026", "since"],
)
def test_both_ways_of_saying_the_device_are_sent_as_they_came(calling: CallingHttp, device: dict[str, Any]) -> None:
    with calling.running():
        document = calling.consult(**device).get_json()
    assert document["schemeUrl"].startswith("pretend-wallet://")
    assert (document["applinkUrl"], document["appIdentifier"]) == (document["normalUrl"], "GCash")


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("RISK_REJECT", "offer another way to pay"),
        ("NO_PAY_OPTIONS", "offer another one"),
        ("PAYMENT_NOT_QUALIFIED", "ask Alipay's support"),
        ("MERCHANT_NOT_REGISTERED", "ask Alipay's support"),
        ("NEVER_HEARD_OF", "with a new authState"),
    ],
)
def test_a_refusal_of_alipays_says_its_code_and_what_to_do(calling: CallingHttp, code: str, remedy: str) -> None:
    calling.fail("refused", "consult", code=code)
    with calling.running():
        refused = calling.consult()
        again = calling.consult()
    for each in (refused, again):
        assert problem(each) == (422, "call-refused")
        assert each.get_json()["resultCode"] == code
        assert remedy in each.get_json()["remedy"]
        assert code in each.get_json()["detail"]
    assert len(calling.received("consult")) == 1


def test_a_caller_whom_alipay_does_not_know_is_told_where_to_look(calling: CallingHttp) -> None:
    calling.fail("refused-unsigned", "consult", code="INVALID_SIGNATURE")
    with calling.running():
        refused = calling.consult()
    assert problem(refused) == (422, "call-refused")
    assert "merchant_private_key" in refused.get_json()["remedy"]


def test_a_wallet_that_may_be_misspelt_is_asked_for_and_warned_of(
    calling: CallingHttp, caplog: pytest.LogCaptureFixture
) -> None:
    calling.fail("refused", "consult", code="PARAM_ILLEGAL")
    with calling.running():
        refused = calling.consult(customerBelongsTo="GCSAH")
    assert problem(refused) == (422, "call-refused")
    assert "customerBelongsTo may be misspelt: GCASH is a wallet that is known." in refused.get_json()["remedy"]
    (warned,) = [each for each in caplog.records if each.message == "wallet may be misspelt"]
    assert (vars(warned)["wallet"], vars(warned)["known"]) == ("GCSAH", "GCASH")
    with calling.running():
        assert calling.consult("s-2", customerBelongsTo="GCSAH").status_code == 201


@pytest.mark.usefixtures("impatient")
def test_without_an_answer_in_time_the_same_request_is_sent_again(calling: CallingHttp) -> None:
    unknown = calling.consult()
    assert problem(unknown) == (504, "no-answer")
    assert "Send the same request again" in unknown.get_json()["detail"]
    calling.wait_for(lambda: calling.calls()[0].status == "due")
    with calling.running():
        calling.wait_for(lambda: calling.calls()[0].status == "done")
    again = calling.consult()
    assert again.status_code == 200
    assert again.get_json()["normalUrl"]
    assert len(calling.received("consult")) == 1


@pytest.mark.usefixtures("impatient")
def test_without_a_background_worker_the_answer_and_the_log_say_so(
    calling: CallingHttp, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = calling.consult()
    assert problem(unknown) == (504, "no-answer")
    assert "no background worker runs" in unknown.get_json()["detail"]
    assert "flask work" in unknown.get_json()["detail"]
    (warned,) = [each for each in caplog.records if each.message == "call not begun: no background worker runs"]
    assert (warned.levelno, vars(warned)["call"]) == (logging.WARNING, calling.calls()[0].id)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("holder", "silent_seconds", "is_said"), [("elsewhere:1", 1, False), ("elsewhere:1", 60, True), (None, 1, True)]
)
def test_that_no_background_worker_runs_is_said_only_where_none_has_shown_itself(
    calling: CallingHttp, holder: str | None, silent_seconds: int, *, is_said: bool
) -> None:
    seen_at = datetime.now(UTC) - timedelta(seconds=silent_seconds)
    lease = Lease(name="calls", holder=holder, beat=1, at=seen_at)
    calling.http.service.database.run(lambda session: session.add(lease))
    unknown = calling.consult()
    assert problem(unknown) == (504, "no-answer")
    assert ("no background worker runs" in unknown.get_json()["detail"]) == is_said


@pytest.mark.usefixtures("impatient")
def test_an_auth_state_that_was_made_is_named_where_the_request_is_to_be_sent_again(calling: CallingHttp) -> None:
    unknown = calling.consult(None)
    assert problem(unknown) == (504, "no-answer")
    made = unknown.get_json()["authState"]
    with calling.running():
        again = calling.consult(made)
    assert (again.status_code, again.get_json()["authState"]) == (200, made)
    assert len(calling.received("consult")) == 1


def test_a_call_that_ended_without_an_answer_is_made_again_by_the_same_request(
    calling: CallingHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "CONSULT_TIME", timedelta(seconds=2))
    calling.fail("cut-before", "consult", times=None)
    with calling.running():
        unknown = calling.consult()
        assert problem(unknown) == (504, "no-answer")
        # Of a busy machine the two seconds may be over before the first request is out.
        assert calling.calls()[0].status in {"undetermined", "failed"}
        calling.gateway.faults.clear()
        again = calling.consult()
    assert again.status_code == 200
    assert again.get_json()["normalUrl"]
    assert sent_bodies(calling) == 1
    assert len(calling.calls()) == 1


def test_a_gateway_that_cannot_be_reached_is_an_answer_too(
    calling: CallingHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "CONSULT_TIME", timedelta(seconds=1))
    calling.gateway.close()
    with calling.running():
        refused = calling.consult()
    assert problem(refused) == (504, "no-answer")
    assert calling.calls()[0].status == "failed"


def test_two_requests_at_once_share_one_call(calling: CallingHttp, client: ThreadPoolExecutor) -> None:
    calling.fail("slow", "consult", seconds=1.0)
    with calling.running():
        asked = [client.submit(calling.consult) for _ in range(3)]
        answers = [each.result(timeout=20) for each in asked]
    assert sorted(each.status_code for each in answers) == [200, 200, 201]
    assert len({str(urls(each)) for each in answers}) == 1
    assert len(calling.received("consult")) == 1


def test_beyond_the_places_nobody_waits_and_the_call_goes_on(calling: CallingHttp, client: ThreadPoolExecutor) -> None:
    service = calling.http.service
    service.long_polling = long_polling.LongPolling(places=1)
    first = client.submit(calling.consult)
    calling.wait_for(lambda: service.long_polling.waiting == 1)
    refused = calling.consult("s-2")
    assert problem(refused) == (503, "unavailable")
    assert int(refused.headers["Retry-After"]) > 0
    assert "same request again" in refused.get_json()["detail"]
    with calling.running():
        assert first.result(timeout=20).status_code == 201
        calling.wait_for(lambda: calling.calls()[-1].status == "done")
    assert calling.consult("s-2").status_code == 200


def test_a_consult_whose_gateway_is_taken_away_is_not_answered(
    calling: CallingHttp, client: ThreadPoolExecutor
) -> None:
    """It waits while a reload takes the gateway away: another worker may have it still."""
    asked = client.submit(calling.consult)
    calling.wait_for(lambda: calling.http.service.long_polling.waiting == 1)
    keyring = calling.http.service.keyring
    with patch.object(type(keyring.client(SANDBOX_CLIENT_ID)), "gateway", None), calling.running():
        refused = asked.result(timeout=20)
    assert problem(refused) == (504, "no-answer")
    assert "no gateway" in refused.get_json()["detail"]


def test_a_client_without_a_gateway_makes_its_calls_itself(http: HttpClient) -> None:
    assert problem(http.post(CONSULTS, CONSULT)) == (409, "no-gateway")
    assert http.get(AUTHORIZATIONS).get_json()["authorizations"] == []
    token = {"accessToken": "token-1", "authCode": "code-1"}
    document = http.consult("s-2")
    assert http.post(http.at(document, "tokens"), token).status_code == 200
    for what in ("refresh", "revoke"):
        assert problem(http.post(http.at(document, what))) == (409, "no-gateway")


# --- what is refused before anybody is asked -------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CONSULTS, *(f"{AUTHORIZATIONS}/{NOBODY['id']}/{each}" for each in (
    "refresh", "revoke", "payment-results"))])  # fmt: skip
@pytest.mark.parametrize("key", [None, "", "wrong"])
def test_a_key_is_asked_for_first(calling: CallingHttp, path: str, key: str | None) -> None:
    assert problem(calling.http.post(path, {}, key=key)) == (401, "unauthorized")
    assert calling.calls() == []


@pytest.mark.parametrize("what", ["refresh", "revoke"])
def test_there_is_nothing_to_call_of_an_unknown_authorization(calling: CallingHttp, what: str) -> None:
    assert problem(calling.ask(what, NOBODY)) == (404, "authorization-not-found")


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"customerBelongsTo": ...}, "customerBelongsTo"),
        ({"customerBelongsTo": ""}, "customerBelongsTo"),
        ({"customerBelongsTo": "x" * 65}, "customerBelongsTo"),
        ({"authRedirectUrl": ...}, "authRedirectUrl"),
        ({"authRedirectUrl": "https://shop.example/" + "x" * 1024}, "authRedirectUrl"),
        ({"authRedirectUrl": "https://shop.example/a b"}, "authRedirectUrl"),
        ({"scopes": ...}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["A"] * 5}, "scopes"),
        ({"scopes": [""]}, "scopes.0"),
        ({"scopes": "AGREEMENT_PAY"}, "scopes"),
        ({"authState": "x" * 257}, "authState"),
        ({"merchantRegion": "USA"}, "merchantRegion"),
        ({"env": []}, "env"),
        ({"env": "WEB"}, "env"),
        ({"osType": 1}, "osType"),
        ({"authstate": "s-1"}, "authstate"),
    ],
)
def test_a_consult_of_another_form_is_refused_with_the_name_of_the_field(
    calling: CallingHttp, said: dict[str, Any], wrong: str
) -> None:
    refused = calling.consult(**said)
    assert problem(refused) == (422, "invalid")
    assert [each["field"] for each in refused.get_json()["errors"]] == [wrong]
    assert calling.calls() == []


@pytest.mark.parametrize("what", ["refresh", "revoke"])
def test_a_call_has_nothing_to_say(calling: CallingHttp, what: str) -> None:
    document = calling.http.consult("s-1")
    refused = calling.http.post(calling.http.at(document, what), {"accessToken": "token-1"})
    assert problem(refused) == (422, "invalid")


# --- a refresh -------------------------------------------------------------------------------------------------------


def token_of(calling: CallingHttp, document: dict[str, object]) -> str:
    answer = calling.http.get(calling.http.at(document, "token"))
    assert answer.status_code == 200, answer.text
    return str(answer.get_json()["accessToken"])


def test_a_refresh_is_answered_once_it_is_done(calling: CallingHttp) -> None:
    document = calling.activate()
    old = token_of(calling, document)
    with calling.running():
        answer = calling.ask("refresh", document)
    assert answer.status_code == 200
    assert [each["event"] for each in answer.get_json()["history"]][-1] == "token_refreshed"
    assert (answer.get_json()["history"][-1]["cause"], answer.get_json()["history"][-1]["by"]) == ("gateway", "shop")
    assert answer.get_json()["call"]["status"] == "done"
    assert token_of(calling, document) != old


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("what", ["refresh", "revoke"])
def test_what_is_not_final_in_time_is_accepted_and_goes_on(calling: CallingHttp, what: str) -> None:
    document = calling.activate()
    accepted = calling.ask(what, document)
    again = calling.ask(what, document)
    for each in (accepted, again):
        assert (each.status_code, each.get_json()["call"]["status"]) == (202, "due")
    with calling.running():
        calling.wait_for(lambda: calling.calls()[-1].status == "done")
    assert len(calling.received(what)) == 1


def test_a_refused_refresh_says_why(calling: CallingHttp) -> None:
    document = calling.activate()
    calling.fail("refused", "refresh", code="INVALID_REFRESH_TOKEN")
    with calling.running():
        refused = calling.ask("refresh", document)
    assert problem(refused) == (422, "call-refused")
    assert refused.get_json()["resultCode"] == "INVALID_REFRESH_TOKEN"
    assert "authorize again" in refused.get_json()["remedy"]
    assert token_of(calling, document)


def test_a_refresh_needs_an_active_token_and_one_to_refresh_with(calling: CallingHttp) -> None:
    document = calling.http.consult("s-1")
    assert problem(calling.ask("refresh", document)) == (409, "no-active-token")
    report = {"accessToken": "token-1", "authCode": "code-1"}
    assert calling.http.post(calling.http.at(document, "tokens"), report).status_code == 200
    assert problem(calling.ask("refresh", document)) == (409, "no-refresh-token")


def test_a_refresh_that_gives_way_to_a_revoke_is_no_success(calling: CallingHttp, client: ThreadPoolExecutor) -> None:
    document = calling.activate()
    waiting = client.submit(calling.ask, "refresh", document)
    calling.wait_for(lambda: calling.http.service.long_polling.waiting == 1)
    revoking = client.submit(calling.ask, "revoke", document)
    assert problem(waiting.result(timeout=20)) == (409, "call-unneeded")
    with calling.running():
        assert revoking.result(timeout=20).get_json()["state"] == "canceled"


def test_a_refresh_that_the_merchant_makes_meanwhile_is_one(calling: CallingHttp, client: ThreadPoolExecutor) -> None:
    document = calling.activate()
    waiting = client.submit(calling.ask, "refresh", document)
    calling.wait_for(lambda: calling.http.service.long_polling.waiting == 1)
    report = {"accessToken": "token-2", "replaces": token_of(calling, document)}
    assert calling.http.post(calling.http.at(document, "tokens"), report).status_code == 200
    assert waiting.result(timeout=20).status_code == 200
    assert calling.received("refresh") == []


def test_a_cancellation_before_a_refresh_is_no_success_of_it_and_one_of_a_revoke(
    calling: CallingHttp, client: ThreadPoolExecutor
) -> None:
    for what, answer in (("refresh", (409, None)), ("revoke", (200, "canceled"))):
        document = calling.activate(f"s-{what}")
        waiting = client.submit(calling.ask, what, document)
        calling.wait_for(lambda: calling.http.service.long_polling.waiting == 1)
        assert calling.http.post(calling.http.at(document, "canceled"), {}).status_code == 200
        found = waiting.result(timeout=20)
        assert (found.status_code, found.get_json().get("state")) == answer
        calling.wait_for(lambda: calling.http.service.long_polling.waiting == 0)
    assert [each.operation for each in calling.gateway.ledger.calls() if each.operation in {"refresh", "revoke"}] == []


# --- a revoke --------------------------------------------------------------------------------------------------------


def test_a_revoke_is_answered_once_the_token_is_gone(calling: CallingHttp) -> None:
    document = calling.activate()
    with calling.running():
        answer = calling.ask("revoke", document)
    assert (answer.status_code, answer.get_json()["state"]) == (200, "canceled")
    again = calling.ask("revoke", document)
    assert (again.status_code, again.get_json()["state"]) == (200, "canceled")
    assert len(calling.received("revoke")) == 1


@pytest.mark.usefixtures("impatient")
def test_a_token_that_is_to_go_is_given_to_nobody(calling: CallingHttp) -> None:
    document = calling.activate()
    assert token_of(calling, document)
    assert calling.ask("revoke", document).status_code == 202
    refused = calling.http.get(calling.http.at(document, "token"))
    assert problem(refused) == (409, "revoke-asked")
    assert problem(calling.ask("refresh", document)) == (409, "no-active-token")


def test_a_refused_revoke_says_why_and_the_token_stays_closed(calling: CallingHttp) -> None:
    document = calling.activate()
    calling.fail("refused", "revoke", code="PROCESS_FAIL")
    with calling.running():
        refused = calling.ask("revoke", document)
        assert problem(refused) == (422, "call-refused")
        assert refused.get_json()["resultCode"] == "PROCESS_FAIL"
        assert problem(calling.http.get(calling.http.at(document, "token"))) == (409, "revoke-asked")
        assert calling.ask("revoke", document).get_json()["state"] == "canceled"


def test_there_is_nothing_to_revoke_before_there_is_a_token(calling: CallingHttp) -> None:
    document = calling.http.consult("s-1")
    assert problem(calling.ask("revoke", document)) == (409, "no-active-token")


# --- a payment's result ----------------------------------------------------------------------------------------------


def payment_result(calling: CallingHttp, document: dict[str, object], **said: object) -> TestResponse:
    return calling.http.post(calling.http.at(document, "payment-results"), said)


def test_a_payment_that_was_refused_for_its_token_cancels(calling: CallingHttp) -> None:
    document = calling.activate()
    token = token_of(calling, document)
    dead = {"resultCode": "INVALID_ACCESS_TOKEN", "resultStatus": "F", "accessToken": token}
    answer = payment_result(calling, document, **dead)
    assert (answer.status_code, answer.get_json()["state"]) == (200, "canceled")
    assert answer.get_json()["history"][-1]["cause"] == "api"
    assert payment_result(calling, document, **dead).status_code == 200


@pytest.mark.parametrize("said", [{"accessToken": "a stranger's"}, {"requestedAt": "2020-01-01T00:00:00Z"}], ids=str)
def test_a_result_that_is_not_of_the_current_token_changes_nothing(calling: CallingHttp, said: dict[str, Any]) -> None:
    document = calling.activate()
    answer = payment_result(calling, document, resultCode="INVALID_ACCESS_TOKEN", **said)
    assert (answer.status_code, answer.get_json()["state"]) == (200, "token_active")


@pytest.mark.parametrize("status", ["S", "U"])
def test_a_payment_that_was_not_refused_says_nothing_of_its_token(calling: CallingHttp, status: str) -> None:
    document = calling.activate()
    said = {"resultStatus": status, "accessToken": token_of(calling, document)}
    answer = payment_result(calling, document, resultCode="INVALID_ACCESS_TOKEN", **said)
    assert (answer.status_code, answer.get_json()["state"]) == (200, "token_active")


def test_a_result_is_judged_by_when_its_payment_was_requested(calling: CallingHttp) -> None:
    document = calling.activate()
    requested_at = datetime.now(UTC).isoformat()
    answer = payment_result(calling, document, resultCode="INVALID_ACCESS_TOKEN", requestedAt=requested_at)
    assert answer.get_json()["state"] == "canceled"


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"resultCode": "INVALID_ACCESS_TOKEN"}, ""),
        ({"resultCode": "INVALID_ACCESS_TOKEN", "accessToken": ""}, ""),
        ({"accessToken": "token-1"}, "resultCode"),
        ({"resultCode": "", "accessToken": "token-1"}, "resultCode"),
        ({"resultCode": "SUCCESS", "resultStatus": "X", "accessToken": "token-1"}, "resultStatus"),
        ({"resultCode": "SUCCESS", "requestedAt": "2026-11-22"}, "requestedAt"),
        ({"resultCode": "SUCCESS", "requestedAt": 1700000000}, "requestedAt"),
        ({"resultCode": "INVALID_ACCESS_TOKEN", "requestedAt": "2126-11-22T12:00:00Z"}, "requestedAt"),
    ],
)
def test_a_result_without_its_subject_says_nothing(calling: CallingHttp, said: dict[str, Any], field: str) -> None:
    refused = payment_result(calling, calling.http.consult("s-1"), **said)
    assert problem(refused) == (422, "invalid")
    assert [each["field"] for each in refused.get_json()["errors"]] == [field]


# --- what must not be seen -------------------------------------------------------------------------------------------


def test_no_code_token_or_url_is_in_the_log(calling: CallingHttp, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("app")
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.DEBUG, logger="app")
    try:
        document = calling.activate()
        with calling.running():
            assert calling.ask("refresh", document).status_code == 200
            calling.fail("unsigned", "revoke")
            assert calling.ask("revoke", document).status_code == 200
    finally:
        logger.removeHandler(caplog.handler)
    said = "\n".join(str(vars(each)) for each in caplog.records)
    assert "call answered" in said
    secrets = [each.access_token for each in calling.gateway.ledger.tokens()]
    secrets += [each.refresh_token for each in calling.gateway.ledger.tokens() if each.refresh_token]
    secrets += [each.subject for each in calling.gateway.ledger.calls() if each.operation != "consult"]
    secrets.append(document["normalUrl"].rpartition("/")[2])
    assert len({*secrets}) >= 6
    assert [each for each in secrets if each in said] == []
