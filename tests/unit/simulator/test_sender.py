"""Deliveries arrive as they were signed, and again until the one answer that stops them."""

import functools
from datetime import UTC, datetime, timedelta

import pytest

from app.alipay.acknowledgement import ACKNOWLEDGEMENT
from app.alipay.delivery import Delivery
from app.alipay.keyring import Keyring
from app.alipay.signature import verify
from app.simulator.draft import token_canceled
from app.simulator.sender import Result, Sender, ServiceResponse, Signer, UnusableUrlError, deliver, epoch_milliseconds
from tests.unit.simulator.endpoint import ACKNOWLEDGED, OUTAGE, Answered, Endpoint

BODY = token_canceled("t-1", reason="不再需要").body()
MISTAKEN_ANSWERS = [
    (200, b""),
    (200, b"success"),
    (200, ACKNOWLEDGEMENT.replace(b"SUCCESS", b"ACCEPTED")),
    (200, ACKNOWLEDGEMENT.replace(b'"S"', b'"U"')),
    (201, ACKNOWLEDGEMENT),
    (302, ACKNOWLEDGEMENT),
    (500, ACKNOWLEDGEMENT),
    (503, b'{"result": {"resultCode": "UNKNOWN_EXCEPTION", "resultStatus": "U", "resultMessage": "later"}}'),
    OUTAGE,
]


class VirtualClock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.start = self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def sleep(self, delay: timedelta) -> None:
        self.now += delay

    @property
    def passed(self) -> timedelta:
        return self.now - self.start


@pytest.fixture
def clock() -> VirtualClock:
    """A clock that no test waits for."""
    return VirtualClock()


def signed(signer: Signer, uri: str, clock: VirtualClock) -> Delivery:
    return signer.sign(BODY, uri=uri, request_time=epoch_milliseconds(clock.now))


def test_a_sent_delivery_is_authentic(endpoint: Endpoint, sender: Sender, signer: Signer, keyring: Keyring) -> None:
    sent = signer.sign(BODY, uri=sender.uri, request_time="1685599933871")
    assert sender.send(sent).acknowledged
    assert endpoint.deliveries == [sent]
    verify(endpoint.deliveries[0], keyring)


@pytest.mark.parametrize("path", ["/", "/a?b=c&d=%2F", "/ä ö?ü", "/a//b/", "/a?"])
def test_the_signed_uri_is_the_one_that_the_receiver_sees(
    endpoint: Endpoint, signer: Signer, keyring: Keyring, path: str
) -> None:
    endpoint.url = endpoint.url.replace("/alipay/notifyAuthorization", path)
    with Sender(endpoint.url) as sender:
        sender.send(signer.sign(BODY, uri=sender.uri, request_time="1685599933871"))
    assert endpoint.deliveries[0].uri == sender.uri
    verify(endpoint.deliveries[0], keyring)


@pytest.mark.parametrize("version", [None, 1])
def test_signature_with_and_without_key_version_is_authentic(
    sender: Sender, signer: Signer, keyring: Keyring, version: int | None
) -> None:
    signer = Signer(signer.client_id, signer.private_key, version)
    verify(signer.sign(BODY, uri=sender.uri, request_time="2026-01-01T00:00:00+08:00"), keyring)


def test_request_time_is_in_milliseconds() -> None:
    assert epoch_milliseconds(datetime(2023, 6, 1, 6, 12, 13, 871_000, tzinfo=UTC)) == "1685599933871"


def test_connection_stays_open(endpoint: Endpoint, sender: Sender, signer: Signer) -> None:
    for _ in range(3):
        sender.send(signer.sign(BODY, uri=sender.uri, request_time="1"))
    assert len(endpoint.connections) == 1


@pytest.mark.parametrize("url", ["", "localhost:8000/a", "/a", "http://", "ftp://host/a", "http://[::1/a"])
def test_address_that_cannot_be_posted_to_is_refused(url: str) -> None:
    with pytest.raises(UnusableUrlError):
        Sender(url)


