"""One call to Alipay: what goes out is signed as Alipay verifies it, and only what Alipay signed comes in."""

import base64
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import pytest
from com.alipay.ams.api.tools import signature_tool
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from hypothesis import given, settings, strategies as st
from urllib3 import HTTPHeaderDict

from app.alipay import call as call_module
from app.alipay.call import Caller, Done, Operation, Refused, Unknown, is_to_be_repeated_slowly, path
from app.alipay.call_answers import CodeDetail, ConsultAnswer, TokenAnswer, read_consult, read_grant
from app.alipay.call_requests import ConsultRequest, consult_body, exchange_body, refresh_body, revoke_body
from app.alipay.keyring import Client
from app.bounded_http import HttpResult
from app.secret import Secret
from tests.builders import CLIENT_ID, SUCCESS
from tests.gateway import (
    CONSULTED,
    RESPONSE_TIME,
    REVOKED,
    SANDBOX_PATH,
    TOKEN,
    a_client,
    a_gateway,
    a_result,
    answers,
    signature_over,
    signed_headers,
)
from tests.receiver import Received, Receiver, refuses
from tests.unit.alipay.key_text import public_text

#: Alipay's own tool, an outside opinion. It has no annotations.
SDK: Any = signature_tool
APPLY_TOKEN = f"{SANDBOX_PATH}applyToken"
NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
BODY = exchange_body(Secret("281001_code"), customer_belongs_to="GCASH")

Call = Callable[..., Done | Refused | Unknown]


@pytest.fixture
def gateway(alipay_key: RSAPrivateKey) -> Iterator[Receiver]:
    """Answers with a token."""
    with a_gateway() as (gateway, _):
        gateway.behave = answers(alipay_key, TOKEN)
        yield gateway


@pytest.fixture
def call(gateway: Receiver, merchant_key: RSAPrivateKey, alipay_key: RSAPrivateKey) -> Iterator[Call]:
    """Exchanges a code at the gateway, unless the test says otherwise."""
    caller = Caller(a_client(f"http://127.0.0.1:{gateway.port}", merchant_key, alipay_key))

    def call(
        operation: Operation = Operation.APPLY_TOKEN, body: bytes = BODY, seconds_max: float = 5
    ) -> Done | Refused | Unknown:
        return caller.call(operation, body, now=NOW, seconds_max=seconds_max)

    yield call
    caller.close()


def test_a_signed_answer_of_success_is_done(call: Call) -> None:
    outcome = call()
    assert isinstance(outcome, Done)
    assert outcome.http_status == 200
    assert read_grant(outcome.answer).access_token == Secret("281001_token")


def test_what_is_sent_is_what_alipay_documents(call: Call, gateway: Receiver, merchant_key: RSAPrivateKey) -> None:
    call()
    (received,) = gateway.received
    assert received.path == f"{SANDBOX_PATH}applyToken"
    assert received.body == BODY
    assert received.headers["Content-Type"] == "application/json; charset=UTF-8"
    assert received.headers["client-id"] == CLIENT_ID
    assert received.headers["request-time"] == "1795348800123"
    text = f"POST {SANDBOX_PATH}applyToken\n{CLIENT_ID}.1795348800123.".encode() + BODY
    assert is_signed_by(merchant_key, received, text)
    assert not is_signed_by(merchant_key, received, text.replace(b"sandbox/", b""))


@pytest.mark.parametrize("operation", Operation)
def test_the_path_of_the_sandbox_is_for_clients_of_the_sandbox(operation: Operation) -> None:
    assert path("SANDBOX_5Y0", operation) == f"/ams/sandbox/api/v1/authorizations/{operation}"
    assert path("5Y0", operation) == f"/ams/api/v1/authorizations/{operation}"
    assert path("5Y0_SANDBOX_", operation) == f"/ams/api/v1/authorizations/{operation}"


