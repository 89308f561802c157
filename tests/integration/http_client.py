"""A client of the HTTP endpoints, in this process. Every response is checked against the OpenAPI document."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flask import Flask
from jsonschema import Draft202012Validator, FormatChecker
from werkzeug.test import TestResponse

from app.simulator.draft import Draft
from app.simulator.sender import headers_of
from app.wiring import Service
from tests.builders import a_genuine_delivery

API_KEY = "an-api-key"
NOTIFY_PATH = "/alipay/notifyAuthorization"
AUTHORIZATIONS = "/v1/authorizations"


@dataclass
class HttpClient:
    """Calls the endpoints of one application."""

    app: Flask
    keyring_path: Path
    #: The OpenAPI document, once it is needed.
    _described: dict[str, Any] = field(default_factory=dict)

    @property
    def service(self) -> Service:
        service: Service = self.app.extensions["notifyauth"]
        return service

    # --- Alipay ---

    def notify(
        self, notification: Draft | bytes, *, query: str = "", signed_path: str = NOTIFY_PATH, path: str = NOTIFY_PATH
    ) -> TestResponse:
        uri = f"{signed_path}?{query}" if query else signed_path
        delivery = a_genuine_delivery(self.keyring_path, notification, uri=uri)
        return self.app.test_client().post(
            path, query_string=query, data=delivery.body, headers=dict(headers_of(delivery))
        )

    # --- the merchant ---

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = API_KEY,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
    ) -> TestResponse:
        """Call the merchant's interface, and check the response against its description."""
        if body is not None:
            data = json.dumps(body).encode()
        sent = {} if key is None else {"Authorization": f"Bearer {key}"}
        response = self.app.test_client().open(
            path, method=method, data=data, content_type="application/json", headers={**sent, **(headers or {})}
        )
        self.check_against_description(method, path, response)
        return response

    def get(self, path: str, **options: Any) -> TestResponse:  # noqa: ANN401 -- those of `call`
        return self.call("GET", path, **options)

    def post(self, path: str, body: object = None, **options: Any) -> TestResponse:  # noqa: ANN401 -- those of `call`
        return self.call("POST", path, body, **options)

    def consult(self, auth_state: str = "s-1", **said: str) -> dict[str, Any]:
        response = self.post(AUTHORIZATIONS, {"authState": auth_state, **said})
        assert response.status_code in {200, 201}, response.text
        document: dict[str, Any] = response.get_json()
        return document

    def at(self, document: Mapping[str, Any], *rest: str) -> str:
        """The path of an authorization, or of something of it."""
        return "/".join([AUTHORIZATIONS, document["id"], *rest])

    # --- the description ---

    def description(self) -> dict[str, Any]:
        if not self._described:
            self._described = self.app.test_client().get("/openapi.json").get_json()
        return self._described

    def check_against_description(self, method: str, path: str, response: TestResponse) -> None:
        """Require that the description has this response to this request: its status, headers and document."""
        described = self.description()
        for template, operations in described["paths"].items():
            pattern = re.sub(r"\{\w+\}", "[^/]+", template)
            if re.fullmatch(pattern, path.partition("?")[0]) and method.lower() in operations:
                answers = operations[method.lower()]["responses"]
                assert str(response.status_code) in answers, (method, path, response.status_code, response.text)
                answer = answers[str(response.status_code)]
                assert set(answer["headers"]) <= set(response.headers.keys())
                content = answer.get("content")
                if content is not None:
                    schema = {**content[response.mimetype]["schema"], "components": described["components"]}
                    Draft202012Validator(schema, format_checker=FormatChecker()).validate(response.get_json())


def problem(response: TestResponse) -> tuple[int, str]:
    """The status and code of a problem document."""
    assert response.mimetype == "application/problem+json"
    document = response.get_json()
    assert document["status"] == response.status_code
    return document["status"], document["code"]
