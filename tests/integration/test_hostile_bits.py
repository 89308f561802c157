"""A genuine delivery with one bit flipped, anywhere, is not authentic."""

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from sqlalchemy import text
from werkzeug.test import TestResponse

from app import create_app
from app.alipay.delivery import Delivery
from app.models import Base
from app.simulator.draft import authcode_created
from tests.builders import a_genuine_delivery, an_environ
from tests.integration.http_client import API_KEY, NOTIFY_PATH, HttpClient

#: What a server may answer to what is no delivery of Alipay's: nobody's, no such path, not so, not with this method.
REFUSALS = {401, 404, 405, 400}

#: An authState, a code: whatever is flipped, a delivery that got through would leave something behind.
GENUINE = authcode_created("s-1", "code-1")


def each_bit_flipped(text: str) -> Iterator[str]:
    octets = text.encode("latin-1")
    for bit in range(len(octets) * 8):
        flipped = bytearray(octets)
        flipped[bit // 8] ^= 1 << bit % 8
        yield flipped.decode("latin-1")


def arrive(http: HttpClient, delivery: Delivery) -> TestResponse:
    """Hand a delivery to the application as a server does: the path decoded, all else byte by byte (PEP 3333)."""
    path, _, query = delivery.uri.partition("?")
    environ = {
        "REQUEST_METHOD": delivery.method,
        "PATH_INFO": unquote_to_bytes(path.encode("latin-1")).decode("latin-1"),
        "QUERY_STRING": query,
        "HTTP_CLIENT_ID": delivery.client_id,
        "HTTP_REQUEST_TIME": delivery.request_time,
        "HTTP_SIGNATURE": delivery.signature,
        "CONTENT_LENGTH": str(len(delivery.body)),
        "wsgi.input": io.BytesIO(delivery.body),
    }
    return http.app.test_client().open(NOTIFY_PATH, environ_overrides=environ)


def everything_in(http: HttpClient) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, but for what the doctor keeps of what was refused."""
    with http.service.database.engine.connect() as connection:
        return {
            name: [row._asdict() for row in connection.execute(text(f"SELECT * FROM {name}"))]  # noqa: S608 -- names of ours
            for name in Base.metadata.tables
            if name != "refused_deliveries"
        }


@pytest.fixture
def http(sqlite_url: str, keyring_path: Path) -> Iterator[HttpClient]:
    """A service on the quicker of the databases: what is refused here never comes to one."""
    http = HttpClient(create_app(an_environ(sqlite_url, keyring_path, FLASK_API_KEYS=API_KEY)), keyring_path)
    yield http
    http.service.database.close()


@pytest.fixture
def genuine(http: HttpClient) -> Delivery:
    """A genuine delivery to a path with a query, which has not arrived, for an authorization that waits for it."""
    http.consult("s-1")
    return a_genuine_delivery(http.keyring_path, GENUINE, uri=f"{NOTIFY_PATH}?tenant=a%2Fb")


def changed(delivery: Delivery, part: str, value: str) -> Delivery:
    changed: dict[str, Any] = {part: value.encode("latin-1") if part == "body" else value}
    return replace(delivery, **changed)


@pytest.mark.parametrize("part", ["method", "uri", "client_id", "request_time", "body"])
def test_a_delivery_with_any_bit_flipped_is_refused_and_leaves_nothing_behind(
    http: HttpClient, genuine: Delivery, part: str
) -> None:
    before = everything_in(http)
    whole = genuine.body.decode("latin-1") if part == "body" else getattr(genuine, part)
    let_in = {}
    for flipped in each_bit_flipped(whole):
        answer = arrive(http, changed(genuine, part, flipped))
        if answer.status_code not in REFUSALS:
            let_in[flipped] = answer.status
    assert let_in == {}
    assert everything_in(http) == before
    # It was genuine: without a flipped bit it is let in, and leaves something behind.
    assert arrive(http, genuine).status_code == HTTPStatus.OK
    assert everything_in(http) != before


def spelled_out(header: str) -> str:
    """Write a signature header as its sender does: the algorithm and the escapes of base64 may be in either case."""
    header = re.sub("^algorithm=(?i:rsa256)", "algorithm=RSA256", header)
    return re.sub("%(?i:[0-9a-f]{2})", lambda escape: escape[0].upper(), header)


def test_a_signature_with_any_bit_flipped_is_refused_unless_it_is_the_same_signature(
    http: HttpClient, genuine: Delivery
) -> None:
    """What passes is the genuine delivery, spelled otherwise: the bytes of its signature are not one bit different."""
    before = everything_in(http)
    spelled_otherwise = []
    for flipped in each_bit_flipped(genuine.signature):
        if spelled_out(flipped) == genuine.signature:
            spelled_otherwise.append(flipped)
        else:
            assert arrive(http, changed(genuine, "signature", flipped)).status_code in REFUSALS, flipped
    assert everything_in(http) == before
    for flipped in spelled_otherwise:
        assert arrive(http, changed(genuine, "signature", flipped)).status_code == HTTPStatus.OK
    assert [row["deliveries"] for row in everything_in(http)["inbox"]] == [len(spelled_otherwise)]


@pytest.mark.parametrize("method", ["post", "Post", "poST", "get"])
def test_a_method_in_small_letters_is_another_method(http: HttpClient, genuine: Delivery, method: str) -> None:
    answer = arrive(http, changed(genuine, "method", method))
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert http.get("/v1/authorizations").get_json()["authorizations"][0]["state"] == "consulted"
    client = http.app.test_client()
    elsewhere = client.get("/v1/authorizations", environ_overrides={"REQUEST_METHOD": "get"})
    assert (elsewhere.status_code, elsewhere.headers["Allow"]) == (405, "GET, HEAD, OPTIONS, POST")
