"""The merchant's endpoints: what is refused, with which status and code."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import update
from werkzeug.test import TestResponse

from app import create_app
from app.alipay.delivery import BODY_BYTES_MAX
from app.alipay.json_text import NESTING_MAX
from app.models import Authorization
from tests.builders import an_environ
from tests.integration.http_client import API_KEY, AUTHORIZATIONS, HttpClient, problem

NOBODY = f"{AUTHORIZATIONS}/01a205ee-c214-729b-933a-975b301150d6"


@pytest.fixture
def stranded(keyring_path: Path) -> HttpClient:
    """A service whose database is away."""
    environ = an_environ("postgresql://nobody@127.0.0.1:1/nothing", keyring_path, FLASK_API_KEYS=API_KEY)
    return HttpClient(create_app(environ), keyring_path)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the service logs."""
    logger = logging.getLogger("app")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


# --- keys ---


@pytest.mark.parametrize("path", [AUTHORIZATIONS, NOBODY, f"{NOBODY}/token", f"{NOBODY}/authcode"])
@pytest.mark.parametrize("key", [None, "", "wrong", API_KEY + "x", API_KEY[:-1], "ключ".encode().decode("latin-1")])
def test_without_a_key_nothing_is_looked_up(http: HttpClient, path: str, key: str | None) -> None:
    refused = http.get(path, key=key)
    assert problem(refused) == (401, "unauthorized")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("report", ["authcode", "tokens", "canceled"])
def test_without_a_key_nothing_is_recorded(http: HttpClient, report: str) -> None:
    assert problem(http.post(f"{NOBODY}/{report}", {"authCode": "x"}, key=None)) == (401, "unauthorized")


def test_a_key_is_asked_for_before_the_database_is(stranded: HttpClient) -> None:
    assert problem(stranded.get(NOBODY, key="wrong")) == (401, "unauthorized")
    assert problem(stranded.get(NOBODY)) == (503, "unavailable")


def test_a_scheme_is_known_whatever_its_case(http: HttpClient) -> None:
    assert http.get(AUTHORIZATIONS, key=None, headers={"Authorization": f"bearer  {API_KEY}"}).status_code == 200


def test_another_scheme_is_no_key(http: HttpClient) -> None:
    refused = http.get(AUTHORIZATIONS, key=None, headers={"Authorization": f"Basic {API_KEY}"})
    assert problem(refused) == (401, "unauthorized")


def test_an_api_without_keys_refuses_everyone(sqlite_url: str, keyring_path: Path) -> None:
    http = HttpClient(create_app(an_environ(sqlite_url, keyring_path)), keyring_path)
    assert problem(http.get(AUTHORIZATIONS, key="")) == (401, "unauthorized")
    assert problem(http.get(AUTHORIZATIONS, key=API_KEY)) == (401, "unauthorized")


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
        ("tokens", {"accessToken": "t", "replace": "old"}, "replace"),
        ("tokens", {"accessToken": "t", "refreshtoken": "r"}, "refreshtoken"),
        ("tokens", {"accessToken": ""}, "accessToken"),
        ("tokens", {"accessToken": "t", "result": {"resultStatus": "U"}}, "result"),
        ("tokens", {"accessToken": "t", "result": "S"}, "result"),
        ("canceled", {"reason": "x" * 257}, "reason"),
        ("canceled", [], ""),
    ],
)
def test_a_body_of_another_form_is_refused_with_the_name_of_the_field(
    http: HttpClient, report: str, body: object, wrong: str
) -> None:
    refused = http.post(http.at(http.consult(), report), body)
    assert problem(refused) == (422, "invalid")
    assert [each["field"] for each in refused.get_json()["errors"]] == [wrong]


def test_an_error_never_quotes_the_body(http: HttpClient) -> None:
    body = {"accessToken": ["secret-1"], "refreshToken": "secret-2" * 40, "secret-3": 1}
    refused = http.post(http.at(http.consult(), "tokens"), body)
    assert refused.status_code == 422
    assert not any(secret in refused.text for secret in ("secret-1", "secret-2"))


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 60_000, b"nonsense"])
def test_a_body_that_is_not_json_is_refused(http: HttpClient, data: bytes) -> None:
    assert problem(http.post(AUTHORIZATIONS, data=data)) == (400, "not-json")


