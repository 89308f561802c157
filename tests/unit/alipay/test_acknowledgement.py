"""An answer says what was decided, and nothing a stranger could have put into it."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.alipay.acknowledgement import ACKNOWLEDGEMENT, NotifyResponse, acknowledge, is_acknowledgement, refuse
from app.alipay.keyring import Client
from app.alipay.signature import verify
from tests.builders import CLIENT_ID, URI, a_delivery, a_keyring

NOW = datetime(2026, 11, 22, 2, 0, 0, 987654, tzinfo=UTC)


@pytest.fixture(scope="session")
def client(alipay_key: RSAPrivateKey, merchant_key: RSAPrivateKey) -> Client:
    """A client that can sign its answers."""
    return Client(CLIENT_ID, "auto_debit", {1: (alipay_key.public_key(),)}, merchant_key)


@pytest.fixture(scope="session")
def client_without_a_private_key(alipay_key: RSAPrivateKey) -> Client:
    return Client(CLIENT_ID, "auto_debit", {1: (alipay_key.public_key(),)})


def verify_answer(answer: NotifyResponse, merchant_key: RSAPrivateKey) -> None:
    """Verify as Alipay would: the request's method, URI and client id with the answer's time and body."""
    delivery = a_delivery(
        client_id=answer.headers["client-id"],
        request_time=answer.headers["response-time"],
        signature=answer.headers["signature"],
        body=answer.body,
    )
    verify(delivery, a_keyring({1: merchant_key.public_key()}))


def test_acknowledgement_is_the_documented_one_to_the_byte() -> None:
    answer = acknowledge(a_delivery(), None, now=NOW)
    assert answer.status == 200
    assert answer.body == (b'{"result": {"resultCode": "SUCCESS", "resultStatus": "S", "resultMessage": "success"}}')
    assert answer.headers == {
        "Content-Type": "application/json",
        "client-id": CLIENT_ID,
        "response-time": "2026-11-22T02:00:00+00:00",
    }
    assert (answer.result_code, answer.result_status) == ("SUCCESS", "S")


def test_response_time_is_utc_whatever_the_clock_says() -> None:
    now = NOW.astimezone(timezone(timedelta(hours=8)))
    assert acknowledge(a_delivery(), None, now=now).headers["response-time"] == "2026-11-22T02:00:00+00:00"


def test_acknowledgement_is_signed_with_the_merchants_key(client: Client, merchant_key: RSAPrivateKey) -> None:
    verify_answer(acknowledge(a_delivery(), client, now=NOW), merchant_key)


def test_acknowledgement_of_a_client_without_a_private_key_is_not_signed(client_without_a_private_key: Client) -> None:
    assert "signature" not in acknowledge(a_delivery(), client_without_a_private_key, now=NOW).headers


def test_answers_of_one_second_share_a_signature(client: Client) -> None:
    first = acknowledge(a_delivery(), client, now=NOW).headers["signature"]
    again = acknowledge(a_delivery(body=b"another"), client, now=NOW.replace(microsecond=0)).headers["signature"]
    assert again is first


def test_answers_that_differ_in_anything_signed_are_signed_anew(client: Client, merchant_key: RSAPrivateKey) -> None:
    signatures = {
        acknowledge(a_delivery(), client, now=NOW).headers["signature"],
        acknowledge(a_delivery(), client, now=NOW + timedelta(seconds=1)).headers["signature"],
        acknowledge(a_delivery(uri=f"{URI}?a"), client, now=NOW).headers["signature"],
        acknowledge(a_delivery(client_id="B"), Client("B", "direct", {}, merchant_key), now=NOW).headers["signature"],
    }
    assert len(signatures) == 4


def test_answers_from_many_threads_and_seconds_are_each_signed_right(
    client: Client, merchant_key: RSAPrivateKey
) -> None:
    times = [NOW + timedelta(seconds=second % 100) for second in range(400)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda now: acknowledge(a_delivery(), client, now=now), times))
    for now, answer in zip(times, answers, strict=True):
        assert answer.headers["response-time"] == now.isoformat(timespec="seconds")
        verify_answer(answer, merchant_key)


def test_refusal_has_the_same_shape(client: Client, merchant_key: RSAPrivateKey) -> None:
    answer = refuse(
        a_delivery(),
        status=400,
        result_code="PARAM_ILLEGAL",
        result_status="F",
        message="accessToken is “missing”",
        client=client,
        now=NOW,
    )
    assert (answer.status, answer.result_code, answer.result_status) == (400, "PARAM_ILLEGAL", "F")
    assert json.loads(answer.body) == {
        "result": {"resultCode": "PARAM_ILLEGAL", "resultStatus": "F", "resultMessage": "accessToken is “missing”"}
    }
    verify_answer(answer, merchant_key)


def a_refusal(client_id: str) -> NotifyResponse:
    return refuse(
        a_delivery(client_id=client_id),
        status=401,
        result_code="UNKNOWN_CLIENT",
        result_status="F",
        message="unknown",
        client=None,
        now=NOW,
    )


def test_stranger_gets_its_client_id_back_and_no_signature() -> None:
    headers = a_refusal("SANDBOX_OTHER").headers
    assert headers["client-id"] == "SANDBOX_OTHER"
    assert "signature" not in headers


@pytest.mark.parametrize("client_id", ["", "a\r\nset-cookie: b", "a\x00", "a\x7f", "é", "€", "a" * 257])
def test_client_id_that_could_break_a_header_is_not_echoed(client_id: str) -> None:
    assert "client-id" not in a_refusal(client_id).headers


@pytest.mark.parametrize(
    "body",
    [
        ACKNOWLEDGEMENT,
        b'{"result":{"resultMessage":"success","resultStatus":"S","resultCode":"SUCCESS"}}',
        b"\n " + ACKNOWLEDGEMENT + b"\n",
    ],
)
def test_fixed_body_stops_redelivery_however_it_is_spaced(body: bytes) -> None:
    assert is_acknowledgement(200, body)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (201, ACKNOWLEDGEMENT),
        (503, ACKNOWLEDGEMENT),
        (200, b""),
        (200, b"\xff"),
        (200, b"[" * 100_000),
        (200, b"success"),
        (200, b"{}"),
        (200, ACKNOWLEDGEMENT.replace(b"SUCCESS", b"success")),
        (200, ACKNOWLEDGEMENT[:-1] + b', "more": 1}'),
        (200, ACKNOWLEDGEMENT.decode().encode("utf-16")),
    ],
    ids=["201", "503", "empty", "binary", "deep", "text", "object", "case", "more", "UTF-16"],
)
def test_anything_else_is_sent_again(status: int, body: bytes) -> None:
    assert not is_acknowledgement(status, body)


def test_answer_shows_no_body() -> None:
    assert "resultMessage" not in repr(acknowledge(a_delivery(), None, now=NOW))
