"""What the merchant reports: recorded once, refused where it contradicts, resumed like a notification."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.report_errors import (
    AuthorizationNotFoundError,
    ClientNotInKeyringError,
    ClientNotNamedError,
    ConsultContradictedError,
    EarlyReportError,
    ForeignTokenError,
    IllegalReportError,
    NothingToReplaceError,
    ReplacedOtherwiseError,
    TokenContradictedError,
)
from app.reports import Consult
from app.simulator.draft import token_created
from app.vocabulary import CauseKind
from tests.builders import CLIENT_ID
from tests.integration.stage import Stage, a_stage

NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)
EASTER = datetime(2027, 3, 28, tzinfo=UTC)


def test_the_same_consult_again_changes_nothing(stage: Stage) -> None:
    assert stage.consult(user_ref="u-1") == stage.consult(user_ref="u-1")
    assert len(stage.moves()) == 1


def test_an_absent_field_never_contradicts_and_is_filled_in_later(stage: Stage) -> None:
    stage.consult(user_ref="u-1")
    stage.consult(customer_belongs_to="GCASH")
    stage.consult()
    document = stage.document()
    assert (document["userRef"], document["customerBelongsTo"]) == ("u-1", "GCASH")


@pytest.mark.parametrize("said", [{"user_ref": "u-2"}, {"flow": "direct"}, {"customer_belongs_to": "DANA"}])
def test_a_contradicting_consult_is_refused_and_changes_nothing(stage: Stage, said: dict[str, str]) -> None:
    stage.consult(user_ref="u-1", customer_belongs_to="GCASH", flow="auto_debit")
    before = stage.document()
    with pytest.raises(ConsultContradictedError):
        stage.consult(**said)
    assert stage.document() == before


def test_the_flow_is_the_clients_default_unless_said(sqlite_url: str, alipay_key: RSAPrivateKey) -> None:
    stage = a_stage(sqlite_url, alipay_key, clients={CLIENT_ID: "direct"})
    stage.consult("s-1")
    stage.consult("s-2", flow="auto_debit")
    assert (stage.document("s-1")["flow"], stage.document("s-2")["flow"]) == ("direct", "auto_debit")


def test_a_consult_need_not_name_the_only_client(stage: Stage) -> None:
    stage.consult(client_id=None)
    assert stage.document()["clientId"] == CLIENT_ID


def test_a_consult_must_name_one_of_several_clients(sqlite_url: str, alipay_key: RSAPrivateKey) -> None:
    stage = a_stage(sqlite_url, alipay_key, clients={"A": "direct", "B": "direct"})
    with pytest.raises(ClientNotNamedError):
        stage.receiver.record(Consult("s-1"), cause=CauseKind.API)


def test_a_consult_for_a_client_whose_notifications_could_not_be_verified_is_refused(stage: Stage) -> None:
    with pytest.raises(ClientNotInKeyringError):
        stage.consult(client_id="STRANGER")


def test_a_report_about_nothing_is_refused(stage: Stage) -> None:
    with pytest.raises(AuthorizationNotFoundError):
        stage.report_authcode(uuid4())


def test_a_token_reported_with_its_code_records_the_code_step_too(stage: Stage) -> None:
    stage.report_token(stage.consult(), "token-1", auth_code="code-1")
    assert [event for _, event, _, _ in stage.moves()] == ["consult", "authcode_created", "token_created"]


def test_a_token_reported_without_its_code_is_early(stage: Stage) -> None:
    authorization_id = stage.consult()
    with pytest.raises(EarlyReportError):
        stage.report_token(authorization_id, "token-1")
    assert stage.state() == "consulted"


def test_the_same_token_reported_again_adds_what_was_unsaid(stage: Stage) -> None:
    authorization_id = stage.consult(flow="direct")
    stage.notify(token_created("s-1", "token-1"))
    assert stage.report_token(authorization_id, "token-1", access_token_expires_at=NEW_YEAR).changed
    assert not stage.report_token(authorization_id, "token-1", access_token_expires_at=NEW_YEAR).changed
    assert not stage.report_token(authorization_id, "token-1").changed
    with pytest.raises(TokenContradictedError):
        stage.report_token(authorization_id, "token-1", access_token_expires_at=EASTER)


def test_another_token_than_the_one_on_record_is_refused(stage: Stage) -> None:
    authorization_id = stage.consult()
    stage.report_token(authorization_id, "token-1", auth_code="code-1")
    with pytest.raises(IllegalReportError):
        stage.report_token(authorization_id, "token-2")


def test_a_token_of_another_authorization_is_refused(stage: Stage) -> None:
    stage.report_token(stage.consult("s-1"), "token-1", auth_code="code-1")
    second = stage.consult("s-2")
    with pytest.raises(ForeignTokenError):
        stage.report_token(second, "token-1", auth_code="code-2")
    assert stage.state("s-2") == "consulted"


def test_a_refresh_replaces_the_current_token_and_is_recorded(stage: Stage) -> None:
    authorization_id = stage.consult()
    stage.report_token(authorization_id, "token-1", auth_code="code-1")
    assert stage.report_token(authorization_id, "token-2", replaces="token-1").changed
    assert not stage.report_token(authorization_id, "token-2", replaces="token-1").changed
    assert stage.moves()[-1] == (4, "token_refreshed", "token_active", "token_active")


def test_an_old_refresh_reported_again_changes_nothing(stage: Stage) -> None:
    authorization_id = stage.consult()
    stage.report_token(authorization_id, "token-1", auth_code="code-1")
    stage.report_token(authorization_id, "token-2", replaces="token-1")
    stage.report_token(authorization_id, "token-3", replaces="token-2")
    assert not stage.report_token(authorization_id, "token-2", replaces="token-1").changed
    assert len(stage.moves()) == 5


def test_a_refresh_that_only_prolongs_the_token_is_recorded_once(stage: Stage) -> None:
    authorization_id = stage.consult()
    stage.report_token(authorization_id, "token-1", auth_code="code-1", access_token_expires_at=NEW_YEAR)
    for _ in range(2):
        stage.report_token(authorization_id, "token-1", replaces="token-1", access_token_expires_at=EASTER)
    assert [event for _, event, _, _ in stage.moves()].count("token_refreshed") == 1


def test_a_superseded_token_cannot_be_prolonged(stage: Stage) -> None:
    authorization_id = stage.consult()
    stage.report_token(authorization_id, "token-1", auth_code="code-1", access_token_expires_at=NEW_YEAR)
    stage.report_token(authorization_id, "token-2", replaces="token-1")
    before = stage.document()
    with pytest.raises(TokenContradictedError):
        stage.report_token(authorization_id, "token-1", replaces="token-1", access_token_expires_at=EASTER)
    assert stage.document() == before


def test_a_refresh_of_a_token_that_never_was_is_refused(stage: Stage) -> None:
    authorization_id = stage.consult()
    stage.report_token(authorization_id, "token-1", auth_code="code-1")
    with pytest.raises(NothingToReplaceError):
        stage.report_token(authorization_id, "token-3", replaces="token-2")


@pytest.mark.parametrize(("token", "replaces"), [("token-3", "token-1"), ("token-1", "token-2")])
def test_a_refresh_that_contradicts_the_one_on_record_is_refused(stage: Stage, token: str, replaces: str) -> None:
    authorization_id = stage.consult()
    stage.report_token(authorization_id, "token-1", auth_code="code-1")
    stage.report_token(authorization_id, "token-2", replaces="token-1")
    with pytest.raises(ReplacedOtherwiseError):
        stage.report_token(authorization_id, token, replaces=replaces)


def test_a_canceled_authorization_cannot_be_refreshed(stage: Stage) -> None:
    authorization_id = stage.consult()
    stage.report_token(authorization_id, "token-1", auth_code="code-1")
    stage.report_canceled(authorization_id)
    with pytest.raises(IllegalReportError):
        stage.report_token(authorization_id, "token-2", replaces="token-1")
    assert stage.state() == "canceled"


def test_a_revoke_is_recorded_once(stage: Stage) -> None:
    authorization_id = stage.consult()
    stage.report_token(authorization_id, "token-1", auth_code="code-1")
    assert stage.report_canceled(authorization_id, "the user asked us to").changed
    assert not stage.report_canceled(authorization_id).changed
    assert stage.moves()[-1] == (4, "token_canceled", "token_active", "canceled")


def test_a_revoke_without_a_token_is_early(stage: Stage) -> None:
    authorization_id = stage.consult()
    with pytest.raises(EarlyReportError):
        stage.report_canceled(authorization_id)
