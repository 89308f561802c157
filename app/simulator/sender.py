"""Sign notifications and post them as Alipay does: again and again, until the exact acknowledgement comes back."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import NamedTuple, Self

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from typing_extensions import override

from app.alipay.acknowledgement import is_acknowledgement
from app.alipay.delivery import Delivery
from app.alipay.signature import sign

#: How long Alipay waits before each of its eight attempts, counted from the one before: 24 h 22 min in all.
#: The sandbox stops after the first.
REDELIVERY_DELAYS = (
    timedelta(0),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(minutes=10),
    timedelta(hours=1),
    timedelta(hours=2),
    timedelta(hours=6),
    timedelta(hours=15),
)

CONTENT_TYPE = "application/json; charset=UTF-8"

#: Alipay documents no limit. A service that needs longer than this to store one row is not working.
_CONNECT_SECONDS_MAX = 5
_READ_SECONDS_MAX = 10


class UnusableUrlError(ValueError):
    """An address is not one that can be posted to."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url!r} is not an http:// or https:// address with a host.")


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs as Alipay, for one client and with one of its keys."""

    client_id: str
    private_key: RSAPrivateKey
    #: `None` leaves the version out of the header, which means the newest key.
    key_version: int | None = 1

    def sign(self, body: bytes, *, uri: str, request_time: str) -> Delivery:
        """Sign the body for the URI. Any request-time does: for verification it is an opaque string."""
        signature = sign(
            self.private_key,
            method="POST",
            uri=uri,
            client_id=self.client_id,
            time=request_time,
            body=body,
            key_version=self.key_version,
        )
        return Delivery(
            method="POST",
            uri=uri,
            client_id=self.client_id,
            request_time=request_time,
            signature=signature,
            body=body,
        )


def epoch_milliseconds(moment: datetime) -> str:
    """Write a moment as the request-time of today's documents."""
    return str(int(moment.timestamp() * 1000))


def headers_of(delivery: Delivery) -> Mapping[str, str]:
    """Give the headers that carry the delivery beside its body."""
    return {
        "client-id": delivery.client_id,
        "request-time": delivery.request_time,
        "signature": delivery.signature,
        "Content-Type": CONTENT_TYPE,
    }


class Result(NamedTuple):
    """What an answer says: the HTTP status and the result in its body."""

    status: int
    result_status: str
    result_code: str

    @override
    def __str__(self) -> str:
        return f"{self.status} {self.result_status} {self.result_code}"


@dataclass(frozen=True, slots=True)
class ServiceResponse:
    """What came back from one attempt: a status and a body, or an error of the network."""

    status: int | None = None
    body: bytes = b""
    error: str = ""

    @property
    def acknowledged(self) -> bool:
        """Whether Alipay would be content, and never send this notification again."""
        return self.status is not None and is_acknowledgement(self.status, self.body)

    @property
    def result(self) -> Result | None:
        """What the answer says, or `None` if it is not the kind of answer that Alipay reads."""
        try:
            result = json.loads(self.body)["result"]
            return Result(self.status or 0, str(result["resultStatus"]), str(result["resultCode"]))
        except (ValueError, LookupError, TypeError, RecursionError):
            return None

    @property
    def message(self) -> str:
        """What the answer says to people; nothing, if it is not the kind of answer that Alipay reads."""
        try:
            message = json.loads(self.body)["result"]["resultMessage"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return ""
        return message if isinstance(message, str) else ""

    @override
    def __str__(self) -> str:
        """Say what came back. Only the exact acknowledgement reads `200 S SUCCESS`."""
        if self.status is None:
            return f"no answer: {self.error}"
        said = str(self.result or f"{self.status} without a result")
        if self.status == HTTPStatus.OK and not self.acknowledged:
            return f"{said}, but not the acknowledgement"
        return said


class Sender:
    """Posts deliveries to one URL over connections that stay open."""

    def __init__(self, url: str, *, connections: int = 1) -> None:
        """Take the address to post to, and how many threads post at once.

        Raises `UnusableUrlError` if it is not an address with a scheme and a host.
        """
        # Imported late: what signs and does not send need not wait for it.
        import urllib3  # noqa: PLC0415

        try:
            address = urllib3.util.parse_url(url)
        except urllib3.exceptions.LocationParseError:
            raise UnusableUrlError(url) from None
        if address.scheme not in {"http", "https"} or not address.host:
            raise UnusableUrlError(url)
        self.url = url
        #: What the receiver will see as path and query, and so what is to be signed.
        self.uri = address.request_uri
        #: Neither repeats nor follows: a repetition is a redelivery, and those have their own schedule.
        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS_MAX, read=_READ_SECONDS_MAX)
        self._http: urllib3.PoolManager = urllib3.PoolManager(retries=False, timeout=timeout, maxsize=connections)
        #: Whether an answer was that nobody listens at this path.
        self.was_misdirected = False

    def send(self, delivery: Delivery) -> ServiceResponse:
        """Make one attempt. A failure of the network is an answer too: the next attempt follows."""
        from urllib3.exceptions import HTTPError  # noqa: PLC0415 -- as above

        try:
            response = self._http.request("POST", self.url, body=delivery.body, headers=headers_of(delivery))
        except HTTPError as error:
            # urllib3's own message begins with the address, which is known here.
            return ServiceResponse(error=str(error.__cause__ or error))
        self.was_misdirected = self.was_misdirected or response.status == HTTPStatus.NOT_FOUND
        return ServiceResponse(status=response.status, body=response.data)

    def close(self) -> None:
        """Close the connections."""
        self._http.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def deliver(
    sender: Sender,
    sign_attempt: Callable[[], Delivery],
    *,
    sleep: Callable[[timedelta], None],
    delays: tuple[timedelta, ...] = REDELIVERY_DELAYS,
) -> Iterator[ServiceResponse]:
    """Send one notification until it is acknowledged or the schedule ends, and give the answer of each attempt.

    `sign_attempt` is asked before every attempt: whether Alipay signs a redelivery anew is documented nowhere, so
    it may give a new delivery or the same one again.
    """
    for delay in delays:
        sleep(delay)
        answer = sender.send(sign_attempt())
        yield answer
        if answer.acknowledged:
            return