def test_outside_the_sandbox_the_other_path_is_called_and_signed(
    gateway: Receiver, merchant_key: RSAPrivateKey, alipay_key: RSAPrivateKey
) -> None:
    gateway.behave = answers(alipay_key, TOKEN, client_id="5Y0")
    client = a_client(f"http://127.0.0.1:{gateway.port}", merchant_key, alipay_key, client_id="5Y0")
    assert isinstance(called(client), Done)
    (received,) = gateway.received
    assert received.path == "/ams/api/v1/authorizations/applyToken"
    text = b"POST /ams/api/v1/authorizations/applyToken\n5Y0.1795348800123." + BODY
    assert is_signed_by(merchant_key, received, text)


def called(client: Client) -> Done | Refused | Unknown:
    caller = Caller(client)
    outcome = caller.call(Operation.APPLY_TOKEN, BODY, now=NOW)
    caller.close()
    return outcome


def test_the_sdk_of_alipay_verifies_what_is_sent(call: Call, gateway: Receiver, merchant_key: RSAPrivateKey) -> None:
    call()
    (received,) = gateway.received
    value = received.headers["signature"].removeprefix("algorithm=RSA256,keyVersion=1,signature=")
    assert SDK.verify(
        "POST",
        received.path,
        received.headers["client-id"],
        received.headers["request-time"],
        received.body.decode(),
        value,
        public_text(merchant_key),
    )


def test_the_same_bytes_are_sent_again(call: Call, gateway: Receiver) -> None:
    body = b'{ "accessToken" : "281001_token" }'
    for _ in range(2):
        call(Operation.REVOKE, body)
    assert [each.body for each in gateway.received] == [body, body]


# --- which answers are believed ---


@pytest.mark.parametrize("name", ["client-id", "response-time", "signature"])
def test_names_of_headers_are_read_in_any_case(
    call: Call, gateway: Receiver, alipay_key: RSAPrivateKey, name: str
) -> None:
    body = json.dumps(TOKEN).encode()
    headers = signed_headers(alipay_key, APPLY_TOKEN, body)
    headers[name.upper()] = headers.pop(name)
    gateway.behave = lambda handler: handler.answer(200, body, headers)
    assert isinstance(call(), Done)


@pytest.mark.parametrize("time", ["1795348800123", "2026-11-22T12:00:00Z", "2026-11-22T12:00:00.1234567+0800", "noon"])
def test_response_time_is_opaque(call: Call, gateway: Receiver, alipay_key: RSAPrivateKey, time: str) -> None:
    body = json.dumps(TOKEN).encode()
    headers = signed_headers(alipay_key, APPLY_TOKEN, body, time=time)
    gateway.behave = lambda handler: handler.answer(200, body, headers)
    assert isinstance(call(), Done)


def test_a_signed_answer_need_not_repeat_the_client_id(
    call: Call, gateway: Receiver, alipay_key: RSAPrivateKey
) -> None:
    body = json.dumps(TOKEN).encode()
    headers = signed_headers(alipay_key, APPLY_TOKEN, body)
    del headers["client-id"]
    gateway.behave = lambda handler: handler.answer(200, body, headers)
    assert isinstance(call(), Done)


@pytest.mark.parametrize("is_signed", [True, False])
def test_a_refusal_is_believed_signed_or_not(
    call: Call, gateway: Receiver, alipay_key: RSAPrivateKey, *, is_signed: bool
) -> None:
    gateway.behave = answers(alipay_key if is_signed else None, a_result("F", "INVALID_AUTHCODE", "it is spent"))
    outcome = call()
    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.message, outcome.http_status) == ("INVALID_AUTHCODE", "it is spent", 200)


@pytest.mark.parametrize("is_signed", [True, False])
@pytest.mark.parametrize("code", ["AUTH_IN_PROCESS", "UNKNOWN_EXCEPTION", "REQUEST_TRAFFIC_EXCEED_LIMIT", "NEW_1"])
def test_an_unknown_outcome_is_believed_signed_or_not(
    call: Call, gateway: Receiver, alipay_key: RSAPrivateKey, code: str, *, is_signed: bool
) -> None:
    gateway.behave = answers(alipay_key if is_signed else None, a_result("U", code, "wait"))
    outcome = call()
    assert isinstance(outcome, Unknown)
    assert (outcome.code, outcome.why) == (code, f"Alipay does not know yet ({code}): wait")
    assert (outcome.http_status, outcome.is_sent) == (200, True)
    assert is_to_be_repeated_slowly(outcome.code) == (code == "REQUEST_TRAFFIC_EXCEED_LIMIT")


