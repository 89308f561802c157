"""A gateway that is slow, broken or hostile: the outcome is unknown, and never believed; the call ends in time."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from hypothesis import HealthCheck, given, settings, strategies as st

from app.alipay.call import ANSWER_BYTES_MAX, Caller, Done, Operation, Refused, Unknown
from app.alipay.call_requests import exchange_body
from app.secret import Secret
from tests.gateway import SANDBOX_PATH, TOKEN, a_client, a_gateway, a_result, answers, signed_headers
from tests.receiver import Behavior, Handler, Receiver, a_drip, a_receiver, refuses
from tests.tls import a_self_signed_server, a_tls_port

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
BODY = exchange_body(Secret("281001_code"), customer_belongs_to="GCASH")
APPLY_TOKEN = f"{SANDBOX_PATH}applyToken"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
#: Much longer than any of these calls should take, and much shorter than one that hangs.
LATE_MILLISECONDS = 5000

CallUrl = Callable[..., Unknown]


@pytest.fixture
def gateway() -> Iterator[Receiver]:
    with a_gateway() as (gateway, _):
        yield gateway


@pytest.fixture
def call_url(merchant_key: RSAPrivateKey, alipay_key: RSAPrivateKey) -> CallUrl:
    """Exchanges a code at a URL, with an unknown outcome."""

    def call(url: str, *, seconds_max: float = 5) -> Unknown:
        caller = Caller(a_client(url, merchant_key, alipay_key))
        outcome = caller.call(Operation.APPLY_TOKEN, BODY, now=NOW, seconds_max=seconds_max)
        caller.close()
        assert isinstance(outcome, Unknown), outcome
        assert outcome.code is None
        assert "281001" not in repr(outcome)
        return outcome

    return call


@pytest.fixture
def why(gateway: Receiver, call_url: CallUrl) -> Callable[..., str]:
    """Exchanges a code at the gateway, and says why the outcome is unknown."""

    def call(behave: Behavior, *, seconds_max: float = 5) -> str:
        gateway.behave = behave
        outcome = call_url(f"http://127.0.0.1:{gateway.port}", seconds_max=seconds_max)
        assert outcome.is_sent
        assert len(gateway.received) == 1
        assert outcome.milliseconds < LATE_MILLISECONDS
        return outcome.why

    return call


Why = Callable[..., str]


# --- too much, too slow, too short ---


def test_an_answer_may_be_as_large_as_is_read_and_not_larger(
    why: Why, gateway: Receiver, merchant_key: RSAPrivateKey, alipay_key: RSAPrivateKey
) -> None:
    body = json.dumps(TOKEN).encode()
    body += b" " * (ANSWER_BYTES_MAX - len(body))
    gateway.behave = answers(alipay_key, body)
    caller = Caller(a_client(f"http://127.0.0.1:{gateway.port}", merchant_key, alipay_key))
    assert isinstance(caller.call(Operation.APPLY_TOKEN, BODY, now=NOW), Done)
    caller.close()
    gateway.received.clear()
    assert why(answers(alipay_key, body + b" ")) == (
        "Alipay's answer is not whole. Its answer is larger than 65536 bytes."
    )


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000000\r\n", b"", b"Transfer-Encoding: chunked\r\n"])
def test_an_answer_without_an_end_is_read_only_so_far(why: Why, framing: bytes) -> None:
    piece = b"x" * 4096
    piece = b"1000\r\n" + piece + b"\r\n" if b"chunked" in framing else piece
    with a_drip(piece, head=HEAD + framing + b"\r\n") as behave:
        assert why(behave) == "Alipay's answer is not whole. Its answer is larger than 65536 bytes."


@pytest.mark.parametrize("framing", [b"Content-Length: 1000\r\n", b"", b"Transfer-Encoding: chunked\r\n"])
def test_an_answer_that_drips_is_over_in_time(why: Why, framing: bytes) -> None:
    with a_drip(b"1\r\nx\r\n" if b"chunked" in framing else b"x", head=HEAD + framing + b"\r\n") as behave:
        assert why(behave, seconds_max=0.5) == "Alipay's answer is not whole. Its answer was not complete in time."


@pytest.mark.parametrize(
    ("piece", "head"),
    [(b"X-Drip: 1\r\n", HEAD), (b"H", b""), (b"HTTP/1.1 100 Continue\r\n\r\n", b""), (b"", b"")],
    ids=["headers", "status line", "continue", "silence"],
)
def test_a_head_that_drips_is_over_in_time(why: Why, piece: bytes, head: bytes) -> None:
    with a_drip(piece, head=head) as behave:
        assert why(behave, seconds_max=0.5) == "Alipay did not answer. There was no answer within 0.5 seconds."


def test_headers_without_an_end_are_not_read_for_ever(why: Why) -> None:
    with a_drip(b"".join(b"X-%d: 1\r\n" % number for number in range(200)), head=HEAD) as behave:
        assert why(behave) == "Alipay did not answer. What it answered is not HTTP."


def test_a_header_without_an_end_is_not_read_for_ever(why: Why) -> None:
    with a_drip(b"x" * 10_000, head=HEAD + b"X-Endless: ") as behave:
        assert why(behave) == "Alipay did not answer. What it answered is not HTTP."


@pytest.mark.parametrize("is_signed", [True, False])
def test_an_answer_that_is_cut_after_half_is_unknown(why: Why, alipay_key: RSAPrivateKey, *, is_signed: bool) -> None:
    body = json.dumps(TOKEN | a_result("S" if is_signed else "F", "SOME_CODE")).encode()
    headers = signed_headers(alipay_key, APPLY_TOKEN, body) if is_signed else {}
    head = HEAD + b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    assert why(lambda handler: handler.say(head + body[: len(body) // 2])) == (
        "Alipay's answer is not whole. Its answer ended before it was complete."
    )


def test_an_answer_without_a_length_that_is_cut_is_not_json(why: Why) -> None:
    body = json.dumps(a_result("F", "SOME_CODE")).encode()
    assert why(lambda handler: handler.say(HEAD + b"\r\n" + body[:-1])) == "Alipay's answer is not JSON."


def test_a_connection_that_is_cut_after_the_request_is_unknown(why: Why) -> None:
    assert why(lambda handler: handler.say(b"")) == (
        "Alipay did not answer. It closed the connection without an answer."
    )


def test_a_connection_that_is_reset_after_the_request_is_unknown(why: Why) -> None:
    def reset(handler: Handler) -> None:
        handler.close_connection = True
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        handler.connection.close()

    assert why(reset).startswith("Alipay did not answer. ")


# --- no JSON, or not such ---


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "Alipay's answer is not JSON."),
        (b"<html><body>281001_code</body></html>", "Alipay's answer is not JSON."),
        (b"{'result': {'resultStatus': 'F'}}", "Alipay's answer is not JSON."),
        (b'{"result": {"resultStatus": "F"}} {}', "Alipay's answer is not JSON."),
        (b'{"result": {"resultStatus": "F"}, "a": NaN}', "Alipay's answer is not JSON."),
        (b'{"result": {"resultStatus": "F"}, "a": "\xff"}', "Alipay's answer is not UTF-8."),
        ('{"result": {"resultStatus": "F"}}'.encode("utf-16"), "Alipay's answer is not UTF-8."),
        (b"[]", "Alipay's answer is not a JSON object."),
        (b"null", "Alipay's answer is not a JSON object."),
        (b'"F"', "Alipay's answer is not a JSON object."),
        (b"{}", "Alipay's answer has no result."),
        (b'{"result": null}', "Alipay's answer has no result."),
        (b'{"result": "F"}', "Alipay's answer has no result."),
        (b'{"result": [{"resultStatus": "F"}]}', "Alipay's answer has no result."),
        (b'{"resultInfo": {"resultStatus": "F"}}', "Alipay's answer has no result."),
        (b'{"result": {}}', "Alipay's answer has a resultStatus that is none of S, F and U."),
        (
            b'{"result": {"resultStatus": "U", "resultStatus": "F"}}',
            "Alipay's answer gives one name two values.",
        ),
        (
            b'{"result": {"resultStatus": "S"}, "result": {"resultStatus": "F"}}',
            "Alipay's answer gives one name two values.",
        ),
        (
            b'{"result": {"resultStatus": "F"}, "a": [{"b": 1, "\\u0062": 2}]}',
            "Alipay's answer gives one name two values.",
        ),
        (b"[" * 30_000, "Alipay's answer is nested deeper than 64 levels."),
        (
            b'{"result": {"resultStatus": "F"}, "a": ' + b"[" * 100 + b"]" * 100 + b"}",
            "Alipay's answer is nested deeper than 64 levels.",
        ),
    ],
)
@pytest.mark.parametrize("is_signed", [True, False])
def test_what_is_no_answer_in_json_is_unknown_signed_or_not(
    why: Why, alipay_key: RSAPrivateKey, body: bytes, sentence: str, *, is_signed: bool
) -> None:
    assert why(answers(alipay_key if is_signed else None, body)) == sentence


def test_numbers_of_thousands_of_digits_harm_nobody(
    gateway: Receiver, merchant_key: RSAPrivateKey, alipay_key: RSAPrivateKey
) -> None:
    gateway.behave = answers(
        None, b'{"result": {"resultStatus": "F", "resultCode": "A"}, "a": %s, "b": 1e999}' % (b"9" * 50_000)
    )
    caller = Caller(a_client(f"http://127.0.0.1:{gateway.port}", merchant_key, alipay_key))
    outcome = caller.call(Operation.APPLY_TOKEN, BODY, now=NOW)
    caller.close()
    assert isinstance(outcome, Refused)


# --- HTTP of another kind ---


@pytest.mark.parametrize("status", [201, 204, 301, 302, 307, 308, 400, 401, 403, 404, 429, 500, 502, 503, 504])
def test_only_status_200_is_an_answer(why: Why, alipay_key: RSAPrivateKey, status: int) -> None:
    with a_receiver() as other:

        def answer(handler: Handler) -> None:
            body = b"" if status == 204 else json.dumps(TOKEN).encode()
            headers = signed_headers(alipay_key, handler.path, body)
            handler.answer(status, body, headers | {"Location": other.url, "Retry-After": "1"})

        sentence = why(answer)
    redirect = ", and redirects are not followed" if 300 <= status < 400 else ""
    assert sentence == f"Alipay's answer has HTTP status {status}{redirect}."
    assert other.received == []


def test_html_under_status_200_is_unknown(why: Why) -> None:
    page = refuses(200, b"<!doctype html><title>Maintenance 281001_code</title>", Content_Type="text/html")
    assert why(page) == "Alipay's answer is not JSON."


def test_what_is_not_http_is_unknown(why: Why) -> None:
    assert why(lambda handler: handler.say(b"SSH-2.0-OpenSSH_9.6 281001_code\r\n")) == (
        "Alipay did not answer. What it answered is not HTTP."
    )


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(
        st.binary(max_size=40)
        | st.sampled_from(
            [
                b"HTTP/1.1 200 OK\r\n",
                b"HTTP/1.1 100 Continue\r\n\r\n",
                b"Content-Length: 10\r\n",
                b"Content-Length: -1\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Content-Encoding: gzip\r\n",
                b"Connection: close\r\n",
                b"signature: a=b\r\n",
                b"response-time: 1\r\n",
                b"\r\n",
                b"ffffffffff\r\n",
                b'{"result": {"resultStatus": "S"}}',
            ]
        ),
        max_size=8,
    )
)
def test_whatever_bytes_come_the_call_ends_with_an_unknown_outcome(
    gateway: Receiver, call_url: CallUrl, pieces: list[bytes]
) -> None:
    gateway.behave = lambda handler: handler.say(b"".join(pieces))
    assert call_url(f"http://127.0.0.1:{gateway.port}", seconds_max=2).why


def test_a_proxy_of_the_environment_is_not_used(
    gateway: Receiver, merchant_key: RSAPrivateKey, alipay_key: RSAPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    gateway.behave = answers(alipay_key, TOKEN)
    caller = Caller(a_client(f"http://127.0.0.1:{gateway.port}", merchant_key, alipay_key))
    assert isinstance(caller.call(Operation.APPLY_TOKEN, BODY, now=NOW), Done)
    caller.close()


# --- nobody there ---


def test_where_nobody_listens_nothing_was_sent(call_url: CallUrl) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        outcome = call_url(f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert (outcome.why, outcome.is_sent) == ("Alipay could not be reached. It refused the connection.", False)
    assert outcome.http_status is None


def test_to_a_name_that_does_not_exist_nothing_was_sent(call_url: CallUrl) -> None:
    outcome = call_url("https://gateway.invalid")
    assert (outcome.why, outcome.is_sent) == ("Alipay could not be reached. Its name cannot be resolved.", False)


def test_a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_sent(
    call_url: CallUrl, tmp_path: Path
) -> None:
    server, _ = a_self_signed_server(tmp_path)
    with a_tls_port(server) as port:
        outcome = call_url(f"https://localhost:{port}")
    assert outcome.why.startswith("Alipay could not be reached. Its certificate cannot be verified: ")
    assert not outcome.is_sent


def test_plain_http_where_tls_is_expected_gets_nothing(gateway: Receiver, call_url: CallUrl) -> None:
    outcome = call_url(f"https://127.0.0.1:{gateway.port}")
    assert outcome.why.startswith("Alipay could not be reached. ")
    assert not outcome.is_sent
    assert gateway.received == []


# --- kept connections ---


@pytest.fixture
def caller(gateway: Receiver, merchant_key: RSAPrivateKey, alipay_key: RSAPrivateKey) -> Iterator[Caller]:
    """Calls the gateway, which answers with a token."""
    gateway.behave = answers(alipay_key, TOKEN)
    caller = Caller(a_client(f"http://127.0.0.1:{gateway.port}", merchant_key, alipay_key))
    yield caller
    caller.close()


def exchanged(caller: Caller) -> Done | Refused | Unknown:
    return caller.call(Operation.APPLY_TOKEN, BODY, now=NOW)


def test_one_connection_serves_one_call_after_the_other(
    gateway: Receiver, caller: Caller, alipay_key: RSAPrivateKey
) -> None:
    ports = noted_ports(gateway, answers(alipay_key, TOKEN))
    assert all(isinstance(exchanged(caller), Done) for _ in range(5))
    assert len(set(ports)) == 1


def test_a_refusal_and_an_odd_answer_keep_the_connection_and_half_an_answer_does_not(
    gateway: Receiver, caller: Caller
) -> None:
    for behave in (answers(None, a_result("F", "A")), refuses(500), answers(None, b"<html>")):
        ports = noted_ports(gateway, behave)
        exchanged(caller)
        exchanged(caller)
        assert len(set(ports)) == 1
    ports = noted_ports(gateway, lambda handler: handler.say(HEAD + b"Content-Length: 9\r\n\r\n{"))
    exchanged(caller)
    exchanged(caller)
    assert len(set(ports)) == 2


def noted_ports(gateway: Receiver, behave: Behavior) -> list[int]:
    """The ports that calls come from, from now on: one for each connection."""
    ports: list[int] = []

    def note(handler: Handler) -> None:
        ports.append(handler.client_address[1])
        behave(handler)

    gateway.behave = note
    return ports


def test_a_kept_connection_that_was_closed_before_the_call_is_opened_anew(
    gateway: Receiver, caller: Caller, alipay_key: RSAPrivateKey
) -> None:
    is_closed = threading.Event()

    def answer_and_close(handler: Handler) -> None:
        # The answer says nothing of the end, so that the connection is kept.
        answers(alipay_key, TOKEN)(handler)
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_WR)
        handler.close_connection = True
        is_closed.set()

    ports = noted_ports(gateway, answer_and_close)
    for _ in range(3):
        is_closed.clear()
        assert isinstance(exchanged(caller), Done)
        assert is_closed.wait(5)
    assert len(gateway.received) == len(set(ports)) == 3


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 "], ids=["nothing", "the beginning of an answer"])
def test_a_kept_connection_that_closes_with_the_request_is_unknown_and_no_second_one_is_sent(
    gateway: Receiver, caller: Caller, alipay_key: RSAPrivateKey, head: bytes
) -> None:
    """Alipay may have done what was asked: only who has that on record may send it again."""
    assert isinstance(exchanged(caller), Done)
    gateway.behave = lambda handler: handler.say(head)
    outcome = exchanged(caller)
    assert isinstance(outcome, Unknown)
    assert outcome.is_sent
    assert outcome.why.startswith("Alipay did not answer. ")
    assert len(gateway.received) == 2
    gateway.behave = answers(alipay_key, TOKEN)
    assert isinstance(exchanged(caller), Done)
    assert len(gateway.received) == 3


def test_calls_of_many_threads_do_not_meet_on_a_connection(
    gateway: Receiver, merchant_key: RSAPrivateKey, alipay_key: RSAPrivateKey
) -> None:
    """Each gets the answer to its own request."""

    def echo(handler: Handler) -> None:
        code = json.loads(handler.received.body)["authCode"]
        answers(alipay_key, TOKEN | {"accessToken": code})(handler)

    gateway.behave = echo
    caller = Caller(a_client(f"http://127.0.0.1:{gateway.port}", merchant_key, alipay_key), pool_size=2)
    wrong: list[object] = []

    def exchange(thread: int) -> None:
        for number in range(20):
            body = exchange_body(Secret(f"{thread}-{number}"), customer_belongs_to="GCASH")
            outcome = caller.call(Operation.APPLY_TOKEN, body, now=NOW)
            if not isinstance(outcome, Done) or outcome.answer["accessToken"] != f"{thread}-{number}":
                wrong.append(outcome)

    threads = [threading.Thread(target=exchange, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    caller.close()
    assert wrong == []
