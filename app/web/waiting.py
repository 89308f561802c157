"""Let a request wait for something to happen, without a thread and for longer than any other answer may take."""

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from flask import Flask, Response, current_app, g, request

from app.long_polling import K, Look, NoPlaceError, V
from app.web.notify import DeferredResponse
from app.web.problems import ProblemError
from app.wiring import Service

#: By then others have been answered.
_RETRY_AFTER_SECONDS = 5


def wait_for(look: Look[K, V], key: K, answer: Callable[[V | None, K], Response], *, seconds: float) -> Response:
    """Answer with what is found, or with `None` once the time is up or the worker stops, and with the key by then.

    Raises `ProblemError` 503 where as many wait as may.
    """
    service: Service = current_app.extensions["notifyauth"]
    long_polling = service.long_polling
    try:
        wait = long_polling.wait(look, key, seconds=seconds)
    except NoPlaceError:
        headers = {"Retry-After": str(_RETRY_AFTER_SECONDS)}
        how = "Ask again later, or without wait." if request.method == "GET" else "Send the same request again later."
        detail = f"As many requests wait as may. {how}"
        raise ProblemError(503, "unavailable", detail, headers=headers) from None
    return _respond_later(
        wait.future, lambda found: answer(found, wait.key), on_client_gone=lambda: long_polling.leave(wait)
    )


def _respond_later(
    future: "Future[V]", respond: Callable[[V], Response], *, on_client_gone: Callable[[], None]
) -> DeferredResponse:
    """Respond once the future is resolved, as if the request were still in hand: what is raised is handled as ever."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001 -- Flask's word for it
    environ, key_name = request.environ, g.key_name
    handle = app.handle_user_exception
    again = partial(app.request_context, environ)

    def fill(response: Response) -> None:
        with again():
            g.key_name = key_name
            try:
                made = respond(future.result())
            except Exception as error:  # noqa: BLE001 -- the application's own handlers say what it means
                made = app.make_response(handle(error))
        response.status_code = made.status_code
        response.headers.update(made.headers)
        response.set_data(made.get_data())

    return DeferredResponse(future, fill, on_client_gone=on_client_gone)