@pytest.mark.parametrize("code", ["SYSTEM_ERROR", "PROCESS_FAIL", "AUTH_IN_PROCESS", "SUCCESS", "NEVER_HEARD_OF"])
def test_codes_are_classed_by_their_status_alone(
    call: Call, gateway: Receiver, alipay_key: RSAPrivateKey, code: str
) -> None:
    outcomes = {}
    for status in "SFU":
        gateway.behave = answers(alipay_key, TOKEN | a_result(status, code))
        outcomes[status] = type(call())
    assert outcomes == {"S": Done, "F": Refused, "U": Unknown}


@pytest.mark.parametrize("status", ["s", "SUCCESS", "", None, 1, ["S"], {"S": "S"}])
def test_a_status_that_is_none_of_the_three_is_unknown(
    call: Call, gateway: Receiver, alipay_key: RSAPrivateKey, status: object
) -> None:
    gateway.behave = answers(alipay_key, TOKEN | {"result": {"resultStatus": status, "resultCode": "SUCCESS"}})
    assert why(call()) == "Alipay's answer has a resultStatus that is none of S, F and U."


@pytest.mark.parametrize("code", [None, 7, "", "281001_token", "a b", "A" * 65, "\u202e"])
def test_a_code_that_is_none_is_not_repeated(call: Call, gateway: Receiver, code: object) -> None:
    gateway.behave = answers(None, {"result": {"resultStatus": "F", "resultCode": code}})
    outcome = call()
    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.message) == ("", "")


def test_an_unsigned_success_is_not_believed(call: Call, gateway: Receiver) -> None:
    gateway.behave = answers(None, TOKEN)
    assert why(call()) == "Alipay's answer says success without a signature, which is not believed."


@pytest.mark.parametrize("status", ["S", "F", "U"])
@pytest.mark.parametrize("missing", ["signature", "response-time"])
@pytest.mark.parametrize("is_empty", [True, False])
def test_half_of_a_signature_is_none(
    call: Call, gateway: Receiver, alipay_key: RSAPrivateKey, status: str, missing: str, *, is_empty: bool
) -> None:
    body = json.dumps(TOKEN | a_result(status, "SOME_CODE")).encode()
    headers = signed_headers(alipay_key, APPLY_TOKEN, body)
    del headers[missing]
    if is_empty:
        headers[missing] = ""
    gateway.behave = lambda handler: handler.answer(200, body, headers)
    outcome = call()
    assert why(outcome) in {
        "Alipay's answer has only one of signature and response-time.",
        "The signature of Alipay's answer cannot be verified (header).",
        "The signature of Alipay's answer cannot be verified (algorithm).",
    }
    assert isinstance(outcome, Unknown)
    assert outcome.code is None


@pytest.mark.parametrize("status", ["S", "F", "U"])
@pytest.mark.parametrize(
    "change",
    ["other key", "the merchant's key", "other client", "other path", "other method", "other time", "other body"],
)
def test_what_was_signed_otherwise_is_not_believed(
    call: Call,
    gateway: Receiver,
    alipay_key: RSAPrivateKey,
    newer_alipay_key: RSAPrivateKey,
    merchant_key: RSAPrivateKey,
    status: str,
    change: str,
) -> None:
    """That of another client's key, and one replayed from another call, among them."""
    body = json.dumps(TOKEN | a_result(status, "SOME_CODE")).encode()
    headers = signed_headers(alipay_key, APPLY_TOKEN, body)
    changed = {
        "other key": lambda: signed_headers(newer_alipay_key, APPLY_TOKEN, body),
        "the merchant's key": lambda: signed_headers(merchant_key, APPLY_TOKEN, body),
        "other client": lambda: signed_headers(alipay_key, APPLY_TOKEN, body, client_id="SANDBOX_OTHER"),
        "other path": lambda: signed_headers(alipay_key, APPLY_TOKEN.replace("sandbox/", ""), body),
        "other method": lambda: {
            "signature": signature_over(alipay_key, f"GET {APPLY_TOKEN}\n{CLIENT_ID}.{RESPONSE_TIME}.".encode() + body)
        },
        "other time": lambda: signed_headers(alipay_key, APPLY_TOKEN, body, time="2026-11-22T12:00:01+08:00"),
        "other body": lambda: signed_headers(alipay_key, APPLY_TOKEN, body + b" "),
    }[change]()
    headers["signature"] = changed["signature"]
    gateway.behave = lambda handler: handler.answer(200, body, headers)
    assert why(call()) == "The signature of Alipay's answer cannot be verified (mismatch)."


