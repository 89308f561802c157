"""One request to an endpoint: signed, bounded in time and size, and answered by a value whatever the endpoint does."""

import json
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from standardwebhooks import WebhookVerificationError

from app import bounded_http
from app.events.endpoints import Endpoint
from app.events.sending import Answer, Pool, send
from app.secret import Secret
from tests.receiver import SECRET, Handler, Receiver, a_drip, a_receiver, refuses, takes_it
from tests.tls import a_self_signed_server, a_tls_port

BODY = json.dumps({"id": "e-1", "data": {"authState": "ä"}})
OTHER = "whsec_" + "b3RoZXI0" * 5
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with a_receiver() as receiver:
        yield receiver


def tell(receiver: Receiver, *, seconds_max: float = 5) -> Answer:
    return send(receiver.endpoint(), BODY, "e-1", seconds_max=seconds_max)


def tell_url(url: str) -> Answer:
    return send(Endpoint("shop", url, (Secret(SECRET),), ("*",)), BODY, "e-1", seconds_max=5)


def test_a_receiver_that_follows_the_standard_verifies_it(receiver: Receiver) -> None:
    answer = tell(receiver)
    assert answer.is_delivered
    assert (answer.http_status, answer.error, answer.answer, answer.retry_after) == (204, None, None, None)
    (received,) = receiver.received
    assert received.verified() == json.loads(BODY)
    assert received.path == "/hooks?shop=1"
    assert received.headers["Content-Type"] == "application/json"
    assert received.headers["User-Agent"] == "notifyauth"
    assert received.headers["webhook-id"] == "e-1"


def test_it_is_signed_by_each_secret(receiver: Receiver) -> None:
    send(receiver.endpoint(secrets=(SECRET, OTHER)), BODY, "e-1")
    (received,) = receiver.received
    assert received.verified(SECRET) == received.verified(OTHER) == json.loads(BODY)
    with pytest.raises(WebhookVerificationError):
        received.verified("whsec_" + "bm9ib2R5" * 5)


def test_the_time_is_signed_in_utc_wherever_the_clock_is(receiver: Receiver) -> None:
    tokyo = timezone(timedelta(hours=9))
    send(receiver.endpoint(), BODY, "e-1", clock=lambda: datetime.now(tokyo))
    receiver.received[0].verified()


def test_one_connection_serves_one_request_after_the_other(receiver: Receiver) -> None:
    ports = set()

    def note(handler: Handler) -> None:
        ports.add(handler.client_address[1])
        handler.answer(200, b"taken")

    receiver.behave = note
    pool = Pool(receiver.endpoint())
    answers = [send(receiver.endpoint(), BODY, "e-1", pool=pool) for _ in range(5)]
    pool.close()
    assert [each.answer for each in answers] == ["taken"] * 5
    assert len(ports) == 1


def test_a_connection_that_was_closed_meanwhile_costs_nothing(receiver: Receiver) -> None:
    """An endpoint may close it without a word in the very moment of the next request."""
    count = 0

    def close_every_second(handler: Handler) -> None:
        nonlocal count
        count += 1
        if count == 2:
            handler.say(b"")
            return
        handler.answer(204)

    receiver.behave = close_every_second
    pool = Pool(receiver.endpoint())
    assert [send(receiver.endpoint(), BODY, "e-1", pool=pool).is_delivered for _ in range(3)] == [True] * 3
    pool.close()


@pytest.mark.parametrize("status", [400, 404, 410, 429, 500, 503])
def test_whatever_is_no_success_is_a_failure(receiver: Receiver, status: int) -> None:
    receiver.behave = refuses(status, b"out of order")
    answer = tell(receiver)
    assert (answer.http_status, answer.error, answer.answer) == (status, f"It answered {status}.", "out of order")
    assert not answer.is_delivered


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    with a_receiver() as other:
        receiver.behave = refuses(307, Location=other.url)
        answer = tell(receiver)
    assert (answer.http_status, answer.error) == (307, "It answered 307, and redirects are not followed.")
    assert other.received == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("0000000000007", 7),
        ("999999999", 999999999),
        ("1000000000", 999999999),
        ("9" * 5000, 999999999),
        ("0" * 60_000 + "x", None),
        ("soon", None),
        ("-1", None),
        ("²", None),
    ],
)
def test_retry_after_is_read_in_seconds(receiver: Receiver, value: str, seconds: int | None) -> None:
    receiver.behave = refuses(429, Retry_After=value.encode().decode("latin-1"))
    assert tell(receiver).retry_after == (None if seconds is None else timedelta(seconds=seconds))