def test_schedule_is_the_one_of_the_documents(
    endpoint: Endpoint, sender: Sender, signer: Signer, clock: VirtualClock
) -> None:
    endpoint.answers = [OUTAGE]
    answers = deliver(sender, lambda: signed(signer, sender.uri, clock), sleep=clock.sleep)
    offsets = [clock.passed for _ in answers]
    minutes = [0, 2, 12, 22, 22 + 60, 22 + 180, 22 + 540, 22 + 1440]
    assert offsets == [timedelta(minutes=minute) for minute in minutes]


@pytest.mark.parametrize("failures", range(9))
def test_after_an_outage_of_any_length_the_next_attempt_is_the_last(
    endpoint: Endpoint, sender: Sender, signer: Signer, clock: VirtualClock, failures: int
) -> None:
    endpoint.answers = [OUTAGE] * failures + [ACKNOWLEDGED]
    answers = list(deliver(sender, lambda: signed(signer, sender.uri, clock), sleep=clock.sleep))
    assert len(answers) == len(endpoint.deliveries) == min(failures + 1, 8)
    assert [answer.acknowledged for answer in answers] == [False] * min(failures, 8) + [True] * (failures < 8)


@pytest.mark.parametrize("mistake", MISTAKEN_ANSWERS)
def test_only_the_exact_acknowledgement_stops_redelivery(
    endpoint: Endpoint, sender: Sender, signer: Signer, clock: VirtualClock, mistake: Answered
) -> None:
    endpoint.answers = [mistake, ACKNOWLEDGED]
    wrong, right = deliver(sender, lambda: signed(signer, sender.uri, clock), sleep=clock.sleep)
    assert not wrong.acknowledged
    assert right.acknowledged
    assert str(wrong) != "200 S SUCCESS"
    assert str(right) == "200 S SUCCESS"


def test_redelivery_is_signed_anew_if_asked_to(
    endpoint: Endpoint, sender: Sender, signer: Signer, keyring: Keyring, clock: VirtualClock
) -> None:
    endpoint.answers = [OUTAGE, ACKNOWLEDGED]
    list(deliver(sender, lambda: signed(signer, sender.uri, clock), sleep=clock.sleep))
    first, second = endpoint.deliveries
    assert int(second.request_time) - int(first.request_time) == 120_000
    assert first.signature != second.signature
    verify(second, keyring)


def test_redelivery_repeats_the_first_signature_if_asked_to(
    endpoint: Endpoint, sender: Sender, signer: Signer, clock: VirtualClock
) -> None:
    endpoint.answers = [OUTAGE, ACKNOWLEDGED]
    list(deliver(sender, functools.cache(lambda: signed(signer, sender.uri, clock)), sleep=clock.sleep))
    first, second = endpoint.deliveries
    assert first == second


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"1", b'{"result": "S"}', b'{"result": {}}', b"[" * 100_000])
def test_answer_without_a_result_is_told_as_it_is(body: bytes) -> None:
    assert ServiceResponse(status=502, body=body).result is None
    assert str(ServiceResponse(status=502, body=body)) == "502 without a result"


def test_answer_with_a_result_is_told_by_it() -> None:
    answer = ServiceResponse(status=400, body=b'{"result": {"resultStatus": "F", "resultCode": "PARAM_ILLEGAL"}}')
    assert answer.result == Result(400, "F", "PARAM_ILLEGAL")
    assert str(answer) == "400 F PARAM_ILLEGAL"


def test_outage_is_told_by_its_cause(signer: Signer) -> None:
    with Sender("http://127.0.0.1:1/nobody-listens") as sender:
        answer = sender.send(signer.sign(BODY, uri=sender.uri, request_time="1"))
    assert answer.status is None
    assert str(answer) == "no answer: [Errno 111] Connection refused"