def test_the_answer_to_one_operation_is_none_to_another(
    call: Call, gateway: Receiver, alipay_key: RSAPrivateKey
) -> None:
    body = json.dumps(REVOKED).encode()
    headers = signed_headers(alipay_key, f"{SANDBOX_PATH}revoke", body)
    gateway.behave = lambda handler: handler.answer(200, body, headers)
    assert isinstance(call(Operation.REVOKE, revoke_body(Secret("281001_token"))), Done)
    assert "(mismatch)" in why(call(Operation.CONSULT))


@pytest.mark.parametrize("is_signed", [True, False])
@pytest.mark.parametrize("status", ["S", "F", "U"])
def test_an_answer_to_another_client_is_not_believed(
    call: Call, gateway: Receiver, alipay_key: RSAPrivateKey, status: str, *, is_signed: bool
) -> None:
    body = json.dumps(TOKEN | a_result(status, "SOME_CODE")).encode()
    headers = signed_headers(alipay_key, APPLY_TOKEN, body) if is_signed else {}
    headers["client-id"] = "SANDBOX_OTHER"
    gateway.behave = lambda handler: handler.answer(200, body, headers)
    assert why(call()) == "Alipay's answer names another client id."


def test_a_header_that_comes_twice_is_not_believed(call: Call, gateway: Receiver, alipay_key: RSAPrivateKey) -> None:
    body = json.dumps(TOKEN).encode()
    headers = signed_headers(alipay_key, APPLY_TOKEN, body)
    for name, value in headers.items():
        gateway.behave = refuses(200, body, **headers | {name.upper(): value})
        assert isinstance(call(), Unknown), name


@settings(max_examples=40)
@given(data=st.data())
def test_one_changed_byte_of_a_signed_answer_makes_it_unknown(
    merchant_key: RSAPrivateKey, alipay_key: RSAPrivateKey, data: st.DataObject
) -> None:
    client = a_client("http://127.0.0.1:9", merchant_key, alipay_key)
    body = json.dumps(TOKEN).encode()
    at = data.draw(st.integers(0, len(body) - 1))
    changed = bytearray(body)
    changed[at] ^= data.draw(st.integers(1, 255))
    headers = signed_headers(alipay_key, APPLY_TOKEN, body)
    result = a_response(headers, bytes(changed))
    assert isinstance(judged(client, result), Unknown)
    whole = a_response(headers, body)
    assert isinstance(judged(client, whole), Done)


@settings(max_examples=300)
@given(
    status=st.sampled_from([200, 200, 200, 201, 302, 500]),
    headers=st.dictionaries(
        st.sampled_from(["signature", "response-time", "client-id"]),
        st.text(st.characters(min_codepoint=0, max_codepoint=255)) | st.just(CLIENT_ID),
    ),
    body=st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.text() | st.sampled_from(["S", "F", "U"]),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["result", "resultStatus", "resultCode", "resultMessage", "accessToken"]) | st.text(),
                inner,
            )
        ),
    ).map(lambda document: json.dumps(document).encode()),
    error=st.none() | st.just("Its answer ended before it was complete."),
)
def test_whatever_is_answered_without_alipays_key_is_never_done(
    merchant_key: RSAPrivateKey,
    alipay_key: RSAPrivateKey,
    status: int,
    headers: dict[str, str],
    body: bytes,
    error: str | None,
) -> None:
    client = a_client("http://127.0.0.1:9", merchant_key, alipay_key)
    outcome = judged(client, a_response(headers, body, status=status, error=error))
    if isinstance(outcome, Refused):
        assert status == 200
        assert error is None
        assert not {"signature", "response-time"} & headers.keys()
        assert json.loads(body)["result"]["resultStatus"] == "F"
    else:
        assert isinstance(outcome, Unknown)
        assert outcome.why


