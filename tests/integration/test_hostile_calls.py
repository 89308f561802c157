"""Every operation of the description, called with what it allows and with what it does not, answers as described."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
import schemathesis
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from hypothesis import HealthCheck, settings

from app import create_app
from app.alipay.keyring import load_private_key
from app.limits import LONG_POLL_SECONDS_MAX
from app.long_polling import LongPolling
from app.reports import CLIENT_ID_CHARACTERS_MAX
from app.simulator.keys import SANDBOX_CLIENT_ID, SIMULATOR_KEY_NAME
from app.web.request_models import CURSOR, FEED_CURSOR
from tests.builders import an_environ
from tests.gateway import CONSULTED, REVOKED, TOKEN, a_gateway, answers
from tests.integration.calling_http import calls_made, keyring_with_gateway
from tests.integration.http_client import API_KEY, HttpClient
from tests.receiver import Behavior, Handler

UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Anywhere:
    """Any of several applications: a test says which."""

    def __init__(self) -> None:
        self.app = create_app(an_environ("sqlite:////nowhere", Path("nowhere")))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self.app(environ, start_response)


#: The description is the same whatever the database, and needed before there is one.
anywhere = Anywhere()
description = schemathesis.openapi.from_wsgi("/openapi.json", anywhere).include(path_regex="^/v1/")


description.config.generation.update(with_security_parameters=False)

KEY = {"Authorization": f"Bearer {API_KEY}"}


def as_alipay(key: RSAPrivateKey) -> Behavior:
    """Do whatever is asked for, with another token each time."""

    def answer(handler: Handler) -> None:
        token = {name: f"{name}-{uuid4()}" for name in ("accessToken", "refreshToken")}
        documents: dict[str, Mapping[str, Any]] = {
            "consult": CONSULTED,
            "applyToken": {**TOKEN, **token},
            "revoke": REVOKED,
        }
        answers(key, documents[handler.path.rpartition("/")[2]], client_id=SANDBOX_CLIENT_ID)(handler)

    return answer


@pytest.fixture
def http(postgresql_url: str, keyring_path: Path, tmp_path: Path) -> Iterator[HttpClient]:
    """A service on the stricter of the databases, which refuses what the other one stores, with a gateway to call."""
    alipay_key = load_private_key(keyring_path.with_name(SIMULATOR_KEY_NAME).read_bytes())
    with a_gateway() as (gateway, url):
        gateway.behave = as_alipay(alipay_key)
        keyring_path = keyring_with_gateway(keyring_path, tmp_path, url)
        http = HttpClient(create_app(an_environ(postgresql_url, keyring_path, FLASK_API_KEYS=API_KEY)), keyring_path)
        # A call is answered within milliseconds here.
        http.service.long_polling = LongPolling(seconds_between_looks=0.01)
        with calls_made(http.service):
            yield http
        http.service.database.close()


@pytest.fixture
def known(http: HttpClient) -> list[str]:
    """The ids of authorizations in every state."""
    documents = [http.consult(f"s-{number}") for number in range(4)]
    for number, document in enumerate(documents):
        token = {"accessToken": f"token-{number}", "authCode": f"code-{number}"}
        reports = [("authcode", {"authCode": f"code-{number}"}), ("tokens", token), ("canceled", {})]
        for report, body in reports[:number]:
            assert http.post(http.at(document, report), body).status_code == 200
    anywhere.app = http.app
    return [document["id"] for document in documents]


@description.parametrize()
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_answer_is_as_described(case: schemathesis.Case[Any], known: list[str]) -> None:
    # An id that is one, but of nothing, becomes one of something: else there would be nothing to see but 404.
    asked = case.path_parameters.get("authorizationId", "")
    if UUID.fullmatch(str(asked)):
        case.path_parameters["authorizationId"] = known[int(asked[:8], 16) % len(known)]
    # Which clients there are is for the keyring to say, not for the description.
    if isinstance(case.body, dict) and isinstance(client_id := case.body.get("clientId"), str):
        case.body["clientId"] = SANDBOX_CLIENT_ID if 0 < len(client_id) <= CLIENT_ID_CHARACTERS_MAX else client_id
    # Nobody is to wait here.
    if str((case.query or {}).get("wait")).isdecimal() and int(case.query["wait"]) <= LONG_POLL_SECONDS_MAX:
        case.query["wait"] = "0"
    # Which events there are is for the feed to say.
    if re.fullmatch(FEED_CURSOR, str((case.query or {}).get("after"))):
        case.query["after"] = "0"
    # Where a listing goes on is for the listing to say that wrote the cursor: each order has others.
    if (case.method, case.path) == ("GET", "/v1/authorizations") and re.fullmatch(
        CURSOR, str((case.query or {}).get("cursor"))
    ):
        del case.query["cursor"]
    case.call_and_validate(headers=KEY)