def test_retry_after_is_read_as_a_date(receiver: Receiver) -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    for minutes, expected in ((5, timedelta(minutes=5)), (-5, timedelta(0))):
        receiver.behave = refuses(503, Retry_After=format_datetime(now + timedelta(minutes=minutes), usegmt=True))
        answer = send(receiver.endpoint(), BODY, "e-1", clock=lambda: now)
        assert answer.retry_after == expected


def test_of_an_answer_the_beginning_is_kept(receiver: Receiver) -> None:
    receiver.behave = refuses(500, b"x" * 100_000)
    answer = tell(receiver)
    assert answer.answer == "x" * 2048
    assert answer.error == "It answered 500."


def test_an_answer_is_kept_as_text_that_every_database_takes(receiver: Receiver) -> None:
    receiver.behave = refuses(500, b"a\x00b\x1b[31m\xffc\n")
    assert tell(receiver).answer == "a\ufffdb\ufffd[31m\ufffdc\n"


def test_an_endless_answer_is_read_only_so_far(receiver: Receiver) -> None:
    with a_drip(b"x" * 4096, head=HEAD.replace(b"1000", b"1000000000")) as receiver.behave:
        answer = tell(receiver, seconds_max=30)
    assert answer.is_delivered
    assert answer.milliseconds < 10_000


@pytest.mark.parametrize(
    ("piece", "head"),
    [
        (b"X-Drip: 1\r\n", b"HTTP/1.1 200 OK\r\n"),
        (b"H", b""),
        (b"\r\n", b"HTTP/1.1 100 Continue\r\n"),
    ],
    ids=["headers", "status line", "continue"],
)
def test_a_head_that_drips_is_over_in_time(receiver: Receiver, piece: bytes, head: bytes) -> None:
    with a_drip(piece, head=head) as receiver.behave:
        answer = tell(receiver, seconds_max=0.5)
    assert (answer.http_status, answer.is_delivered) == (None, False)
    assert answer.milliseconds < 5000


def test_an_endpoint_that_hangs_is_given_up_in_time(receiver: Receiver) -> None:
    with a_drip(b"") as receiver.behave:
        answer = tell(receiver, seconds_max=0.5)
    assert answer.error == "There was no answer within 0.5 seconds."
    assert 400 < answer.milliseconds < 5000


def test_a_body_that_drips_after_a_success_is_a_success_in_time(receiver: Receiver) -> None:
    with a_drip(b"x", head=HEAD) as receiver.behave:
        answer = tell(receiver, seconds_max=0.5)
    assert (answer.http_status, answer.is_delivered) == (200, True)
    assert answer.milliseconds < 5000


def test_a_connection_that_breaks_in_the_body_does_not_undo_the_success(receiver: Receiver) -> None:
    receiver.behave = lambda handler: handler.say(HEAD + b"half")
    assert (tell(receiver).is_delivered, tell(receiver).answer) == (True, "half")


def test_a_connection_that_ends_without_an_answer_is_a_failure(receiver: Receiver) -> None:
    receiver.behave = lambda handler: handler.say(b"")
    assert tell(receiver).error == "It closed the connection without an answer."
    assert len(receiver.received) == 1


def test_what_is_not_http_is_a_failure(receiver: Receiver) -> None:
    receiver.behave = lambda handler: handler.say(b"SSH-2.0-OpenSSH_9.6\r\n")
    assert tell(receiver).error == "What it answered is not HTTP."


def test_an_endpoint_that_is_not_there_is_a_failure() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert tell_url(f"http://127.0.0.1:{unused.getsockname()[1]}/").error == "It refused the connection."


def test_a_name_that_does_not_exist_is_a_failure() -> None:
    assert tell_url("http://shop.invalid/hooks").error == "Its name cannot be resolved."


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "0xa9fea9fe", "[fe80::1]", "[::ffff:a9fe:a9fe]"])
def test_no_link_local_address_is_called(host: str) -> None:
    assert tell_url(f"http://{host}/latest/meta-data").error == "Its address is link-local, and such are refused."


