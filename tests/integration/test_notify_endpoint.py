"""The notification endpoint: a delivery is copied exactly as it came, and the response is the protocol's."""

import io
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import select
from werkzeug.test import TestResponse

from app import create_app
from app.alipay.acknowledgement import ACKNOWLEDGEMENT
from app.alipay.delivery import BODY_BYTES_MAX
from app.models import InboxEntry
from app.simulator.draft import authcode_created, token_canceled
from app.simulator.keys import SANDBOX_CLIENT_ID
from app.simulator.sender import headers_of
from tests.builders import a_genuine_delivery, an_environ
from tests.integration.http_client import NOTIFY_PATH, HttpClient

CODE = authcode_created("s-1", "code-1")


@pytest.fixture
def rewritten(sqlite_url: str, keyring_path: Path) -> Iterator[HttpClient]:
    """A service behind a proxy that rewrites the path."""
    paths = {"FLASK_NOTIFY_PATH": "/inside", "FLASK_PUBLIC_NOTIFY_PATH": "/outside/notify"}
    http = HttpClient(create_app(an_environ(sqlite_url, keyring_path, **paths)), keyring_path)
    yield http
    http.service.database.close()


def result(response: TestResponse) -> tuple[int, str, str]:
    document = response.get_json()["result"]
    assert set(document) == {"resultCode", "resultStatus", "resultMessage"}
    return response.status_code, document["resultStatus"], document["resultCode"]


def post(http: HttpClient, body: bytes, **environ: str) -> TestResponse:
    """Post bytes with the headers of a genuine delivery of them, and the environment as a server would have it."""
    headers = dict(headers_of(a_genuine_delivery(http.keyring_path, body)))
    return http.app.test_client().post(
        NOTIFY_PATH, input_stream=io.BytesIO(body), headers=headers, environ_overrides=environ
    )


def stored(http: HttpClient) -> list[InboxEntry]:
    return http.service.database.run(lambda session: list(session.scalars(select(InboxEntry))), read_only=True)


def test_an_acknowledgement_is_the_fixed_body_with_its_headers(http: HttpClient) -> None:
    response = http.notify(CODE)
    assert (response.status_code, response.data) == (200, ACKNOWLEDGEMENT)
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["client-id"] == SANDBOX_CLIENT_ID
    assert datetime.fromisoformat(response.headers["response-time"]).tzinfo is not None
    assert response.headers["signature"].startswith("algorithm=RSA256")


def test_a_malformed_notification_is_answered_400_each_time(http: HttpClient) -> None:
    for _ in range(2):
        assert result(http.notify(b"{}")) == (400, "F", "PARAM_ILLEGAL")


def test_a_forgery_is_refused_without_a_signature_of_ours(http: HttpClient) -> None:
    response = http.app.test_client().post(NOTIFY_PATH, data=CODE.body(), headers={"client-id": SANDBOX_CLIENT_ID})
    assert result(response) == (401, "F", "INVALID_SIGNATURE")
    assert "signature" not in response.headers
    assert stored(http) == []


def test_headers_are_found_whatever_their_case(http: HttpClient) -> None:
    delivery = a_genuine_delivery(http.keyring_path, CODE)
    headers = {name.upper(): value for name, value in headers_of(delivery).items()}
    assert http.app.test_client().post(NOTIFY_PATH, data=delivery.body, headers=headers).status_code == 200


@pytest.mark.parametrize("query", ["a=1", "tenant=a%20b&next=%2Fx", "%zz", "a=1&a=2", "%E7%94%A8"])
def test_the_query_is_signed_as_it_was_sent(http: HttpClient, query: str) -> None:
    assert http.notify(CODE, query=query).status_code == 200


def test_a_query_that_was_not_signed_is_refused(http: HttpClient) -> None:
    delivery = a_genuine_delivery(http.keyring_path, CODE)
    response = http.app.test_client().post(f"{NOTIFY_PATH}?a=1", data=delivery.body, headers=dict(headers_of(delivery)))
    assert result(response) == (401, "F", "INVALID_SIGNATURE")


def test_the_public_path_is_what_is_signed(rewritten: HttpClient) -> None:
    assert rewritten.notify(CODE, path="/inside", signed_path="/outside/notify").status_code == 200
    assert rewritten.notify(CODE, path="/inside", signed_path="/inside").status_code == 401
    assert rewritten.notify(CODE, path="/outside/notify", signed_path="/outside/notify").status_code == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_are_not_allowed(http: HttpClient, method: str) -> None:
    response = http.app.test_client().open(NOTIFY_PATH, method=method)
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")
    assert response.data == b"" if method == "HEAD" else result(response) == (405, "F", "PARAM_ILLEGAL")


