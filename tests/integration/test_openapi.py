"""The OpenAPI document is valid, and describes just the endpoints that there are."""

import re

from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.integration.http_client import HttpClient


def test_the_document_is_valid_openapi(http: HttpClient) -> None:
    OpenAPIV31SpecValidator(http.description()).validate()


def test_the_document_has_just_the_routes_of_the_application(http: HttpClient) -> None:
    routes = {
        (re.sub(r"<uuid:authorization_id>", "{authorizationId}", rule.rule), method.lower())
        for rule in http.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = {(path, method) for path, methods in http.description()["paths"].items() for method in methods}
    assert described == routes


def test_every_operation_has_a_name_of_its_own_and_says_whether_it_needs_a_key(http: HttpClient) -> None:
    operations = [each for methods in http.description()["paths"].values() for each in methods.values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
    open_endpoints = {each["operationId"] for each in operations if not each["security"]}
    assert open_endpoints == {"getHealthz", "getReadyz", "getOpenapiJson", "postAlipayNotifyAuthorization"}