def a_response(headers: dict[str, str], body: bytes, *, status: int = 200, error: str | None = None) -> HttpResult:
    """What came back over HTTP."""
    return HttpResult(
        status=status, is_sent=True, headers=HTTPHeaderDict(headers), body=body, error=error, milliseconds=1
    )


def judged(client: Client, result: HttpResult) -> Done | Refused | Unknown:
    return call_module._outcome(client, Operation.APPLY_TOKEN, APPLY_TOKEN, BODY, result)  # noqa: SLF001 -- without a socket


# --- what an answer must have ---


@pytest.mark.parametrize("token", [..., None, "", 7, "a" * 129, ["a"]])
def test_a_token_answer_without_a_token_is_unknown(
    call: Call, gateway: Receiver, alipay_key: RSAPrivateKey, token: object
) -> None:
    gateway.behave = answers(alipay_key, without_ellipses(TOKEN | {"accessToken": token}))
    assert why(call()) == "Alipay's answer has no accessToken of 1 to 128 characters."


@pytest.mark.parametrize("url", [..., None, "", 7, "h" * 2049])
def test_a_consult_answer_without_a_url_is_unknown(
    call: Call, gateway: Receiver, alipay_key: RSAPrivateKey, url: object
) -> None:
    gateway.behave = answers(alipay_key, without_ellipses({"result": SUCCESS, "normalUrl": url, "schemeUrl": ""}))
    assert why(call(Operation.CONSULT)) == "Alipay's answer has none of normalUrl, schemeUrl and applinkUrl."


def without_ellipses(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if value is not ...}


def test_revoke_needs_nothing_but_its_result(call: Call, gateway: Receiver, alipay_key: RSAPrivateKey) -> None:
    gateway.behave = answers(alipay_key, REVOKED)
    assert isinstance(call(Operation.REVOKE, revoke_body(Secret("281001_token"))), Done)


def test_a_token_answer_is_read_whole() -> None:
    assert read_grant(TOKEN) == TokenAnswer(
        Secret("281001_token"),
        datetime(2027, 11, 22, 4, tzinfo=UTC),
        Secret("281001_refresh"),
        datetime(2028, 11, 22, 4, tzinfo=UTC),
        Secret("n***@example.com"),
    )


@pytest.mark.parametrize("absent", [{}, {"refreshToken": "", "refreshTokenExpiryTime": ""}, {"refreshToken": None}])
def test_of_a_token_answer_only_the_token_is_needed(absent: dict[str, Any]) -> None:
    assert read_grant({"accessToken": "a", "accessTokenExpiryTime": "soon"} | absent) == TokenAnswer(Secret("a"))


@pytest.mark.parametrize("name", ["normalUrl", "schemeUrl", "applinkUrl"])
def test_one_url_of_a_consult_is_enough(name: str) -> None:
    answer = read_consult({name: "https://wallet.example"})
    assert [answer.normal_url, answer.scheme_url, answer.applink_url].count("https://wallet.example") == 1


def test_a_consult_answer_is_read_whole() -> None:
    details: list[Any] = [{"displayType": "TEXT", "codeValue": "42"}, {"displayType": "TEXT"}, "42", None]
    answer = read_consult(
        CONSULTED | {"appIdentifier": "com.wallet", "authCodeForm": {"codeDetails": details}, "schemeUrl": "wallet://"}
    )
    assert answer == ConsultAnswer(
        "https://wallet.example/agree?state=1", "wallet://", None, "com.wallet", (CodeDetail("TEXT", "42"),)
    )


@pytest.mark.parametrize("form", [None, "", [], {"codeDetails": "x"}, {"codeDetails": None}, {}])
def test_a_form_that_is_none_is_passed_over(form: object) -> None:
    assert read_consult(CONSULTED | {"authCodeForm": form}).code_details == ()


