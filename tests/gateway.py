"""A gateway that a test runs on 127.0.0.1: it keeps the calls that come, and answers as the test likes."""

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.alipay.keyring import Client, Gateway
from tests.builders import CLIENT_ID, SUCCESS
from tests.receiver import Behavior, Handler, Receiver, a_receiver

RESPONSE_TIME = "2026-11-22T12:00:00+08:00"
SANDBOX_PATH = "/ams/sandbox/api/v1/authorizations/"

TOKEN = {
    "result": SUCCESS,
    "accessToken": "281001_token",
    "accessTokenExpiryTime": "2027-11-22T12:00:00+08:00",
    "refreshToken": "281001_refresh",
    "refreshTokenExpiryTime": "2028-11-22T12:00:00+08:00",
    "userLoginId": "n***@example.com",
}
CONSULTED = {"result": SUCCESS, "normalUrl": "https://wallet.example/agree?state=1"}
REVOKED = {"result": SUCCESS}


def a_client(url: str, merchant_key: RSAPrivateKey, alipay_key: RSAPrivateKey, *, client_id: str = CLIENT_ID) -> Client:
    """A client whose calls go to a gateway."""
    return Client(client_id, "auto_debit", {1: (alipay_key.public_key(),)}, merchant_key, Gateway(url))


@contextmanager
def a_gateway() -> Iterator[tuple[Receiver, str]]:
    """A gateway, and its URL as a keyring has it."""
    with a_receiver() as receiver:
        yield receiver, f"http://127.0.0.1:{receiver.port}"


def a_result(status: str, code: str, message: str = "says so") -> dict[str, Any]:
    """An answer of nothing but its result."""
    return {"result": {"resultStatus": status, "resultCode": code, "resultMessage": message}}


def signature_over(key: RSAPrivateKey, text: bytes) -> str:
    """A signature header, made without the code under test."""
    value = base64.b64encode(key.sign(text, padding.PKCS1v15(), hashes.SHA256())).decode()
    return f"algorithm=RSA256,keyVersion=1,signature={quote(value, safe='')}"


def signed_headers(
    key: RSAPrivateKey, path: str, body: bytes, *, client_id: str = CLIENT_ID, time: str = RESPONSE_TIME
) -> dict[str, str]:
    """What Alipay sends with an answer."""
    text = f"POST {path}\n{client_id}.{time}.".encode() + body
    return {"client-id": client_id, "response-time": time, "signature": signature_over(key, text)}


def answers(
    key: RSAPrivateKey | None, document: Mapping[str, Any] | bytes, *, client_id: str = CLIENT_ID, status: int = 200
) -> Behavior:
    """Answer with a document, signed if there is a key."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()

    def answer(handler: Handler) -> None:
        headers = {} if key is None else signed_headers(key, handler.path, body, client_id=client_id)
        handler.answer(status, body, headers | {"Content-Type": "application/json; charset=UTF-8"})

    return answer