@pytest.mark.parametrize(
    "path",
    ["/", f"{NOTIFY_PATH}/", f"/{NOTIFY_PATH}", "/alipay", "/alipay//notifyAuthorization", NOTIFY_PATH.lower()],
)
def test_other_paths_are_not_found(http: HttpClient, path: str) -> None:
    """Nothing is redirected, and no path passes for another: a test client would take "//alipay" for a host."""
    assert post(http, CODE.body(), PATH_INFO=path).status_code == 404
    assert stored(http) == []


def test_the_largest_body_is_read_whole_and_one_byte_more_is_refused(http: HttpClient) -> None:
    assert result(http.notify(b" " * BODY_BYTES_MAX)) == (400, "F", "PARAM_ILLEGAL")
    assert result(http.notify(b" " * (BODY_BYTES_MAX + 1))) == (413, "F", "PARAM_ILLEGAL")


def test_a_body_in_chunks_is_read_whole_or_refused_and_never_cut(http: HttpClient) -> None:
    chunked = {"wsgi.input_terminated": "1", "CONTENT_LENGTH": ""}
    body = token_canceled("token-1").body()
    assert post(http, body, **chunked).status_code == 200
    padded = body + b" " * (BODY_BYTES_MAX - len(body))
    assert post(http, padded, **chunked).status_code == 200
    assert result(post(http, padded + b" ", **chunked)) == (413, "F", "PARAM_ILLEGAL")


@pytest.mark.parametrize("announced", [str(BODY_BYTES_MAX + 1), "9" * 5000])
def test_a_body_that_is_announced_too_large_is_not_read(http: HttpClient, announced: str) -> None:
    assert result(post(http, b"never read", CONTENT_LENGTH=announced)) == (413, "F", "PARAM_ILLEGAL")


@pytest.mark.parametrize("announced", ["1000", "-1", "1_0", "ten"])
def test_a_body_of_another_length_than_announced_is_never_processed(http: HttpClient, announced: str) -> None:
    assert result(post(http, CODE.body(), CONTENT_LENGTH=announced)) == (400, "F", "PARAM_ILLEGAL")
    assert result(post(http, CODE.body(), CONTENT_LENGTH="9")) == (401, "F", "INVALID_SIGNATURE")
    assert stored(http) == []


@pytest.mark.parametrize("zeros", [1, 6, 5000])
def test_a_length_is_the_same_number_with_zeros_in_front(http: HttpClient, zeros: int) -> None:
    body = token_canceled("token-1").body()
    assert post(http, body, CONTENT_LENGTH=f"{'0' * zeros}{len(body)}").status_code == 200


def test_a_service_without_tables_answers_503_so_that_alipay_redelivers(
    unmigrated_database_url: str, keyring_path: Path
) -> None:
    http = HttpClient(create_app(an_environ(unmigrated_database_url, keyring_path)), keyring_path)
    assert result(http.notify(CODE)) == (503, "U", "UNKNOWN_EXCEPTION")
    http.service.database.close()


def test_a_service_that_cannot_store_answers_503_so_that_alipay_redelivers(keyring_path: Path) -> None:
    http = HttpClient(create_app(an_environ("postgresql://nobody@127.0.0.1:1/nothing", keyring_path)), keyring_path)
    assert result(http.notify(CODE)) == (503, "U", "UNKNOWN_EXCEPTION")


@pytest.mark.parametrize(
    ("path", "others"),
    [
        ("/notify/", ["/notify", "/notify//", "/notify/x", "/"]),
        ("/a//b", ["/a/b", "/a//b/", "/a"]),
        ("/", ["/notify", "/index.html"]),
    ],
)
def test_the_notification_path_is_matched_and_signed_to_the_letter(
    database_url: str, keyring_path: Path, path: str, others: list[str]
) -> None:
    http = HttpClient(create_app(an_environ(database_url, keyring_path, FLASK_NOTIFY_PATH=path)), keyring_path)
    assert result(http.notify(CODE, path=path, signed_path=path, query="x=1"))[0] == 200
    assert result(http.notify(CODE, path=path, signed_path=path + "/")) == (401, "F", "INVALID_SIGNATURE")
    for other in others:
        assert http.notify(CODE, path=other, signed_path=other).status_code == 404
        assert http.app.test_client().get(other).status_code == 404
    assert http.app.test_client().get(path).status_code == 405
    (entry,) = stored(http)
    assert (entry.uri, entry.deliveries) == (f"{path}?x=1", 1)
    http.service.database.close()


@pytest.mark.parametrize("public", ["/public/notify/", "//public//notify", "/public/%7Eshop%2Fnotify", "/"])
def test_the_public_path_is_verified_as_alipay_calls_it(database_url: str, keyring_path: Path, public: str) -> None:
    environ = an_environ(database_url, keyring_path, FLASK_PUBLIC_NOTIFY_PATH=public)
    http = HttpClient(create_app(environ), keyring_path)
    assert result(http.notify(CODE, signed_path=public))[0] == 200
    assert result(http.notify(CODE)) == (401, "F", "INVALID_SIGNATURE")
    http.service.database.close()
