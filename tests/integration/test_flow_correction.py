"""A flow that no consult named can be corrected until a code or a token comes; a canceled authorization is final."""

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import text

from app.report_errors import AlreadyCanceledError, ConsultContradictedError, FlowFollowedError
from app.simulator.draft import authcode_created, token_canceled, token_created
from tests.builders import CLIENT_ID
from tests.integration.http_client import AUTHORIZATIONS, HttpClient, problem
from tests.integration.stage import Stage, a_stage
from tests.integration.test_consistency import inconsistencies


def test_an_unsaid_flow_is_corrected_on_record_and_what_was_parked_is_resumed(stage: Stage) -> None:
    stage.consult()
    stage.notify(token_created("s-1", "token-1"))
    assert stage.outcomes() == [("parked", "early")]
    stage.consult(flow="direct")
    assert stage.moves() == [
        (1, "consult", None, "consulted"),
        (2, "consult", "consulted", "consulted"),
        (3, "token_created", "consulted", "token_active"),
    ]
    corrected = stage.document()["history"][1]
    assert (corrected["cause"], corrected["reason"]) == ("api", "flow corrected from auto_debit to direct")
    assert stage.outcomes() == [("applied", None)]
    assert stage.document()["flow"] == "direct"
    assert inconsistencies(stage) == []


def test_what_waits_for_a_parked_token_is_resumed_with_it_once_the_flow_is_corrected(stage: Stage) -> None:
    stage.notify(token_created("s-1", "token-1"))
    stage.notify(token_canceled("token-1"))
    stage.consult()
    stage.consult(flow="direct")
    assert stage.state() == "canceled"
    assert inconsistencies(stage) == []


def test_a_code_that_was_illegal_in_the_default_flow_is_applied_once_the_flow_is_corrected(
    database_url: str, alipay_key: RSAPrivateKey
) -> None:
    """It was acknowledged, so it must not be lost by a wrong setting."""
    stage = a_stage(database_url, alipay_key, clients={CLIENT_ID: "direct"})
    stage.consult()
    assert stage.notify(authcode_created("s-1", "code-1")).outcome == "rejected"
    stage.consult(flow="auto_debit")
    assert stage.outcomes() == [("applied", None)]
    assert stage.auth_code("s-1") == "code-1"
    stage.notify(token_created("s-1", "token-1"))
    assert stage.state() == "token_active"
    assert inconsistencies(stage) == []
    stage.database.close()


def test_a_flow_that_was_said_contradicts_another(stage: Stage) -> None:
    stage.consult()
    stage.consult(flow="direct")
    stage.consult(flow="direct")
    with pytest.raises(ConsultContradictedError):
        stage.consult(flow="auto_debit")
    assert len(stage.moves()) == 2


def test_naming_the_default_flow_makes_it_final(stage: Stage) -> None:
    stage.consult()
    stage.consult(flow="auto_debit")
    with pytest.raises(ConsultContradictedError):
        stage.consult(flow="direct")
    assert len(stage.moves()) == 1


@pytest.mark.parametrize("by", ["code", "token"])
def test_a_flow_that_was_followed_can_no_longer_be_corrected(
    database_url: str, alipay_key: RSAPrivateKey, by: str
) -> None:
    stage = a_stage(database_url, alipay_key, clients={CLIENT_ID: "auto_debit" if by == "code" else "direct"})
    stage.consult()
    stage.notify(authcode_created("s-1", "code-1") if by == "code" else token_created("s-1", "token-1"))
    before = stage.document()
    with pytest.raises(FlowFollowedError):
        stage.consult(flow="direct" if by == "code" else "auto_debit")
    assert stage.document() == before
    stage.database.close()


def test_a_consult_that_corrects_the_flow_and_contradicts_otherwise_changes_nothing(stage: Stage) -> None:
    stage.consult(user_ref="u-1")
    before = stage.document()
    with pytest.raises(ConsultContradictedError):
        stage.consult(flow="direct", user_ref="u-2")
    assert stage.document() == before


def test_a_flow_recorded_before_it_was_known_whether_it_was_said_can_be_corrected(stage: Stage) -> None:
    """Authorizations that wait for the correction were consulted with the release before."""
    stage.consult(flow="auto_debit")
    stage.database.run(lambda session: session.execute(text("UPDATE authorizations SET flow_was_said = NULL")))
    stage.consult(flow="direct")
    assert stage.document()["flow"] == "direct"


# --- canceled ---


def cancel(stage: Stage) -> None:
    stage.notify(token_created("s-1", "token-1"))
    stage.notify(token_canceled("token-1"))


@pytest.mark.parametrize("said", [{}, {"flow": "direct"}, {"flow": "auto_debit"}, {"user_ref": "u-2"}])
def test_a_consult_for_a_canceled_auth_state_is_refused_even_if_it_is_the_same(
    stage: Stage, said: dict[str, str]
) -> None:
    stage.consult(flow="direct")
    cancel(stage)
    before = stage.document()
    with pytest.raises(AlreadyCanceledError):
        stage.consult(**said)
    assert stage.document() == before


def test_a_consult_for_a_canceled_auth_state_is_409_and_asks_for_a_new_one(http: HttpClient) -> None:
    http.consult(flow="direct")
    http.notify(token_created("s-1", "token-1"))
    http.notify(token_canceled("token-1"))
    refused = http.post(AUTHORIZATIONS, {"authState": "s-1", "flow": "direct"})
    assert problem(refused) == (409, "canceled")
    assert "new authState" in refused.get_json()["detail"]


def test_a_first_consult_that_leads_straight_to_canceled_is_created(http: HttpClient) -> None:
    http.notify(token_canceled("token-1"))
    http.notify(token_created("s-1", "token-1"))
    created = http.post(AUTHORIZATIONS, {"authState": "s-1", "flow": "direct"})
    assert (created.status_code, created.get_json()["state"]) == (201, "canceled")
