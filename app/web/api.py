"""The merchant's endpoints: report what it learned itself, and read where an authorization stands."""

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from uuid import UUID

from flask import Blueprint, Response, current_app, g, url_for
from sqlalchemy.orm import Session

from app import authorization_search, authorizations, evidence, inbox, inbox_admin, tokens
from app.alipay.token_answer import read_login_id
from app.authorization_search import Cursor, CursorError, Filter
from app.database import Database
from app.documents import Document, authorization_document, authorization_summaries, entry_summary, timestamp
from app.long_polling import Found
from app.models import Authorization
from app.report_errors import AuthorizationNotFoundError
from app.reports import AuthcodeReport, CanceledReport, Consult, PaymentResult, Recorded, Report, TokenReport
from app.secret import Secret
from app.state_machine import AuthorizationState, Flow
from app.tokens import Grant
from app.vocabulary import CauseKind
from app.web.bearer import require_key, require_token_key
from app.web.problems import NotYetError, ProblemError
from app.web.request_models import (
    AuthcodeBody,
    CanceledBody,
    ConsultBody,
    ListQuery,
    PaymentResultBody,
    TokenBody,
    TokenSearchBody,
    WaitQuery,
    read_body,
    read_query,
)
from app.web.waiting import wait_for
from app.wiring import Service

_log = logging.getLogger(__name__)

#: What a token is not given out before, since it may say that the token was canceled.
_REST = "Notifications of this authorization are"
_UNDECIDED = "Entry {} of the inbox, a cancellation of this token, is"

#: Of one token there is a creation and a cancellation; more are tests, or a stranger's.
_NOTIFICATIONS_MAX = 100

blueprint = Blueprint("api", __name__, url_prefix="/v1")
blueprint.before_request(require_key)


@blueprint.post("/authorizations")
def consult() -> Response:
    """Register a consult: 201, or 200 if it was registered before."""
    body = read_body(ConsultBody)
    said = Consult(
        auth_state=body.auth_state,
        client_id=body.client_id,
        flow=None if body.flow is None else Flow(body.flow),
        user_ref=body.user_ref,
        customer_belongs_to=body.customer_belongs_to,
    )
    recorded = _record(said)
    response = respond(whole_document(recorded.authorization_id), 201 if recorded.created else 200)
    if recorded.created:
        response.headers["Location"] = url_for("api.show", authorization_id=recorded.authorization_id)
    return response


@blueprint.get("/authorizations")
def list_authorizations() -> Response:
    """List authorizations, newest first; by their last change, or by the end of their token, where that is asked for.

    With `reasons` it says why each was canceled, in the words of a person.
    """
    query = read_query(ListQuery)
    if query.reasons == "true":
        require_token_key()
    wanted = Filter(**query.model_dump(include=set(Filter.__dataclass_fields__)))
    vault, now = _service().vault, datetime.now(UTC)
    after = None if query.cursor is None else _cursor(query.cursor)

    def page(session: Session) -> Document:
        try:
            found = authorization_search.listing(
                session, wanted, limit=query.limit, now=now, after=after, oldest_first=query.order == "oldest"
            )
        except CursorError as error:
            raise _wrong_cursor(error) from None
        listed = authorization_summaries(session, found.rows)
        if query.reasons == "true":
            why = evidence.cancellations(session, vault, found.rows)
            for each, row in zip(listed, found.rows, strict=True):
                each["cancellation"] = why.get(row.id)
        return {"authorizations": listed, "nextCursor": None if found.next is None else str(found.next)}

    document = _service().database.run(page, read_only=True)
    if query.reasons != "true":
        return respond(document)
    _log.info("secrets read", extra={"what": "reasons", "count": len(document["authorizations"]), "key": g.key_name})
    return _unstored(document)


@blueprint.get("/authorizations/<uuid:authorization_id>")
def show(authorization_id: UUID) -> Response:
    """Show an authorization with its history and its notifications."""
    return respond(whole_document(authorization_id))