@pytest.mark.parametrize("field", ["extendInfo", "somethingNew"])
def test_json_may_nest_as_deep_as_in_a_notification_and_no_deeper(http: HttpClient, field: str) -> None:
    path = http.at(http.consult("s-1", flow="direct"), "tokens")
    report = '{"accessToken": "t", "%s": %s}'
    levels = NESTING_MAX - 1
    too_deep = report % (field, "[" * (levels + 1) + "]" * (levels + 1))
    refused = http.post(path, data=too_deep.encode())
    assert problem(refused) == (400, "not-json")
    assert "nested deeper than 64 levels" in refused.get_json()["detail"]
    assert http.post(path, data=(report % (field, "[" * levels + "]" * levels)).encode()).status_code == 200


@pytest.mark.parametrize("value", ["9" * 5_000, "NaN", "1e999999", '"\\ud800"', "-" * 99, "0x1", "01"])
def test_a_number_or_text_that_json_or_python_does_not_have_is_no_fault_of_ours(http: HttpClient, value: str) -> None:
    path = http.at(http.consult("s-1", flow="direct"), "tokens")
    answer = http.post(path, data=f'{{"accessToken": "t", "extendInfo": {value}}}'.encode())
    assert answer.status_code == 200 or problem(answer) == (400, "not-json")


def test_a_byte_order_mark_before_a_body_is_passed_over(http: HttpClient) -> None:
    assert http.post(AUTHORIZATIONS, data=b'\xef\xbb\xbf{"authState": "s-1"}').status_code == 201


def test_an_answer_of_apply_token_that_has_no_token_is_refused_with_a_sentence(http: HttpClient) -> None:
    answer = {"result": {"resultCode": "INVALID_AUTHCODE", "resultStatus": "F", "resultMessage": "…"}}
    refused = http.post(http.at(http.consult(), "tokens"), answer)
    assert problem(refused) == (422, "invalid")
    said = {each["field"]: each["message"] for each in refused.get_json()["errors"]}
    assert said["result"] == "applyToken did not succeed: resultStatus is not S, so there is no token to report"


def test_a_parameter_that_is_empty_is_refused_and_lists_nothing(http: HttpClient) -> None:
    """An empty variable in a URL must not list the authorizations of everybody."""
    assert problem(http.get(f"{AUTHORIZATIONS}?userRef=")) == (422, "invalid")


def test_a_body_may_be_as_large_as_the_limit_and_no_larger(http: HttpClient) -> None:
    body = b'{"authState": "s-1"}'
    assert http.post(AUTHORIZATIONS, data=body.ljust(BODY_BYTES_MAX)).status_code == 201
    assert problem(http.post(AUTHORIZATIONS, data=body.ljust(BODY_BYTES_MAX + 1))) == (413, "too-large")


def post_as(http: HttpClient, body: bytes, *, announced: str) -> TestResponse:
    """Post a consult whose Content-Length says something else, or is not there."""
    return http.app.test_client().post(
        AUTHORIZATIONS,
        input_stream=io.BytesIO(body),
        headers={"Authorization": f"Bearer {API_KEY}"},
        environ_overrides={"CONTENT_LENGTH": announced},
    )


def test_a_body_in_chunks_is_read_whole_or_refused(http: HttpClient) -> None:
    body = b'{"authState": "s-1"}'
    assert post_as(http, body.ljust(BODY_BYTES_MAX), announced="").status_code == 201
    assert problem(post_as(http, body.ljust(BODY_BYTES_MAX + 1), announced="")) == (413, "too-large")


def test_a_body_that_was_cut_short_reports_nothing(http: HttpClient) -> None:
    assert problem(post_as(http, b'{"authState": "s-1"}', announced="30")) == (400, "incomplete")
    assert http.get(AUTHORIZATIONS).get_json()["authorizations"] == []


