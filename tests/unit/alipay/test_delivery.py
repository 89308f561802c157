"""A raw request is read as a web server reads it."""

import pytest
from hypothesis import given, strategies as st

from app.alipay.delivery import Delivery, MalformedRequestError, parse_request
from tests.builders import a_delivery

WHOLE_REQUEST = (
    b"POST /alipay/notifyAuthorization?tenant=a%20b HTTP/1.1\r\n"
    b"Host: merchant.example\r\n"
    b"Client-Id: SANDBOX_5Y00000000000000\r\n"
    b"REQUEST-TIME:1685599933871\r\n"
    b"signature: \t algorithm=RSA256, keyVersion=1, signature=AAAA \r\n"
    b"\r\n"
    b'{"a":\r\n"b"}\r\n\r\n'
)


def test_request_is_read_to_the_byte() -> None:
    assert parse_request(WHOLE_REQUEST) == Delivery(
        method="POST",
        uri="/alipay/notifyAuthorization?tenant=a%20b",
        client_id="SANDBOX_5Y00000000000000",
        request_time="1685599933871",
        signature="algorithm=RSA256, keyVersion=1, signature=AAAA",
        body=b'{"a":\r\n"b"}\r\n\r\n',
    )


def test_head_saved_by_an_editor_with_bare_line_feeds_is_read_the_same() -> None:
    head, body = WHOLE_REQUEST.split(b"\r\n\r\n", 1)
    assert parse_request(head.replace(b"\r\n", b"\n") + b"\n\n" + body) == parse_request(WHOLE_REQUEST)


def test_header_that_was_not_sent_is_empty() -> None:
    delivery = parse_request(b"POST / HTTP/1.1\r\n\r\n")
    assert (delivery.client_id, delivery.request_time, delivery.signature, delivery.body) == ("", "", "", b"")


def test_header_that_is_repeated_is_joined_with_a_comma() -> None:
    assert parse_request(b"POST / HTTP/1.1\r\nsignature: a\r\nSignature: b\r\n\r\n").signature == "a,b"


def test_header_that_is_folded_is_unfolded() -> None:
    raw = b"POST / HTTP/1.1\r\nsignature: algorithm=RSA256,\r\n\tkeyVersion=1\r\n\r\n"
    assert parse_request(raw).signature == "algorithm=RSA256, keyVersion=1"


def test_header_bytes_are_kept_one_for_one_as_latin_1() -> None:
    raw = b"POST / HTTP/1.1\r\nclient-id: " + "é€".encode() + b"\r\n\r\n"
    assert parse_request(raw).client_id.encode("latin-1") == "é€".encode()


def test_body_ends_where_content_length_says() -> None:
    assert parse_request(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}\n").body == b"{}"


def test_absolute_target_loses_its_origin() -> None:
    assert parse_request(b"POST HTTPS://merchant.example:8443/a?b HTTP/1.0\r\n\r\n").uri == "/a?b"


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        pytest.param(b"", "no empty line ends its head", id="empty"),
        pytest.param(b"POST / HTTP/1.1\r\nclient-id: a\r\n", "no empty line ends its head", id="no empty line"),
        pytest.param(b"{}\r\n\r\n", "its first line is not of the form 'POST /path HTTP/1.1'", id="no request line"),
        pytest.param(b"POST /a b HTTP/1.1\r\n\r\n", "its first line is not of the form", id="blank in the path"),
        pytest.param(b"POST /\x00 HTTP/1.1\r\n\r\n", "its first line is not of the form", id="NUL in the path"),
        pytest.param(b"OPTIONS * HTTP/1.1\r\n\r\n", "it asks for no path", id="asterisk"),
        pytest.param(b"POST https://a?b HTTP/1.1\r\n\r\n", "it asks for no path", id="origin without a path"),
        pytest.param(b"POST / HTTP/1.1\r\na: b\r\nclient-id\r\n\r\n", "line 3 of its head is not a header", id="colon"),
        pytest.param(b"POST / HTTP/1.1\r\nclient-id : a\r\n\r\n", "line 2 of its head is not a header", id="name"),
        pytest.param(b"POST / HTTP/1.1\r\na: \x00\r\n\r\n", "line 2 of its head is not a header", id="NUL in a value"),
        pytest.param(b"POST / HTTP/1.1\r\na: b\rc\r\n\r\n", "line 2 of its head is not a header", id="bare CR"),
        pytest.param(b"POST / HTTP/1.1\r\na: \x7f\r\n\r\n", "line 2 of its head is not a header", id="DEL in a value"),
        pytest.param(
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n{}",
            "its body has 2 bytes where Content-Length promises 3",
            id="body cut off",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "its Content-Length is not a number", id="minus"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
            "its Content-Length is not a number",
            id="two lengths",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            "its body is in transfer coding",
            id="chunked",
        ),
    ],
)
def test_a_request_that_a_server_would_refuse_is_refused_with_its_problem(raw: bytes, problem: str) -> None:
    with pytest.raises(MalformedRequestError) as refusal:
        parse_request(raw)
    assert refusal.value.problem.startswith(problem)
    assert str(refusal.value) == f"This is not a raw HTTP request: {refusal.value.problem}."


@given(st.binary() | st.binary().map(lambda head: b"POST / HTTP/1.1\r\n" + head + b"\r\n\r\n"))
def test_any_bytes_are_a_delivery_or_a_malformed_request(raw: bytes) -> None:
    try:
        delivery = parse_request(raw)
    except MalformedRequestError:
        return
    assert delivery.uri.startswith("/")
    assert raw.endswith(delivery.body)


def test_delivery_shows_neither_its_signature_nor_its_body() -> None:
    shown = repr(a_delivery(signature="the signature", body=b"the body"))
    assert "the signature" not in shown
    assert "the body" not in shown
