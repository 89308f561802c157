"""The answers of a pretend gateway: what came of a call as JSON, signed or not, and how it is to be written."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.alipay.delivery import Delivery
from app.alipay.signature import sign
from app.simulator.gateway.alipay import Notice
from app.simulator.gateway.keys import ClientKeys
from app.simulator.gateway.ledger import ReceivedCall, Token

#: Where Alipay's clocks stand.
_ALIPAYS_ZONE = timezone(timedelta(hours=8))
_MESSAGE_CHARACTERS_MAX = 256
_JSON = "application/json; charset=UTF-8"


class Sending(Enum):
    """How an answer is written."""

    WHOLE = auto()
    SILENT = auto()
    CUT = auto()
    DRIP = auto()
    ENDLESS = auto()


@dataclass(slots=True)
class Answer:
    """What is to be written, and what is to be done before and after."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)
    sending: Sending = Sending.WHOLE
    delay_seconds: float = 0
    call: ReceivedCall | None = None
    #: Whether a caller can believe it, once it is there.
    is_believable: bool = True
    #: The token that it names.
    access_token: str | None = field(default=None, repr=False)
    #: What is to be notified before the answer is written, and after, with seconds to wait.
    notify_before: list[Notice] = field(default_factory=list)
    notify_after: list[tuple[Notice, float]] = field(default_factory=list)
    lost: list[Notice] = field(default_factory=list)


@dataclass(slots=True)
class Done:
    """What came of the work."""

    status: str
    code: str
    message: str
    fields: dict[str, Any] = field(default_factory=dict)
    token: Token | None = None
    #: What Alipay notifies of by itself.
    notices: list[Notice] = field(default_factory=list)
    #: What it notifies of only where that is asked for.
    notices_on_request: list[Notice] = field(default_factory=list)

    def body(self) -> bytes:
        """Write it as JSON."""
        result = {"resultCode": self.code, "resultStatus": self.status, "resultMessage": self.message}
        return json.dumps({"result": result, **self.fields}, separators=(",", ":")).encode()


class Signing:
    """Signs answers as Alipay does, for the client that asks."""

    def __init__(self, keys: Mapping[str, ClientKeys], clock: Callable[[], datetime]) -> None:
        self._keys = keys
        self._clock = clock

    def answer(self, delivery: Delivery, done: Done, call: ReceivedCall | None = None) -> Answer:
        """Make the answer to a call whose caller is known."""
        token = None if done.token is None else done.token.access_token
        answer = Answer(HTTPStatus.OK, {}, b"", call=call, access_token=token)
        self.sign(answer, delivery, done.body())
        return answer

    def sign(
        self,
        answer: Answer,
        delivery: Delivery,
        body: bytes,
        *,
        client_id: str | None = None,
        key: RSAPrivateKey | None = None,
    ) -> None:
        """Put a body and the headers that sign it into an answer; for another client or by another key, wrongly."""
        keys = self._keys[delivery.client_id]
        client_id = client_id or keys.client_id
        response_time = alipays_time(self._clock())
        signature = sign(
            key or keys.alipay_key,
            method=delivery.method,
            uri=delivery.uri,
            client_id=client_id,
            time=response_time,
            body=body,
            key_version=keys.key_version,
        )
        answer.body = body
        answer.headers = {
            "Content-Type": _JSON,
            "client-id": client_id,
            "response-time": response_time,
            "signature": signature,
        }


def unsigned(client_id: str, done: Done, call: ReceivedCall | None = None) -> Answer:
    """Answer a caller that is rejected. What it called itself is echoed only if a header can carry it."""
    headers = {"Content-Type": _JSON}
    if client_id.isascii() and client_id.isprintable() and 0 < len(client_id) <= _MESSAGE_CHARACTERS_MAX:
        headers["client-id"] = client_id
    return Answer(HTTPStatus.OK, headers, done.body(), call=call)


def refused(code: str, message: str) -> Done:
    """Say F: it has no effect, and the same again would have none."""
    return Done("F", code, message[:_MESSAGE_CHARACTERS_MAX])


def undecided(code: str | None = None) -> Done:
    """Say U: the same is to be asked again."""
    return Done("U", code or "UNKNOWN_EXCEPTION", "the outcome is not known")


def succeeded() -> Done:
    """Say S."""
    return Done("S", "SUCCESS", "success")


def alipays_time(time: datetime) -> str:
    """Write a time as Alipay does: to the second, with the offset of its own zone."""
    return time.astimezone(_ALIPAYS_ZONE).isoformat(timespec="seconds")