# --- what is asked ---


def test_bodies_are_compact_and_leave_out_what_is_not_given() -> None:
    assert BODY == b'{"grantType":"AUTHORIZATION_CODE","customerBelongsTo":"GCASH","authCode":"281001_code"}'
    assert refresh_body(Secret("r"), customer_belongs_to="DANA", merchant_region="ID") == (
        b'{"grantType":"REFRESH_TOKEN","customerBelongsTo":"DANA","refreshToken":"r","merchantRegion":"ID"}'
    )
    assert revoke_body(Secret("t")) == b'{"accessToken":"t"}'


def test_a_consult_takes_the_device_in_either_shape_and_writes_scalars_as_strings() -> None:
    request = ConsultRequest(
        auth_state="s-ä",
        customer_belongs_to="GCASH",
        auth_redirect_url="https://shop.example/back",
        scopes=("AGREEMENT_PAY",),
    )
    least = {
        "customerBelongsTo": "GCASH",
        "authRedirectUrl": "https://shop.example/back",
        "scopes": ["AGREEMENT_PAY"],
        "authState": "s-ä",
    }
    assert json.loads(consult_body(request)) == least
    old = replace(request, terminal_type="APP", os_type="IOS", os_version="18", merchant_region="")
    assert json.loads(consult_body(old)) == least | {"terminalType": "APP", "osType": "IOS", "osVersion": "18"}
    new = replace(request, env={"terminalType": "APP", "is": True, "number": 1, "none": None, "deep": {"a": [2]}})
    assert json.loads(consult_body(new)) == least | {
        "env": {"terminalType": "APP", "is": "true", "number": "1", "deep": {"a": ["2"]}}
    }


@given(st.text(st.characters(), min_size=1))
def test_whatever_a_code_holds_it_arrives_as_it_is(text: str) -> None:
    body = exchange_body(Secret(text), customer_belongs_to=text)
    assert json.loads(body)["authCode"] == json.loads(body)["customerBelongsTo"] == text


# --- what is secret ---


def test_nothing_secret_is_in_a_repr_or_a_log(
    call: Call, gateway: Receiver, alipay_key: RSAPrivateKey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = "the code 281001_code, and \u202e\x1b[31m 281001_code again"
    texts = []
    for key, document in (
        (alipay_key, TOKEN),
        (alipay_key, CONSULTED),
        (None, TOKEN | a_result("F", "INVALID_AUTHCODE", echo)),
        (None, TOKEN | a_result("U", "AUTH_IN_PROCESS", echo)),
        (None, TOKEN),
    ):
        gateway.behave = answers(key, document)
        texts += [repr(call()), repr(call(Operation.CONSULT))]
    texts += [repr(read_grant(TOKEN)), repr(read_consult(CONSULTED)), repr(CodeDetail("TEXT", "281001_value"))]
    everything = "\n".join([*texts, caplog.text])
    assert "***" in everything
    for secret in ("281001_", "n***@example.com", "wallet.example", "\x1b", "\u202e"):
        assert secret not in everything


def test_headers_that_cannot_be_read_are_not_logged(
    call: Call, gateway: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """urllib3 warns of them, and quotes them."""
    gateway.behave = lambda handler: handler.say(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n281001_token\r\nA: b\r\n\r\n{}"
    )
    assert isinstance(call(), Unknown)
    assert "281001" not in caplog.text


def why(outcome: Done | Refused | Unknown) -> str:
    assert isinstance(outcome, Unknown)
    assert outcome.code is None
    return outcome.why


def is_signed_by(key: RSAPrivateKey, received: Received, text: bytes) -> bool:
    """Judge a request's signature header without the code under test."""
    match = re.fullmatch(r"algorithm=RSA256,keyVersion=1,signature=(\S+)", received.headers["signature"])
    assert match
    try:
        key.public_key().verify(
            base64.b64decode(unquote(match[1]), validate=True), text, padding.PKCS1v15(), hashes.SHA256()
        )
    except InvalidSignature:
        return False
    return True
