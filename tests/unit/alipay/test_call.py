"""One call to Alipay: what goes out is signed as Alipay verifies it, and only what Alipay signed comes in."""

import base64
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from urllib.parse import unquote

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.alipay.call import Caller, Done, Operation, Refused, Unknown, exchange_body, read_grant
from app.secret import Secret
from tests.builders import CLIENT_ID
from tests.gateway import SANDBOX_PATH, TOKEN, a_client, a_gateway, answers
from tests.receiver import Receiver

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
    match = re.fullmatch(r"algorithm=RSA256,keyVersion=1,signature=(\S+)", received.headers["signature"])
    assert match
    text = f"POST {SANDBOX_PATH}applyToken\n{CLIENT_ID}.1795348800123.".encode() + BODY
    signature = base64.b64decode(unquote(match[1]), validate=True)
    merchant_key.public_key().verify(signature, text, padding.PKCS1v15(), hashes.SHA256())
    with pytest.raises(InvalidSignature):
        merchant_key.public_key().verify(signature, text.replace(b"sandbox/", b""), padding.PKCS1v15(), hashes.SHA256())
