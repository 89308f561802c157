"""A response that is not known yet: any server waits for it, and what the framework adds to it stays."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from wsgiref.validate import validator

import pytest
from flask import Flask, Response
from werkzeug.test import Client, TestResponse

from app.web.deferred import DeferredResponse


@pytest.fixture
def future() -> "Future[bytes]":
    return Future()


@pytest.fixture
def app(future: "Future[bytes]") -> Flask:
    """An application with one http, whose answer is what the future says."""
    app = Flask("late", static_folder=None)

    def fill(response: Response) -> None:
        response.status_code = 201
        response.headers["client-id"] = "C"
        response.set_data(future.result())

    @app.get("/")
    def late() -> Response:
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


def test_whoever_reads_it_waits_until_it_is_known(
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


def test_what_is_raised_instead_of_an_answer_reaches_the_server(app: Flask, future: "Future[bytes]") -> None:
    future.set_exception(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        app.test_client().get("/")
