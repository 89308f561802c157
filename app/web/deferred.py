"""Deferred responses: an endpoint returns before its response is known, and no thread waits for it.

`app.server.rsgi_to_wsgi` is called back once it is known. Any other WSGI server reads the response, and so waits.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Response
from typing_extensions import override

from app.server.rsgi_to_wsgi import Deferred


class DeferredResponse(Response):
    """A response that is filled in when it is read, once a future is resolved.

    Flask is done with the request by then: what it has added to the headers stays, and of the status and the body it
    sees nothing.
    """

    def __init__(self, future: "Future[Any]", fill: Callable[[Response], None]) -> None:
        super().__init__()
        self.future = future
        self._fill = fill

    @override
    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return _DeferredBody(self, environ, start_response)

    def read(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Fill it in, and begin to send it as any other."""
        self._fill(self)
        return super().__call__(environ, start_response)


@dataclass
class _DeferredBody(Deferred):
    response: DeferredResponse
    environ: WSGIEnvironment
    start_response: StartResponse

    @override
    def add_done_callback(self, callback: Callable[[], None]) -> None:
        self.response.future.add_done_callback(lambda _: callback())

    @override
    def __iter__(self) -> Iterator[bytes]:
        # A server hears of the status with the first piece, which is early enough (PEP 3333).
        yield from self.response.read(self.environ, self.start_response)

    def close(self) -> None:
        """End the response, whether it was read or not."""
        self.response.close()
