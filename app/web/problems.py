"""Say what is wrong as a problem document (RFC 9457), or, at the notification endpoint, as Alipay's result."""

import json
from collections.abc import Mapping
from http import HTTPStatus

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from app.database import DatabaseUnavailableError
from app.logs import failure
from app.report_errors import (
    AuthorizationNotFoundError,
    ClientNotInKeyringError,
    ClientNotNamedError,
    ReportRefusedError,
)
from app.web.refusals import note_failure, note_refusal

#: Every code of a problem, with its title. Programs may rely on the codes.
TITLES = {
    "unauthorized": "No valid API key",
    "forbidden": "Not for this API key",
    "not-found": "Nothing here",
    "authorization-not-found": "No such authorization",
    "method-not-allowed": "Not with this method",
    "not-json": "Not a JSON body",
    "incomplete": "Body not as long as announced",
    "too-slow": "Body too late",
    "too-large": "Body too large",
    "head-too-large": "Headers too large",
    "invalid": "Not as the interface asks for",
    "client-not-named": "No client named",
    "client-not-in-keyring": "No such client",
    "canceled": "Canceled for good",
    "contradiction": "Otherwise than what is on record",
    "early": "Not legal yet",
    "illegal-transition": "Not legal",
    "no-authcode": "No auth code on record",
    "no-active-token": "No active token",
    "token-expired": "Token expired",
    "cursor-gone": "No reading on from this cursor",
    "revoke-asked": "Revoke asked for",
    "erased": "User erased",
    "no-refresh-token": "No refresh token",
    "no-gateway": "No gateway for this client",
    "no-answer": "No answer of Alipay's",
    "call-refused": "Refused by Alipay",
    "call-unneeded": "Not asked of Alipay",
    "call-not-found": "No such call",
    "call-not-repeatable": "Nothing to repeat",
    "delivery-not-found": "No such delivery",
    "endpoint-not-configured": "No such endpoint any more",
    "unavailable": "Not available now",
    "internal": "A fault of the service",
}

#: The codes of what the framework refuses, or the server through it.
_CODES = {
    404: "not-found",
    405: "method-not-allowed",
    408: "too-slow",
    413: "too-large",
    431: "head-too-large",
    503: "unavailable",
}

_READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

#: Long enough for a database to come back, short enough for a user who waits.
_RETRY_AFTER_SECONDS = 5


class ProblemError(Exception):
    """A request cannot be fulfilled. The detail is for people and has no secret in it."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: list[dict[str, str]] | None = None,
        members: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.headers = headers or {}
        #: Which fields are wrong, and how.
        self.errors = errors
        #: What else the document says (RFC 9457, 3.2).
        self.members = members or {}
        super().__init__(detail)


class NotYetError(ProblemError):
    """What is asked for depends on something that is stored and not processed yet, which is soon done."""

    def __init__(self, what_is: str) -> None:
        headers = {"Retry-After": str(_RETRY_AFTER_SECONDS)}
        super().__init__(503, "unavailable", f"{what_is} still to be processed. Ask again.", headers=headers)


def init_app(app: Flask, notify_path: str) -> None:
    """Turn every error into a document. A log is told the error's class only."""

    @app.errorhandler(ProblemError)
    def _problem(problem: ProblemError) -> Response:
        return _refuse(problem)

    @app.errorhandler(ReportRefusedError)
    def _refused(refused: ReportRefusedError) -> Response:
        return _refuse(ProblemError(_status_of(refused), refused.code, str(refused)))

    @app.errorhandler(DatabaseUnavailableError)
    def _unavailable(error: DatabaseUnavailableError) -> Response:
        note_failure(503, "database unavailable", {"error": error.cause})
        headers = {"Retry-After": str(_RETRY_AFTER_SECONDS)}
        detail = "The database is unavailable."
        if request.method not in _READING_METHODS:
            # A commit that was not confirmed, because it waited for a standby for example, may have been made.
            detail += " The report may have been recorded all the same: send the same again."
        return to_response(ProblemError(503, "unavailable", detail, headers=headers))

    @app.errorhandler(HTTPException)
    def _http(error: HTTPException) -> Response:
        status = error.code or 500
        headers = {name: value for name, value in error.get_headers() if name == "Allow"}
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Retry-After"] = str(_RETRY_AFTER_SECONDS)
        code = _CODES.get(status, "invalid" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "internal")
        note_refusal(status, code)
        if request.path == notify_path:
            return _as_notify_result(status, headers)
        return to_response(ProblemError(status, code, f"{HTTPStatus(status).phrase}.", headers=headers))

    @app.errorhandler(Exception)
    def _fault(error: Exception) -> Response:
        note_failure(500, "request failed", failure(error))
        return to_response(ProblemError(500, "internal", "The service failed. Its log says where."))


def _refuse(problem: ProblemError) -> Response:
    note_refusal(problem.status, problem.code)
    return to_response(problem)


def to_response(problem: ProblemError) -> Response:
    """Write a problem out."""
    document: dict[str, object] = {
        "type": f"urn:notifyauth:problem:{problem.code}",
        "title": TITLES[problem.code],
        "status": problem.status,
        "detail": str(problem),
        "code": problem.code,
        **problem.members,
    }
    if problem.errors is not None:
        document["errors"] = problem.errors
    body = json.dumps(document)
    return Response(body, problem.status, headers=dict(problem.headers), content_type="application/problem+json")


def _status_of(refused: ReportRefusedError) -> int:
    match refused:
        case AuthorizationNotFoundError():
            return HTTPStatus.NOT_FOUND
        case ClientNotNamedError() | ClientNotInKeyringError():
            return HTTPStatus.UNPROCESSABLE_ENTITY
        case _:
            return HTTPStatus.CONFLICT


def _as_notify_result(status: int, headers: Mapping[str, str]) -> Response:
    unavailable = status == HTTPStatus.SERVICE_UNAVAILABLE
    result = {
        "resultCode": "UNKNOWN_EXCEPTION" if unavailable else "PARAM_ILLEGAL",
        "resultStatus": "U" if unavailable else "F",
        "resultMessage": HTTPStatus(status).phrase,
    }
    return Response(json.dumps({"result": result}), status, headers=dict(headers), content_type="application/json")
