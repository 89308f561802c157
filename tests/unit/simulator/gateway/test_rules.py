"""The rules of the protocol that the pretend gateway keeps: who may ask, what is refused, what dies of what."""

from collections.abc import Callable

import pytest

from app.alipay.notification import NotificationType
from app.simulator.gateway.alipay import CallRefusedError
from app.simulator.gateway.gateway import NothingToDecideError
from app.simulator.gateway.keys import client_keys, why_left_out
from app.simulator.gateway.ledger import TokenEnd
from app.simulator.gateway.requests import ExchangeRequest, RevokeRequest
from app.simulator.sender import Signer
from tests.builders import CLIENT_ID
from tests.unit.simulator.gateway.caller import Caller, code_in
from tests.unit.simulator.gateway.conftest import Stage
from tests.unit.simulator.gateway.test_life import a_code, a_token

SIGNED = {"signature", "response-time"}


@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("revoke", {"signature": "algorithm=RSA256,keyVersion=1,signature=AAAA"}, "INVALID_SIGNATURE"),
        ("revoke", {"signature": ""}, "INVALID_SIGNATURE"),
        ("revoke", {"client-id": "SANDBOX_UNKNOWN"}, "UNKNOWN_CLIENT"),
        ("revoke", {"request-time": "1685599933872"}, "INVALID_SIGNATURE"),
        ("revoke", {"Content-Type": "text/plain"}, "MEDIA_TYPE_NOT_ACCEPTABLE"),
        ("pay", {}, "INVALID_API"),
    ],
)
def test_a_caller_that_is_rejected_gets_an_unsigned_refusal(
    stage: Stage, name: str, change: dict[str, str], code: str
) -> None:
    answered = stage.caller.call(name, {"accessToken": "t"}, **change)
    assert (answered.status, answered.document["result"]["resultStatus"], answered.code) == (200, "F", code)
    assert not SIGNED & set(answered.headers)
    assert [each.code for each in stage.gateway.ledger.rejections()] == [code]
    assert stage.gateway.ledger.calls() == ()


def test_a_client_of_the_sandbox_must_sign_and_call_the_path_of_the_sandbox(stage: Stage) -> None:
    stage.caller.prefix = "/ams/api/v1/authorizations/"
    answered = stage.caller.revoke("t")
    assert (answered.believed, answered.code) == ("F", "INVALID_API")


def test_a_body_that_was_changed_after_signing_is_rejected(stage: Stage, signer: Signer) -> None:
    """And so is a call that Alipay's own key signed: that is not the merchant's."""
    stage.caller.key = signer.private_key
    assert stage.caller.revoke("t").code == "INVALID_SIGNATURE"


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("consult", b"no json"),
        ("consult", []),
        ("consult", {"authState": "s"}),
        ("applyToken", {"grantType": "PASSWORD", "customerBelongsTo": "GCASH"}),
        ("applyToken", {"grantType": "AUTHORIZATION_CODE", "authCode": "c"}),
        ("applyToken", {"grantType": "REFRESH_TOKEN", "refreshToken": "r" * 129, "customerBelongsTo": "GCASH"}),
        ("revoke", {"accessToken": 1}),
        ("revoke", {}),
    ],
)
def test_a_body_that_is_not_as_documented_is_refused_and_signed(stage: Stage, name: str, body: object) -> None:
    answered = stage.caller.call(name, body)
    assert (answered.believed, answered.code) == ("F", "PARAM_ILLEGAL")
    assert set(answered.headers) > SIGNED


@pytest.mark.parametrize(
    "url", ["javascript://x/%0aalert(1)", "/path", "https://", "data://x", "https://a b", "https://a\\b", "ä://x", "x"]
)
def test_no_address_that_a_browser_must_not_be_sent_to_is_taken(stage: Stage, url: str) -> None:
    assert stage.caller.consult(authRedirectUrl=url).code == "PARAM_ILLEGAL"


@pytest.mark.parametrize(
    "fields",
    [{"scopes": []}, {"scopes": ["A"] * 5}, {"scopes": "A"}, {"authState": "s" * 257}, {"merchantRegion": "USA"}],
)
def test_a_consult_beyond_the_documented_lengths_is_refused(stage: Stage, fields: dict[str, object]) -> None:
    assert stage.caller.consult(**fields).code == "PARAM_ILLEGAL"  # type: ignore[arg-type]


def test_the_same_consult_again_finds_the_same_page_and_another_opens_another(stage: Stage) -> None:
    first, again, other = stage.caller.consult(), stage.caller.consult(), stage.caller.consult(scopes=["USER_INFO"])
    assert first.document["normalUrl"] == again.document["normalUrl"] != other.document["normalUrl"]


