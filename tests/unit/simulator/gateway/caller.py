"""A caller of the gateway that follows the rules of Alipay's documents, written without the service's own client."""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import urllib3
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.alipay.delivery import Delivery
from app.alipay.keyring import Keyring
from app.alipay.signature import NotAuthenticError, sign, verify
from tests.builders import CLIENT_ID

PREFIX = "/ams/sandbox/api/v1/authorizations/"
REDIRECT_URL = "https://shop.example/return?from=alipay"


@dataclass
class Answered:
    """What came back, and what a careful caller makes of it."""

    status: int
    headers: dict[str, str]
    document: Any
    #: S, F or U of an answer that can be believed; "?" of any other.
    believed: str

    @property
    def code(self) -> str:
        return str(self.document["result"]["resultCode"])


@dataclass
class Caller:
    """Calls for one client."""

    url: str
    key: RSAPrivateKey
    keyring: Keyring
    client_id: str = CLIENT_ID
    prefix: str = PREFIX
    timeout: float = 10
    http: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False, maxsize=32))

    def call(self, name: str, body: object, *, signature: str | None = None, **headers: str) -> Answered:
        """Call. Raises urllib3's errors where there is no answer."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        uri = self.prefix + name
        time = "1685599933871"
        if signature is None:
            signature = sign(self.key, method="POST", uri=uri, client_id=self.client_id, time=time, body=raw)
        sent = {
            "client-id": self.client_id,
            "request-time": time,
            "signature": signature,
            "Content-Type": "application/json; charset=UTF-8",
            **headers,
        }
        answer = self.http.request("POST", self.url + uri, body=raw, headers=sent, timeout=self.timeout, redirect=False)
        return self.judge(answer, uri)

    def judge(self, answer: urllib3.BaseHTTPResponse, uri: str) -> Answered:
        """Judge an answer by the rule of the newest SDKs."""
        headers = {name.lower(): value for name, value in answer.headers.items()}
        try:
            document = json.loads(answer.data)
        except ValueError:
            document = None
        believed = document["result"]["resultStatus"] if answer.status == 200 and document else "?"
        signed = {"signature", "response-time"} & set(headers)
        if len(signed) == 1 or (not signed and believed == "S") or headers.get("client-id") != self.client_id:
            believed = "?"
        if len(signed) == 2:
            delivery = Delivery(
                "POST", uri, self.client_id, headers["response-time"], headers["signature"], answer.data
            )
            try:
                verify(delivery, self.keyring)
            except NotAuthenticError:
                believed = "?"
        return Answered(answer.status, headers, document, believed)

    def consult(self, auth_state: str = "s-1", **fields: object) -> Answered:
        document = {
            "customerBelongsTo": "GCASH",
            "authRedirectUrl": REDIRECT_URL,
            "scopes": ["AGREEMENT_PAY"],
            "authState": auth_state,
            "terminalType": "WEB",
        }
        return self.call("consult", document | fields)

    def exchange(self, code: str, **fields: object) -> Answered:
        document = {"grantType": "AUTHORIZATION_CODE", "authCode": code, "customerBelongsTo": "GCASH"}
        return self.call("applyToken", document | fields)

    def refresh(self, refresh_token: str, **fields: object) -> Answered:
        document = {"grantType": "REFRESH_TOKEN", "refreshToken": refresh_token, "customerBelongsTo": "GCASH"}
        return self.call("applyToken", document | fields)

    def revoke(self, access_token: str) -> Answered:
        return self.call("revoke", {"accessToken": access_token})


def code_in(url: str) -> str:
    """Take the code out of the address to which the user is sent."""
    return parse_qs(urlsplit(url).query)["authCode"][0]