@pytest.mark.parametrize(
    "time",
    [
        "2027-06-06",
        "2027-06-06T12:12:12",
        "2027-06-31T12:12:12Z",
        "1812254400",
        1812254400,
        "10000-02-30T00:00:00Z",
        "12027-06-06T12:12:12",
        "0000-02-30T23:59:59Z",
        "-2027-06-06T12:12:12Z",
        "9999999999-01-01T00:00:00Z",
    ],
    ids=repr,
)
def test_an_expiry_time_that_is_no_time_is_refused(http: HttpClient, time: object) -> None:
    report = {"accessToken": "token-1", "accessTokenExpiryTime": time}
    assert problem(http.post(http.at(http.consult(), "tokens"), report)) == (422, "invalid")


# --- what is not there ---


def test_an_unknown_authorization_or_path_is_404(http: HttpClient) -> None:
    assert problem(http.get(NOBODY)) == (404, "authorization-not-found")
    assert problem(http.post(f"{NOBODY}/canceled", {})) == (404, "authorization-not-found")
    assert problem(http.get(f"{AUTHORIZATIONS}/17")) == (404, "not-found")
    assert problem(http.get("/v1/nothing")) == (404, "not-found")
    assert problem(http.call("DELETE", AUTHORIZATIONS)) == (405, "method-not-allowed")


# --- what is not the caller's fault ---


def test_an_unavailable_database_is_answered_with_503(stranded: HttpClient) -> None:
    response = stranded.get(AUTHORIZATIONS)
    assert problem(response) == (503, "unavailable")
    assert int(response.headers["Retry-After"]) > 0
    assert response.get_json()["detail"] == "The database is unavailable."


def test_a_report_that_may_have_been_recorded_is_to_be_sent_again(stranded: HttpClient) -> None:
    response = stranded.post(f"{NOBODY}/canceled", {})
    assert problem(response) == (503, "unavailable")
    assert response.get_json()["detail"].endswith(
        "The report may have been recorded all the same: send the same again."
    )


def test_a_refusal_says_what_to_do_where_that_is_known(http: HttpClient) -> None:
    at = http.at(http.consult(flow="auto_debit"))
    early = http.post(f"{at}/tokens", {"accessToken": "token-1"})
    assert early.get_json()["detail"] == (
        "token_created is not legal in consulted; report the auth code first, or name in `authCode` the one that it "
        "was exchanged for."
    )
    assert http.post(f"{at}/tokens", {"accessToken": "token-1", "authCode": "code-1"}).status_code == 200
    refresh = http.post(f"{at}/tokens", {"accessToken": "token-2"})
    assert refresh.get_json()["detail"] == (
        "token_created is not legal in token_active; if this is a refresh, name the token it replaces in `replaces`."
    )
    assert http.post(f"{at}/tokens", {"accessToken": "token-2", "replaces": "token-1"}).status_code == 200
    assert http.post(f"{at}/canceled", {}).status_code == 200
    late = http.post(f"{at}/tokens", {"accessToken": "token-3"})
    assert late.get_json()["detail"].endswith("; it is canceled for good: a new consent needs a new authState.")


def test_an_internal_error_is_described_in_the_log_and_not_in_the_response(
    http: HttpClient, log: pytest.LogCaptureFixture
) -> None:
    """A code that does not open stands for everything that should not happen."""
    authorization = http.consult()
    http.post(http.at(authorization, "authcode"), {"authCode": "code-1"})
    broken = update(Authorization).where(Authorization.id == UUID(authorization["id"])).values(sealed_auth_code=b"?")
    http.service.database.run(lambda session: session.execute(broken))
    answer = http.app.test_client().get(
        http.at(authorization, "authcode"), headers={"Authorization": f"Bearer {API_KEY}"}
    )
    assert problem(answer) == (500, "internal")
    assert "Seal" not in answer.text
    (record,) = [record for record in log.records if record.message == "request failed"]
    assert (record.error, record.exc_info) == ("SealBrokenError", None)  # type: ignore[attr-defined]


def test_a_report_in_chunks_that_broke_off_before_it_began_is_no_report_without_a_body(http: HttpClient) -> None:
    """To cancel without a reason takes no body at all, and cannot be taken back."""
    authorization = http.consult("s-1", flow="direct")
    refused = http.app.test_client().post(
        http.at(authorization, "canceled"),
        headers={"Authorization": f"Bearer {API_KEY}", "Transfer-Encoding": "chunked"},
        input_stream=io.BytesIO(b""),
    )
    assert problem(refused) == (400, "not-json")
