"""The endpoints that call Alipay: a consult, a refresh, a revoke.

A request begins a call, which the background worker makes, and waits for its end without a thread.
"""

import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar
from uuid import UUID, uuid4

from flask import Blueprint, Response, current_app, g, url_for
from sqlalchemy.orm import Session

from app import call_statements, calls
from app.alipay.call_answers import read_consult
from app.alipay.call_requests import ConsultRequest
from app.alipay.wallets import meant_wallet
from app.authorizations import Cause
from app.database import Database
from app.documents import Document
from app.gateway import requests
from app.gateway.endings import remedy
from app.gateway.requests import AskedConsult
from app.leases import CALLS, is_held
from app.long_polling import Found
from app.models import Call
from app.reports import Consult
from app.state_machine import Flow
from app.unit_of_work import UnitOfWork
from app.vocabulary import CallKind, CallStatus, CauseKind
from app.web.api import respond, whole_document
from app.web.bearer import require_key
from app.web.problems import ProblemError
from app.web.request_models import ConsultCallBody, NoBody, read_body
from app.web.waiting import wait_for
from app.wiring import Service

T = TypeVar("T")

_log = logging.getLogger(__name__)

blueprint = Blueprint("calls", __name__, url_prefix="/v1")
blueprint.before_request(require_key)

#: A consult is tried for ten seconds, and its end is seen a moment later.
CONSULT_WAIT_SECONDS = requests.CONSULT_TIME.total_seconds() + 1
#: What is not final by then goes on in the background.
WAIT_SECONDS = 3.5


#: Nothing was asked of Alipay, and what was to be had is there.
_CAME_OTHERWISE = {CallKind.REFRESH: calls.REFRESHED_OTHERWISE, CallKind.REVOKE: calls.CANCELED_OTHERWISE}


@dataclass(frozen=True, slots=True)
class _LookForEnds:
    """Finds out which of these calls have ended."""

    database: Database

    def __call__(self, ids: Collection[UUID]) -> Mapping[UUID, Found[Call]]:
        ended = self.database.run(partial(call_statements.ended, call_ids=ids), read_only=True)
        return {each.id: Found(each) for each in ended}


@blueprint.post("/consults")
def consult() -> Response:
    """Register a consult and ask the wallet for its page: 201, or 200 if it was asked for before."""
    body = read_body(ConsultCallBody)
    said = Consult(
        auth_state=body.auth_state or uuid4().hex,
        client_id=body.client_id,
        flow=None if body.flow is None else Flow(body.flow),
        user_ref=body.user_ref,
        customer_belongs_to=body.customer_belongs_to,
        merchant_region=body.merchant_region,
    )
    request = ConsultRequest(
        auth_state=said.auth_state,
        customer_belongs_to=body.customer_belongs_to,
        auth_redirect_url=body.auth_redirect_url,
        scopes=tuple(body.scopes),
        auth_client_id=body.auth_client_id,
        auth_notify_url=body.auth_notify_url,
        merchant_region=body.merchant_region,
        terminal_type=body.terminal_type,
        os_type=body.os_type,
        os_version=body.os_version,
        env=body.env,
    )
    meant = meant_wallet(body.customer_belongs_to)
    if meant is not None:
        # Not refused: new wallets come, and Alipay says soon enough whether it knows this one.
        _log.warning("wallet may be misspelt", extra={"wallet": body.customer_belongs_to, "known": meant})
    service = _service()
    ask = partial(requests.ask_consult, keyring=service.keyring, consult=said, request=request, cause=_cause())
    asked = _ask(ask)
    return _wait_for_end(asked.call_id, partial(_consulted, asked, said), seconds=CONSULT_WAIT_SECONDS)


def _consulted(asked: AskedConsult, said: Consult, call: Call | None) -> Response:
    """Answer with where the user agrees, or why there is no such page."""
    if call is None or call.status == CallStatus.UNDETERMINED or (call.result_code is None and _has_failed(call)):
        why = _why_not_asked(asked) if call is None else call.reason
        late = "Alipay has not answered the consult in time."
        detail = " ".join(filter(None, (late, why, "Send the same request again, with this authState.")))
        members = {"authState": said.auth_state, "authorizationId": str(asked.recorded.authorization_id)}
        raise ProblemError(HTTPStatus.GATEWAY_TIMEOUT, "no-answer", detail, members=members)
    if _has_failed(call):
        raise _refused(call, wallet=said.customer_belongs_to)
    if call.status == CallStatus.UNNEEDED:
        raise _unneeded(call)
    answer = read_consult(json.loads(calls.answer(_service().vault, call) or "{}"))
    authorization_id = asked.recorded.authorization_id
    document = {
        **whole_document(authorization_id),
        "normalUrl": answer.normal_url,
        "schemeUrl": answer.scheme_url,
        "applinkUrl": answer.applink_url,
        "appIdentifier": answer.app_identifier,
        "authCodeForm": _form(answer.code_details),
    }
    response = respond(document, HTTPStatus.CREATED if asked.recorded.created else HTTPStatus.OK)
    # A URL works once, for any bearer of it.
    response.headers["Cache-Control"] = "no-store"
    if asked.recorded.created:
        response.headers["Location"] = url_for("api.show", authorization_id=authorization_id)
    return response


