"""The OpenAPI document is valid, and describes just the endpoints that there are."""

import re
from uuid import UUID

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from app.server.rsgi_to_wsgi import REJECT_STATUS
from tests.integration.http_client import HttpClient


def test_the_document_is_valid_openapi(http: HttpClient) -> None:
    OpenAPIV31SpecValidator(http.description()).validate()


def test_the_document_has_just_the_routes_of_the_application(http: HttpClient) -> None:
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)_id>", r"{\1Id}", rule.rule), method.lower())
        for rule in http.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = {(path, method) for path, methods in http.description()["paths"].items() for method in methods}
    assert described == routes


def test_every_operation_has_a_name_of_its_own_and_says_whether_it_needs_a_key(http: HttpClient) -> None:
    operations = [each for methods in http.description()["paths"].values() for each in methods.values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
    open_endpoints = {each["operationId"] for each in operations if not each["security"]}
    assert open_endpoints == {
        "getHealthz",
        "getReadyz",
        "getVersion",
        "getOpenapiJson",
        "postAlipayNotifyAuthorization",
    }


@pytest.mark.parametrize("status", [400, 408, 431, 503])
def test_what_the_server_refuses_of_any_request_is_described_for_every_operation(http: HttpClient, status: int) -> None:
    for path, operations in http.description()["paths"].items():
        for method in operations:
            asked = path.format(authorizationId=UUID(int=1), deliveryId=1)
            refused = http.app.test_client().open(asked, method=method, environ_overrides={REJECT_STATUS: status})
            assert refused.status_code == status
            http.check_against_description(method, asked, refused)


def test_another_method_is_described_for_every_operation(http: HttpClient) -> None:
    for path, operations in http.description()["paths"].items():
        asked = path.format(authorizationId=UUID(int=1), deliveryId=1)
        refused = http.app.test_client().open(asked, method="PATCH")
        assert refused.status_code == 405
        for method in operations:
            http.check_against_description(method, asked, refused)
