"""The service's own caller and the pretend gateway understand each other: what is done, refused, or not known."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from app.alipay import call
from app.alipay.call import Caller, Done, Refused, Unknown
from app.alipay.call_requests import exchange_body
from app.alipay.keyring import Gateway
from app.secret import Secret
from app.simulator.gateway.faults import Fault
from tests.builders import CLIENT_ID
from tests.unit.simulator.gateway.conftest import Stage
from tests.unit.simulator.gateway.test_life import a_code

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def exchanged(stage: Stage, *faults: str) -> Done | Refused | Unknown:
    """What the service makes of an exchange that suffers faults."""
    code = a_code(stage)
    stage.gateway.faults.add(map(Fault.parse, faults))
    client = replace(stage.keyring.client(CLIENT_ID), gateway=Gateway(stage.gateway.url, exchange=True, refresh=True))
    caller = Caller(client)
    try:
        body = exchange_body(Secret(code), customer_belongs_to="GCASH")
        return caller.call(call.Operation.APPLY_TOKEN, body, now=NOW)
    finally:
        caller.close()


def test_what_is_done_names_the_token(stage: Stage) -> None:
    done = exchanged(stage)
    assert isinstance(done, Done)
    assert done.answer["accessToken"] == stage.gateway.ledger.alive_tokens()[0].access_token


@pytest.mark.parametrize("fault", ["refused:exchange:code=SYSTEM_ERROR", "refused-unsigned:exchange:code=SYSTEM_ERROR"])
def test_what_is_refused_names_the_code(stage: Stage, fault: str) -> None:
    refused = exchanged(stage, fault)
    assert isinstance(refused, Refused)
    assert refused.code == "SYSTEM_ERROR"


@pytest.mark.parametrize(
    "fault",
    [
        "unknown",
        "in-process",
        "error-500",
        "cut-before",
        "unknown-done",
        "cut-after",
        "unsigned",
        "half-signed",
        "bad-signature",
        "replayed-signature",
        "other-client",
        "huge",
        "endless",
        "html",
        "not-json",
        "redirect",
    ],
)
def test_no_other_answer_is_believed(stage: Stage, fault: str) -> None:
    assert isinstance(exchanged(stage, fault), Unknown)
    assert stage.gateway.ledger.answered_tokens() == ()