def _why_not_asked(asked: AskedConsult) -> str | None:
    """Say that no background worker runs, where that is why a call was not begun in time, and log it."""

    def is_left(session: Session) -> bool:
        call = call_statements.find(session, asked.call_id)
        return call is not None and call.attempts == 0 and not is_held(session, CALLS, now=datetime.now(UTC))

    if not _service().database.run(is_left, read_only=True):
        return None
    fields = {"call": asked.call_id, "authorization": asked.recorded.authorization_id}
    _log.warning("call not begun: no background worker runs", extra=fields)
    return (
        "It was not asked: no background worker runs, and that makes the calls. Start one: flask work, or flask serve "
        "without --no-work."
    )


def _form(details: Collection[Any]) -> Document | None:
    if not details:
        return None
    return {"codeDetails": [{"displayType": each.display_type, "codeValue": each.code_value} for each in details]}


@blueprint.post("/authorizations/<uuid:authorization_id>/refresh")
def refresh(authorization_id: UUID) -> Response:
    """Refresh the token now: 200 once that is done, 202 while it is not."""
    read_body(NoBody)
    call_id = _ask(partial(requests.ask_refresh, authorization_id=authorization_id, cause=_cause()))
    return _wait_for_end(call_id, partial(_called, authorization_id), seconds=WAIT_SECONDS)


@blueprint.post("/authorizations/<uuid:authorization_id>/revoke")
def revoke(authorization_id: UUID) -> Response:
    """Revoke the token: 200 once it is gone, 202 while that is not known. It is given to nobody from now on."""
    read_body(NoBody)
    call_id = _ask(partial(requests.ask_revoke, authorization_id=authorization_id, cause=_cause()))
    if call_id is None:
        return respond(whole_document(authorization_id))
    return _wait_for_end(call_id, partial(_called, authorization_id), seconds=WAIT_SECONDS)


def _called(authorization_id: UUID, call: Call | None) -> Response:
    if call is None:
        return respond(whole_document(authorization_id), HTTPStatus.ACCEPTED)
    if call.status == CallStatus.UNDETERMINED:
        detail = f"{call.reason or 'Alipay may have done it.'} It is not repeated."
        raise ProblemError(HTTPStatus.GATEWAY_TIMEOUT, "no-answer", detail)
    if _has_failed(call):
        raise _refused(call)
    if call.status == CallStatus.UNNEEDED and call.reason != _CAME_OTHERWISE[CallKind(call.kind)]:
        raise _unneeded(call)
    return respond(whole_document(authorization_id))


def _unneeded(call: Call) -> ProblemError:
    return ProblemError(HTTPStatus.CONFLICT, "call-unneeded", f"Alipay was not asked. {call.reason}")


def _has_failed(call: Call) -> bool:
    return call.status == CallStatus.FAILED


def _refused(call: Call, *, wallet: str | None = None) -> ProblemError:
    to_do, meant = remedy(call.kind, call.result_code), meant_wallet(wallet or "")
    if meant is not None:
        to_do = f"{to_do} customerBelongsTo may be misspelt: {meant} is a wallet that is known."
    members = {"resultCode": call.result_code or "", "remedy": to_do}
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "call-refused", call.reason or "", members=members)


def _ask(ask: Callable[[UnitOfWork], T]) -> T:
    return _service().receiver.run_work(ask)


def _wait_for_end(call_id: UUID, answer: Callable[[Call | None], Response], *, seconds: float) -> Response:
    look = _LookForEnds(_service().database)
    ended = look([call_id]).get(call_id)
    if ended is not None:
        return answer(ended.value)
    return wait_for(look, call_id, lambda found, _key: answer(found), seconds=seconds)


def _cause() -> Cause:
    return Cause(CauseKind.API, at=datetime.now(UTC), by=g.key_name)


def _service() -> Service:
    service: Service = current_app.extensions["notifyauth"]
    return service