def test_an_app_gets_the_addresses_of_apps(stage: Stage) -> None:
    document = stage.caller.consult(terminalType="", env={"terminalType": "APP"}).document
    assert {"normalUrl", "schemeUrl", "applinkUrl", "appIdentifier", "authCodeForm"} < set(document)


def test_a_code_is_exchanged_once_and_a_used_expired_or_unknown_one_is_invalid(stage: Stage) -> None:
    code = a_code(stage)
    assert stage.caller.exchange(code).believed == "S"
    late = a_code(stage, "s-2")
    stage.clock.move(seconds=60)
    for invalid in (code, late, "unknown"):
        answered = stage.caller.exchange(invalid)
        assert (answered.believed, answered.code) == ("F", "INVALID_AUTHCODE")
    assert len(stage.gateway.ledger.tokens_for(code)) == 1


def test_a_code_lives_for_less_than_a_minute(stage: Stage) -> None:
    code = a_code(stage)
    stage.clock.move(seconds=59)
    assert stage.caller.exchange(code).believed == "S"


def test_another_wallet_than_the_users_is_refused_and_the_code_not_spent(stage: Stage) -> None:
    code = a_code(stage)
    assert stage.caller.exchange(code, customerBelongsTo="DANA").code == "PARAM_ILLEGAL"
    assert stage.caller.exchange(code).believed == "S"


def test_agreeing_again_gives_another_code_and_its_token_replaces_the_first(stage: Stage) -> None:
    first = a_code(stage)
    second = code_in(stage.gateway.agree(CLIENT_ID, "s-1"))
    assert first != second
    old = stage.caller.exchange(first).document["accessToken"]
    new = stage.caller.exchange(second).document["accessToken"]
    assert [each.access_token for each in stage.gateway.ledger.alive_tokens()] == [new]
    assert [each.access_token for each in stage.gateway.ledger.ended_tokens(TokenEnd.REPLACED)] == [old]
    assert [each.type for each in stage.told(2)] == [NotificationType.AUTHCODE_CREATED] * 2


def test_a_refresh_token_is_good_once(stage: Stage) -> None:
    given = a_token(stage).document
    renewed = stage.caller.refresh(given["refreshToken"]).document
    assert stage.caller.refresh(given["refreshToken"]).code == "INVALID_REFRESH_TOKEN"
    assert stage.caller.revoke(given["accessToken"]).code == "INVALID_ACCESS_TOKEN"
    alive = stage.gateway.ledger.alive_tokens()
    assert [(each.access_token, each.replaces) for each in alive] == [(renewed["accessToken"], given["accessToken"])]


def test_revoking_ends_both_tokens_and_a_second_revoke_finds_none(stage: Stage) -> None:
    given = a_token(stage).document
    stage.told(1)
    assert stage.caller.revoke(given["accessToken"]).believed == "S"
    again = stage.caller.revoke(given["accessToken"])
    assert (again.believed, again.code) == ("F", "INVALID_ACCESS_TOKEN")
    assert stage.caller.refresh(given["refreshToken"]).code == "INVALID_REFRESH_TOKEN"
    assert [each.type for each in stage.told(2)][1:] == [NotificationType.TOKEN_CANCELED]


def test_a_user_cancels_with_a_reason_and_the_merchant_is_told(stage: Stage) -> None:
    given = a_token(stage).document
    stage.told(1)
    assert stage.gateway.cancel(CLIENT_ID, "s-1", reason="too dear")
    assert not stage.gateway.cancel(CLIENT_ID, "s-1")
    stage.told(2)
    assert b'"reason": "too dear"' in stage.endpoint.deliveries[1].body
    assert stage.caller.revoke(given["accessToken"]).code == "INVALID_ACCESS_TOKEN"


def test_a_wallet_can_cancel_without_a_word(stage: Stage) -> None:
    a_token(stage)
    stage.told(1)
    assert stage.gateway.cancel(CLIENT_ID, "s-1", silently=True)
    a_code(stage, "s-2")
    assert [each.auth_state for each in stage.told(2)] == ["s-1", "s-2"]


def test_what_was_declined_or_ended_needs_a_new_auth_state(stage: Stage) -> None:
    stage.caller.consult("declined")
    stage.gateway.decline(CLIENT_ID, "declined")
    a_token(stage, "ended")
    stage.gateway.cancel(CLIENT_ID, "ended")
    stage.caller.consult("late")
    stage.clock.move(minutes=15)
    for auth_state in ("declined", "ended", "late"):
        assert stage.caller.consult(auth_state).code == "PARAM_ILLEGAL"
        with pytest.raises(NothingToDecideError):
            stage.gateway.agree(CLIENT_ID, auth_state)
    assert [each.what for each in stage.gateway.ledger.decisions()] == ["declined", "agreed", "canceled"]


