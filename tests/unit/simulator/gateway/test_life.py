"""The life of an authorization at the pretend gateway: consult, consent, code, token, refresh, revoke."""

from app.alipay.notification import NotificationType
from app.alipay.token_answer import read_time
from app.simulator.gateway.ledger import TokenEnd
from app.simulator.gateway.requests import Operation
from tests.builders import CLIENT_ID
from tests.unit.simulator.gateway.caller import REDIRECT_URL, Answered, code_in
from tests.unit.simulator.gateway.conftest import Stage


def a_code(stage: Stage, auth_state: str = "s-1") -> str:
    assert stage.caller.consult(auth_state).believed == "S"
    return code_in(stage.gateway.agree(CLIENT_ID, auth_state))


def a_token(stage: Stage, auth_state: str = "s-1") -> Answered:
    token = stage.caller.exchange(a_code(stage, auth_state))
    assert token.believed == "S"
    return token


def test_a_whole_life(stage: Stage) -> None:
    consulted = stage.caller.consult("s-1")
    assert (consulted.status, consulted.believed) == (200, "S")
    assert consulted.document["normalUrl"].startswith(f"{stage.gateway.url}/consent/")
    returned = stage.gateway.agree(CLIENT_ID, "s-1")
    code = code_in(returned)
    stage.told(1)
    assert returned == f"{REDIRECT_URL}&authCode={code}&authState=s-1"
    given = stage.caller.exchange(code).document
    expires_at = read_time(given["accessTokenExpiryTime"])
    assert expires_at is not None
    assert (expires_at - stage.clock.now).days == 730
    renewed = stage.caller.refresh(given["refreshToken"]).document
    assert len({given["accessToken"], renewed["accessToken"], given["refreshToken"], renewed["refreshToken"]}) == 4
    assert stage.caller.revoke(renewed["accessToken"]).believed == "S"
    told = stage.told(2)
    assert [each.type for each in told] == [NotificationType.AUTHCODE_CREATED, NotificationType.TOKEN_CANCELED]
    assert (told[0].auth_state, told[0].auth_code and told[0].auth_code.reveal()) == ("s-1", code)
    assert told[1].access_token is not None
    assert told[1].access_token.reveal() == renewed["accessToken"]
    ledger = stage.gateway.ledger
    assert [each.operation for each in ledger.calls()] == [*Operation][:4]
    assert [each.end for each in ledger.tokens()] == [TokenEnd.REFRESHED, TokenEnd.REVOKED]
    assert (ledger.alive_tokens(), ledger.overlapping_calls(), ledger.rejections()) == ((), (), ())
    assert len(ledger.answered_tokens()) == 2