def test_a_name_that_leads_to_a_link_local_address_is_not_called(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(_host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.1", "169.254.169.254")
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert tell(receiver).error == "Its address is link-local, and such are refused."
    assert receiver.received == []


def test_a_proxy_of_the_environment_is_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert tell(receiver).is_delivered


def test_a_certificate_that_nobody_vouches_for_is_refused(tls_context: ssl.SSLContext) -> None:
    with a_tls_port(tls_context) as port:
        error = tell_url(f"https://localhost:{port}/?token=s3cr3t").error
    assert error is not None
    assert error.startswith("Its certificate cannot be verified: ")
    assert "s3cr3t" not in error


def test_plain_http_where_tls_is_expected_is_a_failure(receiver: Receiver) -> None:
    error = tell_url(receiver.url.replace("http://", "https://")).error
    assert error is not None
    assert error.startswith("TLS failed: ")


def test_a_request_that_is_over_its_time_harms_no_later_one(receiver: Receiver) -> None:
    """The watchdog knows a connection by its socket, whose number another one gets soon."""
    pool = Pool(receiver.endpoint())
    for _ in range(3):
        with a_drip(b"") as receiver.behave:
            assert not send(receiver.endpoint(), BODY, "e-1", pool=pool, seconds_max=0.1).is_delivered
        receiver.behave = takes_it
        assert send(receiver.endpoint(), BODY, "e-1", pool=pool).is_delivered
        time.sleep(0.25)
        assert send(receiver.endpoint(), BODY, "e-1", pool=pool).is_delivered
    pool.close()
    assert bounded_http._watchdog._cut_at == {}  # noqa: SLF001 -- nothing is left to be cut


@pytest.fixture(scope="module")
def tls_context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """That of a server whose certificate nobody vouches for."""
    return a_self_signed_server(tmp_path_factory.mktemp("tls"))[0]


@dataclass(frozen=True)
class Certificates:
    """What a server with a certificate of a merchant's own authority has, and what its clients are given."""

    server: ssl.SSLContext
    authority: str
    #: The server's certificate alone.
    own: str


def a_certificate(
    key: ec.EllipticCurvePrivateKey, name: str, *, issuer: str, signed_by: ec.EllipticCurvePrivateKey, is_ca: bool
) -> x509.Certificate:
    subject, by = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, each)]) for each in (name, issuer))
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signed_by, hashes.SHA256())
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made by an authority that no system knows."""
    pem = serialization.Encoding.PEM
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = a_certificate(
        authority_key, "Merchant CA", issuer="Merchant CA", signed_by=authority_key, is_ca=True
    ).public_bytes(pem)
    own = a_certificate(key, "localhost", issuer="Merchant CA", signed_by=authority_key, is_ca=False).public_bytes(pem)
    file: Path = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()) + own)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return Certificates(context, authority.decode(), own.decode())


@pytest.mark.parametrize("vouched_by", ["authority", "own"])
def test_an_endpoint_may_have_a_certificate_of_its_own_authority(certificates: Certificates, vouched_by: str) -> None:
    with a_receiver(tls=certificates.server) as receiver:
        endpoint = replace(receiver.endpoint(), ca=getattr(certificates, vouched_by))
        pool = Pool(endpoint)
        assert [send(endpoint, BODY, "e-1", pool=pool).error for _ in range(2)] == [None, None]
        pool.close()
        assert receiver.events() == [json.loads(BODY)] * 2
        # Without it nobody is told, and no other endpoint trusts it.
        refused = send(receiver.endpoint(), BODY, "e-1").error
    assert refused is not None
    assert refused.startswith("Its certificate cannot be verified: ")


def test_an_authority_that_has_not_made_it_vouches_for_nothing(certificates: Certificates) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    other = a_certificate(key, "Merchant CA", issuer="Merchant CA", signed_by=key, is_ca=True)
    with a_receiver(tls=certificates.server) as receiver:
        endpoint = replace(receiver.endpoint(), ca=other.public_bytes(serialization.Encoding.PEM).decode())
        assert not send(endpoint, BODY, "e-1").is_delivered
        assert receiver.received == []


def test_the_authorities_of_the_whole_service_may_be_named_in_its_environment(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").write_text(certificates.authority)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    bounded_http._tls.cache_clear()  # noqa: SLF001 -- a service reads it at its start
    try:
        with a_receiver(tls=certificates.server) as receiver:
            assert send(receiver.endpoint(), BODY, "e-1").is_delivered
    finally:
        bounded_http._tls.cache_clear()  # noqa: SLF001 -- as above