def test_a_wallet_that_does_not_refresh_gives_no_refresh_token(stage: Stage) -> None:
    stage.caller.consult(customerBelongsTo="KAKAOPAY")
    given = stage.caller.exchange(code_in(stage.gateway.agree(CLIENT_ID, "s-1")), customerBelongsTo="KAKAOPAY").document
    assert "refreshToken" not in given
    assert given["accessTokenExpiryTime"].startswith("2120-01-01T")


def test_tokens_expire(stage: Stage) -> None:
    given = a_token(stage).document
    stage.clock.move(days=730)
    assert stage.gateway.ledger.alive_tokens() == ()
    assert stage.caller.refresh(given["refreshToken"]).code == "INVALID_REFRESH_TOKEN"
    assert stage.caller.revoke(given["accessToken"]).code == "INVALID_ACCESS_TOKEN"


def test_token_created_is_sent_only_where_it_is_asked_for(open_gateway: Callable[..., Stage]) -> None:
    stage = open_gateway(token_created=True)
    code = a_code(stage)
    stage.told(1)
    given = stage.caller.exchange(code).document
    stage.caller.refresh(given["refreshToken"])
    told = stage.told(2)
    assert [each.type for each in told] == [NotificationType.AUTHCODE_CREATED, NotificationType.TOKEN_CREATED]
    assert told[1].access_token is not None
    assert told[1].access_token.reveal() == given["accessToken"]


def test_a_notification_comes_again_until_it_is_acknowledged(open_gateway: Callable[..., Stage]) -> None:
    stage = open_gateway(speed=100_000)
    stage.endpoint.answers = [(500, b""), None, stage.endpoint.answers[0]]
    a_code(stage)
    assert [each.type for each in stage.told(3)] == [NotificationType.AUTHCODE_CREATED] * 3
    assert [each.is_acknowledged for each in stage.gateway.ledger.notifications()] == [False, False, True]


def test_a_consult_can_name_where_to_notify_on_this_machine_and_nowhere_else(stage: Stage) -> None:
    stage.caller.consult("here", authNotifyUrl=f"{stage.endpoint.url}?of=consult")
    stage.gateway.agree(CLIENT_ID, "here")
    stage.told(1)
    stage.caller.consult("elsewhere", authNotifyUrl="http://192.0.2.1/notify")
    stage.gateway.agree(CLIENT_ID, "elsewhere")
    stage.told(2)
    path = "/alipay/notifyAuthorization"
    assert [each.uri for each in stage.endpoint.deliveries] == [f"{path}?of=consult", path]


def test_codes_and_tokens_are_of_one_client_only(stage: Stage) -> None:
    """Another client's caller would have to know the key; the gateway asks for the client all the same."""
    alipay = stage.gateway._alipay  # noqa: SLF001 -- no second client can sign here

    code = a_code(stage)
    with pytest.raises(CallRefusedError):
        alipay.exchange("other", ExchangeRequest("GCASH", code))
    token = stage.caller.exchange(code).document["accessToken"]
    with pytest.raises(CallRefusedError):
        alipay.revoke("other", RevokeRequest(token))


def test_a_client_is_left_out_if_its_keys_are_not_there(stage: Stage, signer: Signer) -> None:
    client = stage.keyring.client(CLIENT_ID)
    assert client.merchant_private_key is not None
    assert client_keys(stage.keyring, client.merchant_private_key) == {}
    assert "none of its Alipay public keys" in why_left_out(client)
    assert list(client_keys(stage.keyring, signer.private_key)) == [CLIENT_ID]


def test_a_secret_is_shown_by_no_entry_of_the_ledger(stage: Stage) -> None:
    given = a_token(stage).document
    stage.caller.revoke(given["accessToken"])
    stage.told(2)
    ledger = stage.gateway.ledger
    shown = repr((ledger.calls(), ledger.tokens(), ledger.notifications(), ledger.decisions()))
    code = ledger.tokens()[0].given_for
    assert [secret for secret in (code, given["accessToken"], given["refreshToken"]) if secret in shown] == []


def test_two_exchanges_of_one_code_at_once_are_seen_in_the_ledger(
    open_gateway: Callable[..., Stage], run_together: Callable[..., list[str]]
) -> None:
    stage = open_gateway("slow:exchange:seconds=0.3")
    code = a_code(stage)
    caller: Caller = stage.caller
    assert sorted(run_together(lambda: caller.exchange(code).believed, times=2)) == ["F", "S"]
    assert len(stage.gateway.ledger.overlapping_calls()) == 1
