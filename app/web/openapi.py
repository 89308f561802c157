"""OpenAPI 3.1: the description of the endpoints, generated from the models that check requests."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, current_app
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.release import version
from app.web import request_models, response_models
from app.web.notification_description import notification
from app.web.webhook_descriptions import webhooks
from app.wiring import Service

blueprint = Blueprint("openapi", __name__)

_ID = "/v1/authorizations/{authorizationId}"
_DELIVERY = "/v1/deliveries/{deliveryId}"
#: The parameters in paths.
_IDS: Mapping[str, dict[str, str]] = {
    "authorizationId": {"type": "string", "format": "uuid"},
    "deliveryId": {"type": "string", "pattern": request_models.DELIVERY_ID},
}

#: The statuses that any request can be refused with: by the server, for a body in too many pieces or too late, a head
#: that is too large or a queue that is full; and for another method.
_OF_ANY_REQUEST = (400, 405, 408, 431, 503)

#: The headers of responses, as OpenAPI describes them.
_HEADERS = {
    "X-Request-Id": {
        "description": "The id that the request brought, if it is well-formed, or one of ours: it is in the log.",
        "required": True,
        "schema": {"type": "string"},
    }
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    summary: str
    #: The responses of success, by status.
    responses: Mapping[int, type[BaseModel] | None]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    #: The statuses that it is refused with, besides those of any request, and the form in which that is said.
    problems: tuple[int, ...] = ()
    problem: type[BaseModel] = response_models.Problem
    needs_key: bool = True
    tags: tuple[str, ...] = field(default=("authorizations",))
    #: What else OpenAPI is to say of it.
    more: Mapping[str, Any] = field(default_factory=dict)


def operations(notify_path: str) -> list[Operation]:
    """List what the service answers; a test compares it with the routes."""
    whole = {200: response_models.AuthorizationDocument}
    report = (400, 401, 404, 409, 413, 422, 503)
    return [
        Operation(
            "post",
            "/v1/authorizations",
            "Register a consult",
            {201: response_models.AuthorizationDocument, 200: response_models.AuthorizationDocument},
            body=request_models.ConsultBody,
            problems=(400, 401, 409, 413, 422, 503),
        ),
        Operation(
            "get",
            "/v1/authorizations",
            "List authorizations, newest first, or those whose token ends soonest",
            {200: response_models.Page},
            query=request_models.ListQuery,
            problems=(401, 403, 422, 503),
        ),
        Operation("get", _ID, "Show an authorization", whole, problems=(401, 404, 503)),
        Operation(
            "get",
            f"{_ID}/evidence",
            "Read what proves its moves to somebody else",
            {200: response_models.EvidenceDocument},
            problems=(401, 403, 404, 503),
        ),
        Operation(
            "post",
            "/v1/tokens/search",
            "Find what names an access token",
            {200: response_models.TokenSearchDocument},
            body=request_models.TokenSearchBody,
            problems=(400, 401, 413, 422, 503),
        ),
        Operation(
            "get",
            f"{_ID}/authcode",
            "Read the auth code, within its minute, and wait for it",
            {200: response_models.AuthcodeDocument},
            query=request_models.WaitQuery,
            problems=(401, 403, 404, 409, 422, 503),
        ),
        Operation(
            "post",
            f"{_ID}/authcode",
            "Report the auth code of the redirect",
            whole,
            body=request_models.AuthcodeBody,
            problems=report,
        ),
        Operation(
            "get",
            f"{_ID}/token",
            "Read the token of an active authorization",
            {200: response_models.TokenDocument},
            problems=(401, 403, 404, 409, 503),
        ),
        Operation(
            "post",
            f"{_ID}/tokens",
            "Report the token of applyToken, or of a refresh",
            {200: response_models.TokenReportDocument},
            body=request_models.TokenBody,
            problems=report,
        ),
        Operation(
            "post", f"{_ID}/canceled", "Report a revoke", whole, body=request_models.CanceledBody, problems=report
        ),
        Operation(
            "post",
            f"{_ID}/payment-results",
            "Report what a charge was answered",
            whole,
            body=request_models.PaymentResultBody,
            problems=report,
        ),
        Operation(
            "post",
            "/v1/consults",
            "Consult: ask the wallet for the page where the user agrees",
            {201: response_models.ConsultDocument, 200: response_models.ConsultDocument},
            body=request_models.ConsultCallBody,
            problems=(400, 401, 409, 413, 422, 503, 504),
            tags=("calls",),
        ),
        Operation(
            "post",
            f"{_ID}/refresh",
            "Refresh the token now",
            {200: response_models.AuthorizationDocument, 202: response_models.AuthorizationDocument},
            body=request_models.NoBody,
            problems=(*report, 504),
            tags=("calls",),
        ),
        Operation(
            "post",
            f"{_ID}/revoke",
            "Revoke the token",
            {200: response_models.AuthorizationDocument, 202: response_models.AuthorizationDocument},
            body=request_models.NoBody,
            problems=(*report, 504),
            tags=("calls",),
        ),
        Operation(
            "get",
            "/v1/events",
            "Read events in the order of the feed, and wait for more",
            {200: response_models.FeedPage},
            query=request_models.EventsQuery,
            problems=(401, 410, 422, 503),
            tags=("events",),
        ),
        Operation(
            "get",
            "/v1/deliveries",
            "List deliveries of webhooks, newest first",
            {200: response_models.DeliveryPage},
            query=request_models.DeliveriesQuery,
            problems=(401, 422, 503),
            tags=("events",),
        ),
        Operation(
            "get",
            _DELIVERY,
            "Show a delivery with its attempts",
            {200: response_models.DeliveryDocument},
            problems=(401, 404, 503),
            tags=("events",),
        ),
        Operation(
            "post",
            f"{_DELIVERY}/resend",
            "Tell an endpoint of an event again",
            {201: response_models.DeliveryDocument},
            problems=(401, 404, 409, 503),
            tags=("events",),
        ),
        Operation(
            "post",
            notify_path,
            "Receive a notification of Alipay's",
            {200: response_models.NotificationResponse},
            problems=(401, 413),
            problem=response_models.NotificationResponse,
            needs_key=False,
            tags=("alipay",),
            more=notification(),
        ),
        Operation(
            "get", "/healthz", "Is it alive?", {200: response_models.Alive}, needs_key=False, tags=("operation",)
        ),
        Operation(
            "get",
            "/readyz",
            "Can it work?",
            {200: response_models.Readiness, 503: response_models.Readiness},
            needs_key=False,
            tags=("operation",),
        ),
        Operation(
            "get",
            "/version",
            "Which release is it?",
            {200: response_models.Release},
            needs_key=False,
            tags=("operation",),
        ),
        Operation("get", "/metrics", "Figures for Prometheus", {200: None}, problems=(401,), tags=("operation",)),
        Operation("get", "/openapi.json", "This document", {200: None}, needs_key=False, tags=("operation",)),
    ]


@blueprint.get("/openapi.json")
def document() -> Response:
    """Give the description of every endpoint."""
    service: Service = current_app.extensions["notifyauth"]
    return Response(_document(service.settings.notify_path), content_type="application/json")


@cache
def _document(notify_path: str) -> str:
    listed = operations(notify_path)
    paths: dict[str, Any] = {}
    for operation in listed:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return json.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "notifyauth",
                "version": version(),
                "description": (
                    "Where the authorizations of Alipay's users stand. The server below the service refuses itself, "
                    "without a document and without X-Request-Id: what is no HTTP (400), a URL of more than 64 KiB "
                    "(414), and more than 100 headers or a head whose pieces together are too large (431)."
                ),
            },
            "paths": paths,
            "webhooks": webhooks(),
            "components": {
                "schemas": _schemas(listed),
                "headers": _HEADERS,
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": _operation_id(operation),
        "tags": list(operation.tags),
        "responses": _responses(operation),
        "security": [{"key": []}] if operation.needs_key else [],
    }
    if operation.body is not None:
        needed = any(field.is_required() for field in operation.body.model_fields.values())
        content = {"application/json": {"schema": _reference(operation.body)}}
        described["requestBody"] = {"required": needed, "content": content}
    parameters = _parameters(operation)
    if parameters:
        described["parameters"] = parameters
    return {**described, **operation.more}


def _operation_id(operation: Operation) -> str:
    words = re.sub(r"\{\w+\}", "one", operation.path).replace(".", " ").replace("/", " ").split()
    return operation.method + "".join(word[0].upper() + word[1:] for word in words if word != "v1")


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _IDS[name]}
        for name in re.findall(r"\{(\w+)\}", operation.path)
    ]
    if operation.query is not None:
        schema = operation.query.model_json_schema(ref_template="#/components/schemas/{model}")
        parameters += [_query_parameter(name, each) for name, each in schema["properties"].items()]
    return parameters


def _query_parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Describe a query parameter. A URL cannot say null: an optional parameter is left out."""
    if "anyOf" in schema:
        (schema,) = (each for each in schema["anyOf"] if each.get("type") != "null")
    said = {keyword: schema[keyword] for keyword in schema if keyword not in {"description", "title"}}
    parameter: dict[str, Any] = {"name": name, "in": "query", "required": False, "schema": said}
    if "description" in schema:
        parameter["description"] = schema["description"]
    return parameter


def _responses(operation: Operation) -> dict[str, Any]:
    described = {str(status): _response(status, model) for status, model in operation.responses.items()}
    for status in sorted({*operation.problems, *_OF_ANY_REQUEST}):
        refused = _response(status, operation.problem)
        # A status can have two forms: /readyz says 503 of itself, and the server of a full queue.
        described.setdefault(str(status), refused)["content"] |= refused["content"]
    return described


def _response(status: int, model: type[BaseModel] | None) -> dict[str, Any]:
    described: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS},
    }
    if model is not None:
        media_type = "application/problem+json" if model is response_models.Problem else "application/json"
        described["content"] = {media_type: {"schema": _reference(model)}}
    return described


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _schemas(listed: list[Operation]) -> dict[str, Any]:
    taken = {operation.body for operation in listed if operation.body is not None}
    given = {each for operation in listed for each in operation.responses.values() if each is not None}
    problems = {operation.problem for operation in listed}
    models: list[type[BaseModel]] = sorted(
        taken | given | problems | {response_models.EventDocument}, key=lambda model: model.__name__
    )
    _, schema = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    schemas: dict[str, Any] = schema["$defs"]
    return schemas