@blueprint.get("/authorizations/<uuid:authorization_id>/evidence")
def show_evidence(authorization_id: UUID) -> Response:
    """Give out what proves each move of an authorization: tokens are in the bodies."""
    require_token_key()
    vault, keyring = _service().vault, _service().keyring

    def read(session: Session) -> Document:
        return evidence.collect(session, vault, keyring, _find(session, authorization_id)).document()

    return _give_out("evidence", authorization_id, _service().database.run(read, read_only=True))


@blueprint.post("/tokens/search")
def search_token() -> Response:
    """Find the authorizations and the notifications that name an access token, by its blind index.

    The token comes in the body, since URLs are logged; it is neither shown nor stored.
    """
    body = read_body(TokenSearchBody)
    service, token = _service(), Secret(body.access_token)
    client_ids = list(service.keyring.clients) if body.client_id is None else [body.client_id]
    keys = [(each, tokens.index(service.vault, each, token)) for each in client_ids]

    def read(session: Session) -> Document:
        entries = inbox_admin.of_tokens(session, keys, limit=_NOTIFICATIONS_MAX)
        return {
            "authorizations": authorization_summaries(session, authorizations.of_tokens(session, keys)),
            "notifications": [entry_summary(each) for each in entries],
        }

    return respond(service.database.run(read, read_only=True))


@dataclass(frozen=True, slots=True)
class _LookForCodes:
    """Finds out which of these authorizations wait no more for a code: there is one, or there can be none any more."""

    database: Database

    def __call__(self, ids: Collection[UUID]) -> Mapping[UUID, Found[None]]:
        waiting = self.database.run(partial(authorizations.awaiting_code, ids=ids), read_only=True)
        return {each: Found(None) for each in set(ids) - waiting}


@blueprint.get("/authorizations/<uuid:authorization_id>/authcode")
def show_authcode(authorization_id: UUID) -> Response:
    """Give out the auth code, once there is one: one of the two endpoints that reveal a secret."""
    require_token_key()
    wait = read_query(WaitQuery).wait
    look = _LookForCodes(_service().database)
    if not wait or look([authorization_id]):
        return _authcode(authorization_id)
    return wait_for(look, authorization_id, lambda _found, _key: _authcode(authorization_id), seconds=wait)


def _authcode(authorization_id: UUID) -> Response:
    vault = _service().vault

    def read(session: Session) -> Document:
        authorization = _find(session, authorization_id)
        code = authorizations.auth_code(vault, authorization)
        if code is None:
            raise ProblemError(409, "no-authcode", f"No auth code is on record; the state is {authorization.state}.")
        return {
            "authCode": code.reveal(),
            "receivedAt": timestamp(authorization.auth_code_received_at),
            "replacedAnother": authorizations.has_other_codes(authorization),
        }

    return _give_out("authcode", authorization_id, _service().database.run(read, read_only=True))


@blueprint.post("/authorizations/<uuid:authorization_id>/authcode")
def report_authcode(authorization_id: UUID) -> Response:
    """Record the code that the redirect brought."""
    body = read_body(AuthcodeBody)
    recorded = _record(AuthcodeReport(authorization_id, Secret(body.auth_code)))
    return respond(whole_document(recorded.authorization_id))


@blueprint.get("/authorizations/<uuid:authorization_id>/token")
def show_token(authorization_id: UUID) -> Response:
    """Give out the current token of an active authorization, and what refreshes it, until it expires."""
    require_token_key()
    vault, now = _service().vault, datetime.now(UTC)

    def read(session: Session) -> Document:
        authorization = _find(session, authorization_id)
        if authorization.resume_after is not None and not authorizations.is_canceled(authorization):
            raise NotYetError(_REST)
        token = tokens.current(session, authorization)
        if token is None or authorization.state != AuthorizationState.TOKEN_ACTIVE:
            raise ProblemError(409, "no-active-token", f"No token is active; the state is {authorization.state}.")
        if authorization.revoke_asked_at is not None:
            asked_at = timestamp(authorization.revoke_asked_at)
            raise ProblemError(409, "revoke-asked", f"Its revoke was asked for at {asked_at}: the token is to go.")
        if tokens.is_forgotten(vault, token):
            erased_at = timestamp(authorization.erased_at)
            raise ProblemError(409, "erased", f"Its user was erased at {erased_at}: the token is gone.")
        undecided = inbox.undecided_cancellation(session, (token.client_id, token.token_index))
        if undecided is not None:
            raise NotYetError(_UNDECIDED.format(undecided))
        expires_at = token.access_token_expires_at
        if expires_at is not None and expires_at <= now:
            detail = (
                f"The token expired at {timestamp(expires_at)}: the user must authorize again, with a new authState."
            )
            raise ProblemError(409, "token-expired", detail)
        refresh_token = tokens.reveal_refresh_token(vault, token)
        return {
            "accessToken": tokens.reveal(vault, token).reveal(),
            "accessTokenExpiryTime": timestamp(expires_at),
            "refreshToken": None if refresh_token is None else refresh_token.reveal(),
            "refreshTokenExpiryTime": timestamp(token.refresh_token_expires_at),
        }

    return _give_out("token", authorization_id, _service().database.run(read, read_only=True))


