"""Count and log every request that the application refuses, so that none of them is refused unseen.

What granian refuses before (no HTTP, a URL or a head beyond its own bounds) never comes here.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus

from flask import current_app, g, request

from app import metrics
from app.web.every_request import origin
from app.wiring import Service

_log = logging.getLogger(__name__)

#: The longest path, and the longest method, that are worth reading in a log.
_PATH_CHARACTERS_MAX = 256
_METHOD_CHARACTERS_MAX = 16
#: Every notification has these, and hardly any other request.
_HEADERS_OF_ALIPAY = ("client-id", "request-time", "signature")

_PLACES = {
    "/metrics": "metrics",
    "/healthz": "health",
    "/readyz": "health",
    "/version": "health",
    "/openapi.json": "health",
}


def note_refusal(status: int, code: str) -> None:
    """Count and log a request that is refused: the sender has to change it."""
    _count(status)
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED} and _is_a_notification():
        metrics.MISDIRECTED.inc(status)
        fields = {
            "status": status,
            "asked": _path()[:_PATH_CHARACTERS_MAX],
            "listens_at": _notify_path(),
            "remedy": _remedy(_path(), _notify_path(), status),
            **_who_asked(),
        }
        _log.warning("notification sent to where none is received", extra=fields)
        return
    method = request.environ["REQUEST_METHOD"][:_METHOD_CHARACTERS_MAX]
    fields = {"status": status, "code": code, "method": method, "path": _path()[:_PATH_CHARACTERS_MAX], **_who_asked()}
    _log.warning("request refused", extra=fields)


def _remedy(asked: str, listens_at: str, status: int) -> str:
    """Say what to do about a notification that comes to another path than the one that is listened at."""
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return "register another URL: this path is of something else"
    if asked != listens_at and asked.rstrip("/") == listens_at.rstrip("/"):
        return (
            "set FLASK_NOTIFY_PATH to the path that was asked, or register the URL with the slash as it is listened at"
        )
    if listens_at.endswith(asked):
        return (
            "let the proxy pass the whole path on; or set FLASK_NOTIFY_PATH to the path that was asked and "
            "FLASK_PUBLIC_NOTIFY_PATH to the path of the registered URL"
        )
    return "set FLASK_NOTIFY_PATH to the path that was asked, or register the URL with the path that is listened at"


def note_failure(status: int, message: str, what: Mapping[str, str]) -> None:
    """Count and log a request that failed: its sender did nothing wrong."""
    _count(status)
    _log.error(message, extra={"path": _path()[:_PATH_CHARACTERS_MAX], **what, **_who_asked()})


def _count(status: int) -> None:
    where = _where()
    metrics.REFUSED_REQUESTS.inc(status, where)
    if where == "notify":
        metrics.DELIVERIES.inc(status)


def _where() -> str:
    path = _path()
    if path == _notify_path():
        return "notify"
    if path == "/v1" or path.startswith("/v1/"):
        return "api"
    return _PLACES.get(path, "elsewhere")


def _is_a_notification() -> bool:
    return request.environ["REQUEST_METHOD"] == "POST" and all(map(request.headers.get, _HEADERS_OF_ALIPAY))


def _path() -> str:
    # Not request.path, which has several leading slashes for one.
    path: str = request.environ.get("PATH_INFO", "")
    return path.encode("latin-1").decode("utf-8", "replace")


def _notify_path() -> str:
    service: Service = current_app.extensions["notifyauth"]
    return service.settings.notify_path


def _who_asked() -> dict[str, str]:
    """Name the key, the address and the id of the request, as far as they are known."""
    return {"key": g.get("key_name", ""), **origin().fields()}
