"""No request is turned away unseen: each is counted and logged with what finds it again, and with nothing secret."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from werkzeug.test import TestResponse

from app import create_app
from app.logs import FieldFormatter
from app.server.rsgi_to_wsgi import REJECT_STATUS
from app.simulator.draft import authcode_created
from app.simulator.sender import headers_of
from tests.builders import a_genuine_delivery, an_environ
from tests.integration.http_client import AUTHORIZATIONS, NOTIFY_PATH, HttpClient
from tests.integration.test_health import figure

CODE = authcode_created("s-1", "code-1")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the service logs."""
    logger = logging.getLogger("app")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def logged(log: pytest.LogCaptureFixture, message: str) -> dict[str, object]:
    """The fields of the one line that says this."""
    (record,) = [record for record in log.records if record.message == message]
    return vars(record)


def send(
    http: HttpClient, path: str, *, method: str = "POST", environ: Mapping[str, object] = MappingProxyType({})
) -> TestResponse:
    """Send a genuine notification to some path."""
    delivery = a_genuine_delivery(http.keyring_path, CODE)
    return http.app.test_client().open(
        "/",
        method=method,
        data=delivery.body,
        headers=dict(headers_of(delivery)),
        environ_overrides={"PATH_INFO": path, **environ},
    )


@pytest.mark.parametrize(
    ("method", "path", "key", "status", "where"),
    [
        ("GET", "/v1/nothing", "an-api-key", 404, "api"),
        ("GET", AUTHORIZATIONS, "wrong", 401, "api"),
        ("GET", f"{AUTHORIZATIONS}?limit=0", "an-api-key", 422, "api"),
        ("DELETE", AUTHORIZATIONS, "an-api-key", 405, "api"),
        ("GET", "/metrics", "wrong", 401, "metrics"),
        ("PUT", "/readyz", "an-api-key", 405, "health"),
        ("GET", NOTIFY_PATH, "an-api-key", 405, "notify"),
        ("GET", f"{NOTIFY_PATH}/", "an-api-key", 404, "elsewhere"),
        ("GET", "/.env", "an-api-key", 404, "elsewhere"),
    ],
)
def test_a_refused_request_is_counted_and_logged(
    http: HttpClient, log: pytest.LogCaptureFixture, method: str, path: str, key: str, status: int, where: str
) -> None:
    before = figure(http, "notifyauth_refused_requests_total", status=str(status), where=where)
    log.clear()
    answer = http.call(method, path, key=key, headers={"X-Forwarded-For": "203.0.113.9"})
    assert answer.status_code == status
    line = logged(log, "request refused")
    assert (line["status"], line["method"], line["path"]) == (status, method, path.partition("?")[0])
    assert (line["address"], line["forwarded_for"]) == ("127.0.0.1", "203.0.113.9")
    assert line["request_id"] == answer.headers["X-Request-Id"]
    assert figure(http, "notifyauth_refused_requests_total", status=str(status), where=where) - before == 1
    assert "wrong" not in str(line)


@pytest.mark.parametrize("status", [408, 413, 431, 503])
@pytest.mark.parametrize(("path", "where"), [(NOTIFY_PATH, "notify"), (AUTHORIZATIONS, "api")])
def test_requests_that_the_server_refuses_are_counted_and_logged(
    http: HttpClient, log: pytest.LogCaptureFixture, status: int, path: str, where: str
) -> None:
    before = figure(http, "notifyauth_refused_requests_total", status=str(status), where=where)
    assert send(http, path, environ={REJECT_STATUS: status}).status_code == status
    line = logged(log, "request refused")
    assert (line["status"], line["path"]) == (status, path)
    assert figure(http, "notifyauth_refused_requests_total", status=str(status), where=where) - before == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [(f"{NOTIFY_PATH}/", 404), ("/", 404), (f"/{NOTIFY_PATH}", 404), ("/healthz", 405), (f"/v1{NOTIFY_PATH}", 404)],
)
def test_a_notification_sent_to_a_wrong_path_is_counted_and_logged(
    http: HttpClient, log: pytest.LogCaptureFixture, path: str, status: int
) -> None:
    before = figure(http, "notifyauth_misdirected_deliveries_total", status=str(status))
    assert send(http, path).status_code == status
    line = logged(log, "notification sent to where none is received")
    assert (line["asked"], line["listens_at"]) == (path, NOTIFY_PATH)
    assert (line["levelname"], line["address"]) == ("WARNING", "127.0.0.1")
    assert figure(http, "notifyauth_misdirected_deliveries_total", status=str(status)) - before == 1


def test_a_long_path_is_logged_in_part(http: HttpClient, log: pytest.LogCaptureFixture) -> None:
    send(http, "/" + "x" * 5000)
    assert len(str(logged(log, "notification sent to where none is received")["asked"])) == 256


@pytest.mark.parametrize("brought", ["4bf92f3577b34da6", "Root=1-67891233-abcdef", "a" * 128])
def test_a_well_formed_request_id_is_kept(http: HttpClient, brought: str) -> None:
    assert http.get("/healthz", headers={"X-Request-Id": brought}).headers["X-Request-Id"] == brought


@pytest.mark.parametrize("brought", ["", "a b", "a" * 129, '"', "ä", "a;b", "<script>"])
def test_another_request_id_is_replaced_by_ours(http: HttpClient, brought: str) -> None:
    answers = [http.get("/healthz", headers={"X-Request-Id": brought}).headers["X-Request-Id"] for _ in range(2)]
    assert brought not in answers
    assert len({*answers}) == 2
    assert all(len(each) == 16 for each in answers)