@blueprint.post("/authorizations/<uuid:authorization_id>/tokens")
def report_token(authorization_id: UUID) -> Response:
    """Record the token that applyToken answered with, also after a refresh."""
    body = read_body(TokenBody)
    grant = Grant(
        Secret(body.access_token),
        access_token_expires_at=body.access_token_expiry_time,
        refresh_token=_secret(body.refresh_token),
        refresh_token_expires_at=body.refresh_token_expiry_time,
    )
    recorded = _record(
        TokenReport(
            authorization_id,
            grant,
            auth_code=_secret(body.auth_code),
            replaces=_secret(body.replaces),
            user_login_id=read_login_id(body.user_login_id),
        )
    )
    return respond({**whole_document(recorded.authorization_id), "replacedAnother": recorded.has_other_codes})


@blueprint.post("/authorizations/<uuid:authorization_id>/canceled")
def report_canceled(authorization_id: UUID) -> Response:
    """Record a revoke that succeeded."""
    body = read_body(CanceledBody)
    recorded = _record(CanceledReport(authorization_id, _secret(body.reason)))
    return respond(whole_document(recorded.authorization_id))


@blueprint.post("/authorizations/<uuid:authorization_id>/payment-results")
def report_payment_result(authorization_id: UUID) -> Response:
    """Record what a charge was answered: an authorization whose current token is dead is canceled."""
    body = read_body(PaymentResultBody)
    recorded = _record(
        PaymentResult(
            authorization_id,
            body.result_code,
            result_status=body.result_status,
            access_token=_secret(body.access_token),
            requested_at=body.requested_at,
        )
    )
    return respond(whole_document(recorded.authorization_id))


def _service() -> Service:
    service: Service = current_app.extensions["notifyauth"]
    return service


def _record(report: Report) -> Recorded:
    return _service().receiver.record(report, cause=CauseKind.API, by=g.key_name)


def whole_document(authorization_id: UUID) -> Document:
    """Read an authorization whole. Raises `AuthorizationNotFoundError`."""

    def read(session: Session) -> Document:
        return authorization_document(session, _find(session, authorization_id))

    return _service().database.run(read, read_only=True)


def _find(session: Session, authorization_id: UUID) -> Authorization:
    authorization = session.get(Authorization, authorization_id)
    if authorization is None:
        raise AuthorizationNotFoundError(authorization_id)
    return authorization


def _give_out(what: str, authorization_id: UUID, document: Document) -> Response:
    _log.info("secret read", extra={"what": what, "authorization": authorization_id, "key": g.key_name})
    return _unstored(document)


def _unstored(document: Document) -> Response:
    response = respond(document)
    response.headers["Cache-Control"] = "no-store"
    return response


def respond(document: Document, status: int = HTTPStatus.OK) -> Response:
    """Answer with a document."""
    # ASCII only: a sender's text may hold a lone surrogate, which UTF-8 cannot encode.
    return Response(json.dumps(document), status, content_type="application/json")


def _secret(value: str | None) -> Secret | None:
    return None if value is None else Secret(value)


def _cursor(written: str) -> Cursor:
    try:
        return Cursor.read(written)
    except CursorError as error:
        raise _wrong_cursor(error) from None


def _wrong_cursor(error: CursorError) -> ProblemError:
    return ProblemError(422, "invalid", str(error), errors=[{"field": "cursor", "message": str(error)}])
