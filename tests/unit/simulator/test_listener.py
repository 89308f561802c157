"""The pretend endpoint verifies what it is told, says what a receiver drops, and fails when it is told to."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import urllib3
from standardwebhooks import Webhook

from app.simulator.listener import Answers, Arrival, Listener, Receiver, UnusableSecretError, new_secret

SECRET = new_secret()


def an_event(sequence: int = 1, authorization_id: str = "a-1") -> str:
    data = {"authorizationId": authorization_id, "authState": "s-1", "sequence": sequence, "to": "consulted"}
    return json.dumps({"id": f"e-{sequence}", "type": "authorization.consulted", "data": data})


def signed(webhook_id: str, body: str, *, secret: str = SECRET, age: timedelta = timedelta(0)) -> dict[str, str]:
    at = datetime.now(UTC) - age
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, at, body),
    }


def receive(receiver: Receiver, webhook_id: str, body: str) -> Arrival:
    return receiver.receive(signed(webhook_id, body), body.encode())


@pytest.fixture
def receiver() -> Receiver:
    """One that takes everything."""
    return Receiver.with_secret(SECRET, Answers())


def test_what_is_signed_is_taken(receiver: Receiver) -> None:
    arrival = receive(receiver, "e-1", an_event())
    assert (arrival.status, arrival.problem, arrival.dropped) == (200, None, None)
    assert arrival.event["data"]["authState"] == "s-1"


def test_one_signature_of_several_is_enough(receiver: Receiver) -> None:
    headers = signed("e-1", an_event())
    strangers = signed("e-1", an_event(), secret=new_secret())
    headers["webhook-signature"] = f"{strangers['webhook-signature']} {headers['webhook-signature']}"
    assert receiver.receive(headers, an_event().encode()).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        signed("e-1", an_event(), secret=new_secret()),
        signed("e-1", an_event(), age=timedelta(minutes=6)),
        signed("e-1", an_event()) | {"webhook-id": "e-2"},
        signed("e-1", an_event()) | {"webhook-signature": "nonsense"},
        signed("e-1", an_event()) | {"webhook-signature": "v1,?"},
    ],
    ids=["unsigned", "another secret", "old", "another id", "nonsense", "no base64"],
)
def test_what_does_not_verify_is_refused_and_not_remembered(receiver: Receiver, headers: dict[str, str]) -> None:
    refused = receiver.receive(headers, an_event().encode())
    assert (refused.status, refused.event) == (401, {})
    assert refused.problem
    assert receive(receiver, "e-1", an_event()).dropped is None


@pytest.mark.parametrize("body", ["[]", '"data"', '{"data": []}', "{}"])
def test_what_is_signed_and_no_event_is_refused(receiver: Receiver, body: str) -> None:
    assert (receive(receiver, "e-1", body).status, receive(receiver, "e-1", body).dropped) == (400, None)


def test_a_repeat_is_dropped_and_taken_all_the_same(receiver: Receiver) -> None:
    receive(receiver, "e-1", an_event())
    again = receive(receiver, "e-1", an_event())
    assert (again.status, again.dropped) == (200, "a repeat: this webhook-id was taken before")


def test_a_lower_sequence_of_the_same_authorization_is_dropped(receiver: Receiver) -> None:
    receive(receiver, "e-3", an_event(3))
    assert receive(receiver, "e-2", an_event(2)).dropped == "late: sequence 3 of this authorization was taken before"
    assert receive(receiver, "e-9", an_event(2, "a-2")).dropped is None
    assert receive(receiver, "e-4", an_event(4)).dropped is None


def test_what_it_did_not_take_is_no_repeat_when_it_comes_again() -> None:
    receiver = Receiver.with_secret(SECRET, Answers(status=503, times=2))
    answered = [receive(receiver, "e-1", an_event()) for _ in range(4)]
    assert [each.status for each in answered] == [503, 503, 200, 200]
    assert [each.dropped is not None for each in answered] == [False, False, False, True]


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_?", "secret", base64.b64encode(b"x" * 32).decode()])
def test_a_secret_that_is_none_is_refused(secret: str) -> None:
    with pytest.raises(UnusableSecretError):
        Receiver.with_secret(secret, Answers())


# --- over HTTP -------------------------------------------------------------------------------------------------------

Post = Callable[..., urllib3.BaseHTTPResponse]


@contextmanager
def listening(answers: Answers) -> Iterator[tuple[Post, list[Arrival]]]:
    arrivals: list[Arrival] = []
    with Listener(Receiver.with_secret(SECRET, answers), arrivals.append, port=0) as listener:
        thread = threading.Thread(target=listener.listen)
        thread.start()
        with urllib3.PoolManager(retries=False) as http:

            def post(body: str, **options: Any) -> urllib3.BaseHTTPResponse:  # noqa: ANN401 -- urllib3's own
                return http.request(
                    "POST", listener.url, body=body, headers=signed("e-1", body), redirect=False, **options
                )

            try:
                yield post, arrivals
            finally:
                listener.close()
                thread.join()


def test_it_answers_over_http() -> None:
    with listening(Answers()) as (post, arrivals):
        assert post(an_event()).status == 200
        assert post(an_event()).status == 200
        assert [each.dropped is None for each in arrivals] == [True, False]


def test_a_redirect_says_where_to() -> None:
    with listening(Answers(status=307, location="https://elsewhere.example/")) as (post, _):
        answer = post(an_event())
        assert (answer.status, answer.headers["Location"]) == (307, "https://elsewhere.example/")


def test_it_is_slow_when_it_is_told_to() -> None:
    with listening(Answers(delay_seconds=0.2)) as (post, _):
        began = time.monotonic()
        assert post(an_event()).status == 200
        assert time.monotonic() - began >= 0.2


def test_a_body_that_is_too_large_is_refused_unread() -> None:
    with listening(Answers()) as (post, arrivals):
        assert post("x" * 70_000).status == 413
        assert arrivals == []