def test_a_delivery_is_logged_under_the_id_that_its_answer_carries(
    http: HttpClient, log: pytest.LogCaptureFixture
) -> None:
    stored = http.notify(CODE)
    assert logged(log, "delivery stored")["request_id"] == stored.headers["X-Request-Id"]
    refused = http.app.test_client().post(NOTIFY_PATH, data=b"{}", headers={"client-id": "stranger"})
    line = logged(log, "delivery refused")
    assert (line["request_id"], line["address"]) == (refused.headers["X-Request-Id"], "127.0.0.1")
    assert (line["client_id"], line["missing"]) == ("stranger", "request-time, signature")


def refuse(http: HttpClient, log: pytest.LogCaptureFixture, **change: str | bytes) -> Mapping[str, object]:
    """Let a genuine delivery arrive changed, and return the line that says so."""
    delivery = replace(a_genuine_delivery(http.keyring_path, CODE), **change)  # type: ignore[arg-type]
    headers = {name: value for name, value in headers_of(delivery).items() if value}
    http.app.test_client().post(delivery.uri, data=delivery.body, headers=headers)
    return logged(log, "delivery refused")


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"body": b"{}"}, {"cause": "mismatch", "key_version": 1, "path": NOTIFY_PATH}),
        ({"uri": f"{NOTIFY_PATH}?token=secret"}, {"cause": "mismatch", "path": f"{NOTIFY_PATH}?..."}),
        ({"client_id": ""}, {"cause": "unknown_client", "missing": "client-id", "key_version": 1}),
        ({"request_time": ""}, {"cause": "header", "missing": "request-time"}),
        ({"request_time": "1" * 65}, {"cause": "header", "problem": "request-time has more than 64 characters"}),
        ({"signature": ""}, {"cause": "header", "missing": "signature"}),
        ({"signature": "algorithm=RSA256"}, {"cause": "header", "missing": "signature in signature"}),
        ({"signature": "signature=AAAA"}, {"cause": "algorithm", "missing": "algorithm in signature"}),
        ({"signature": "a=1"}, {"cause": "header", "problem": "signature has an unknown part"}),
        (
            {"signature": "algorithm=RSA256,algorithm=RSA256,signature=AAAA"},
            {"cause": "header", "problem": "the part algorithm stands twice in signature"},
        ),
        (
            {"signature": "algorithm=RSA256,keyVersion=one,signature=AAAA"},
            {"cause": "header", "problem": "keyVersion in signature is no number"},
        ),
        (
            {"signature": "algorithm=RSA256,keyVersion=7,signature=AAAA"},
            {"cause": "unknown_key", "key_version": 7, "known_versions": "1"},
        ),
        ({"signature": "algorithm=RSA256,keyVersion=1,signature=a b"}, {"cause": "base64", "key_version": 1}),
        (
            {"signature": "s" * 4097},
            {"cause": "header", "problem": "signature has more than 4096 characters"},
        ),
    ],
)
def test_the_log_says_of_a_refused_delivery_what_is_known(
    http: HttpClient, log: pytest.LogCaptureFixture, change: dict[str, str | bytes], fields: Mapping[str, object]
) -> None:
    line = refuse(http, log, **change)
    assert {name: line.get(name) for name in fields} == fields
    assert line["address"] == "127.0.0.1"
    assert line["request_id"]
    assert "secret" not in str(line)


def test_a_made_up_client_id_is_logged_in_part_and_cannot_forge_a_line(
    http: HttpClient, log: pytest.LogCaptureFixture
) -> None:
    line = refuse(http, log, client_id='x" cause=none ' + "x" * 500)
    assert line["client_id"] == 'x" cause... (514 characters)'
    (record,) = [each for each in log.records if each.getMessage() == "delivery refused"]
    assert r'client_id="x\" cause... (514 characters)"' in FieldFormatter().format(record)


def test_a_strangers_client_id_is_logged_whole_and_a_secret_in_its_place_is_not(
    http: HttpClient, log: pytest.LogCaptureFixture
) -> None:
    assert refuse(http, log, client_id="SANDBOX_5Y99999999999999")["client_id"] == "SANDBOX_5Y99999999999999"
    log.clear()
    secret = "28100103_20215703001538122119"
    assert secret not in str(refuse(http, log, client_id=secret)["client_id"])


def test_a_stale_delivery_is_logged_with_its_age_and_the_limit(
    database_url: str, keyring_path: Path, log: pytest.LogCaptureFixture
) -> None:
    environ = an_environ(database_url, keyring_path, FLASK_FRESHNESS_SECONDS="90000")
    http = HttpClient(create_app(environ), keyring_path)
    signed = a_genuine_delivery(keyring_path, CODE, request_time="1685599933871")
    http.app.test_client().post(signed.uri, data=signed.body, headers=headers_of(signed))
    line = logged(log, "delivery refused")
    assert (line["cause"], line["limit_seconds"]) == ("stale", 90_000)
    assert int(str(line["age_seconds"])) > 90_000
    http.service.database.close()


def test_a_report_is_logged_with_the_name_of_the_key(http: HttpClient, log: pytest.LogCaptureFixture) -> None:
    http.consult()
    line = logged(log, "report recorded")
    assert (line["report"], line["key"], line["cause"]) == ("consult", "shop", "api")
