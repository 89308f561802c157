"""Deferred responses: any server waits for them, and what the framework adds to them stays."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any
from wsgiref.types import WSGIEnvironment
from wsgiref.validate import validator

import pytest
from flask import Flask, Response
from sqlalchemy import event
from werkzeug.test import Client, EnvironBuilder, TestResponse

from app.server.rsgi_to_wsgi import Deferred
from app.simulator.draft import authcode_created
from app.simulator.sender import headers_of
from app.web.notify import DeferredResponse
from tests.builders import a_genuine_delivery
from tests.integration.http_client import NOTIFY_PATH, HttpClient


@pytest.fixture
def future() -> "Future[bytes]":
    return Future()


@pytest.fixture
def app(future: "Future[bytes]") -> Flask:
    """An application with one endpoint, whose response is the future's result."""
    app = Flask("deferred", static_folder=None)

    def fill(response: Response) -> None:
        response.status_code = 201
        response.headers["client-id"] = "C"
        response.set_data(future.result())

    @app.get("/")
    def deferred() -> Response:
        return DeferredResponse(future, fill)

    @app.after_request
    def mark(response: Response) -> Response:
        response.headers["X-Added"] = "yes"
        return response

    return app


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_a_server_that_reads_it_waits_until_it_is_known(
    app: Flask, future: "Future[bytes]", pool: ThreadPoolExecutor
) -> None:
    asked: Future[TestResponse] = pool.submit(app.test_client().get, "/")
    wait([asked], timeout=0.05)
    assert not asked.done()
    future.set_result(b"known")
    response = asked.result(timeout=10)
    assert (response.status_code, response.data) == (201, b"known")
    assert (response.headers["client-id"], response.headers["Content-Length"]) == ("C", "5")


def test_what_the_framework_adds_stays(app: Flask, future: "Future[bytes]") -> None:
    future.set_result(b"")
    assert app.test_client().get("/").headers["X-Added"] == "yes"


def test_it_keeps_to_the_rules_of_wsgi(app: Flask, future: "Future[bytes]") -> None:
    future.set_result(b"known")
    assert Client(validator(app)).get("/", buffered=True).status_code == 201


def test_what_the_future_raises_reaches_the_server(app: Flask, future: "Future[bytes]") -> None:
    future.set_exception(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        app.test_client().get("/")


def test_the_notification_endpoint_returns_before_anything_asks_the_database(http: HttpClient) -> None:
    """The event loop calls it: it may not block."""
    receiver = http.service.receiver
    statuses: list[str] = []
    known, statements = list[None](), list[str]()

    def start(status: str, _headers: Any, _: Any = None) -> Any:  # noqa: ANN401 -- PEP 3333
        statuses.append(status)

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(http.service.database.engine, "before_cursor_execute", note)
    with receiver.group_commit.held():
        body = http.app(an_environ_of_a_delivery(http), start)
        assert isinstance(body, Deferred)
        body.add_done_callback(lambda: known.append(None))
        assert (known, statuses, statements) == ([], [], [])
    assert b"SUCCESS" in b"".join(body)
    assert statuses == ["200 OK"]


def an_environ_of_a_delivery(http: HttpClient) -> WSGIEnvironment:
    delivery = a_genuine_delivery(http.keyring_path, authcode_created("s-1", "code-1"))
    headers = list(dict(headers_of(delivery)).items())
    return EnvironBuilder(NOTIFY_PATH, method="POST", data=delivery.body, headers=headers).get_environ()
