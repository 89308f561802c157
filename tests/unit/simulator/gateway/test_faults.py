"""Each fault is what its explanation says, as often as it was asked for, and the ledger knows what was done."""

import json
import threading
from collections.abc import Callable

import pytest
import urllib3

from app.alipay.notification import NotificationType
from app.alipay.signature import sign
from app.simulator.gateway import server
from app.simulator.gateway.faults import KINDS, BadFaultError, Fault, Faults
from app.simulator.gateway.requests import Operation
from tests.builders import CLIENT_ID
from tests.unit.simulator.gateway.caller import PREFIX
from tests.unit.simulator.gateway.conftest import Stage, wait_until
from tests.unit.simulator.gateway.test_life import a_code, a_token

Open = Callable[..., Stage]
APPLY_TOKEN = f"{PREFIX}applyToken"

#: What a careful caller makes of the answer, and whether a token was given: all faults that are answered at once.
ANSWERED = [
    ("unknown", "U", False),
    ("unknown:exchange:code=REQUEST_TRAFFIC_EXCEED_LIMIT", "U", False),
    ("in-process", "U", False),
    ("refused", "F", False),
    ("refused:exchange:code=SYSTEM_ERROR", "F", False),
    ("refused-unsigned", "F", False),
    ("error-500", "?", False),
    ("unknown-done", "U", True),
    ("unsigned", "?", True),
    ("half-signed", "?", True),
    ("bad-signature", "?", True),
    ("replayed-signature", "?", True),
    ("other-client", "?", True),
    ("huge", "S", True),
    ("html", "?", True),
    ("not-json", "?", True),
    ("redirect", "?", True),
]
#: Those to which there is no whole answer.
UNANSWERED = [
    ("silent", False),
    ("cut-before", False),
    ("silent-done", True),
    ("cut-after", True),
    ("endless", True),
    ("drip", True),
]
ELSEWHERE = {"slow", "no-refresh-token", "no-expiry", "lost-notification", "notify-before", "notify-after"}


def test_every_fault_is_tested_here() -> None:
    tested = {fault.partition(":")[0] for fault, *_ in ANSWERED} | {fault for fault, _ in UNANSWERED} | ELSEWHERE
    assert tested == set(KINDS)


@pytest.mark.parametrize(("fault", "believed", "given"), ANSWERED)
def test_a_fault_of_the_answer(open_gateway: Open, fault: str, believed: str, given: bool) -> None:  # noqa: FBT001 -- a column of the table
    stage = open_gateway(fault)
    stage.gateway.faults.clear()
    code = a_code(stage)
    stage.gateway.faults.add([Fault.parse(fault)])
    answered = stage.caller.exchange(code)
    assert answered.believed == believed
    tokens = stage.gateway.ledger.tokens_for(code)
    assert [each.is_answered for each in tokens] == ([False] if given else [])
    stage.gateway.faults.clear()
    again = stage.caller.exchange(code)
    assert again.code == ("INVALID_AUTHCODE" if given else "SUCCESS")
    assert [each.faults for each in stage.gateway.ledger.calls(Operation.EXCHANGE)] == [(fault.partition(":")[0],), ()]


@pytest.mark.parametrize(("fault", "given"), UNANSWERED)
def test_a_fault_without_a_whole_answer(stage: Stage, fault: str, given: bool) -> None:  # noqa: FBT001 -- a column of the table
    code = a_code(stage)
    stage.gateway.faults.add([Fault.parse(f"{fault}:exchange:times=1")])
    stage.caller.timeout = 0.3
    if fault == "endless":
        assert _read_of_the_answer(stage, code) > 64 * 1024
    else:
        with pytest.raises(urllib3.exceptions.HTTPError):
            stage.caller.exchange(code)
    stage.caller.timeout = 10
    assert stage.caller.exchange(code).code == ("INVALID_AUTHCODE" if given else "SUCCESS")
    wait_until(lambda: stage.gateway.ledger.calls(Operation.EXCHANGE)[0].ended is not None)
    assert not stage.gateway.ledger.calls(Operation.EXCHANGE)[0].is_answered


def _read_of_the_answer(stage: Stage, code: str) -> int:
    """Read an answer until it is longer than any should be, and hang up."""
    body = json.dumps({"grantType": "AUTHORIZATION_CODE", "authCode": code, "customerBelongsTo": "GCASH"}).encode()
    signature = sign(stage.caller.key, method="POST", uri=APPLY_TOKEN, client_id=CLIENT_ID, time="1", body=body)
    headers = {
        "client-id": CLIENT_ID,
        "request-time": "1",
        "signature": signature,
        "Content-Type": "application/json",
    }
    url = stage.gateway.url + APPLY_TOKEN
    answer = stage.caller.http.request("POST", url, body=body, headers=headers, preload_content=False)
    read = 0
    while read <= 64 * 1024:
        read += len(answer.read(4096))
    answer.close()
    return read


def test_a_call_ends_when_its_caller_goes_not_at_the_next_piece(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that follows would otherwise seem to be in flight at once with it."""
    monkeypatch.setattr(server, "_DRIPS_PER_SECOND", 1 / 60)
    stage.gateway.faults.add([Fault.parse("drip")])
    stage.caller.timeout = 0.3
    with pytest.raises(urllib3.exceptions.HTTPError):
        stage.caller.consult()
    wait_until(lambda: stage.gateway.ledger.calls()[0].ended is not None)


def test_a_connection_is_reset_not_ended(stage: Stage) -> None:
    stage.gateway.faults.add([Fault.parse("cut-before")])
    with pytest.raises(urllib3.exceptions.ProtocolError) as raised:
        stage.caller.consult()
    assert isinstance(raised.value.__cause__ or raised.value.args[1], ConnectionError)


def test_a_slow_answer_is_an_answer(stage: Stage) -> None:
    stage.gateway.faults.add([Fault.parse("slow:consult:seconds=0.2")])
    assert stage.caller.consult().believed == "S"
    call = stage.gateway.ledger.calls()[0]
    assert call.ended is not None
    assert call.ended - call.began >= 0.2
    assert call.is_answered


def test_a_slow_answer_holds_up_no_other_call(stage: Stage, run_together: Callable[..., list[str]]) -> None:
    stage.gateway.faults.add([Fault.parse("slow:consult:seconds=0.5,times=1")])
    threading.Thread(target=stage.caller.consult).start()
    wait_until(lambda: len(stage.gateway.ledger.calls()) == 1)
    assert run_together(lambda: stage.caller.consult("other").believed, times=8) == ["S"] * 8
    assert stage.gateway.ledger.calls()[0].ended is None


def test_a_refresh_without_a_refresh_token_leaves_the_old_one_alive(stage: Stage) -> None:
    given = a_token(stage).document
    stage.gateway.faults.add([Fault.parse("no-refresh-token:refresh:times=1")])
    renewed = stage.caller.refresh(given["refreshToken"]).document
    assert "refreshToken" not in renewed
    assert "refreshTokenExpiryTime" not in renewed
    again = stage.caller.refresh(given["refreshToken"])
    assert again.believed == "S"
    assert again.document["accessToken"] not in {given["accessToken"], renewed["accessToken"]}


def test_a_token_can_come_without_an_expiry(stage: Stage) -> None:
    stage.gateway.faults.add([Fault.parse("no-expiry"), Fault.parse("no-refresh-token")])
    assert set(a_token(stage).document) == {"result", "accessToken", "userLoginId", "extendInfo"}


def test_notifications_are_lost_on_request(stage: Stage) -> None:
    stage.gateway.faults.add([Fault.parse("lost-notification:consent"), Fault.parse("lost-notification:revoke")])
    given = a_token(stage).document
    stage.caller.revoke(given["accessToken"])
    a_token(stage, "s-2")
    stage.gateway.faults.clear()
    stage.gateway.cancel(CLIENT_ID, "s-2")
    assert [each.type for each in stage.told(4)] == [NotificationType.TOKEN_CANCELED]
    lost = [each for each in stage.gateway.ledger.notifications() if not each.is_acknowledged]
    assert [each.answer for each in lost] == ["no answer: lost on request"] * 3


def test_the_token_can_be_told_before_an_answer_that_is_lost(stage: Stage) -> None:
    code = a_code(stage)
    stage.told(1)
    stage.gateway.faults.add([Fault.parse("notify-before:exchange"), Fault.parse("cut-after:exchange")])
    with pytest.raises(urllib3.exceptions.ProtocolError):
        stage.caller.exchange(code)
    assert [each.type for each in stage.told(2)][1:] == [NotificationType.TOKEN_CREATED]
    assert stage.endpoint.deliveries[1].body.find(stage.gateway.ledger.tokens()[0].access_token.encode()) > 0


@pytest.mark.parametrize("when", ["notify-before", "notify-after"])
def test_the_end_of_the_old_token_can_be_told_around_a_refresh(stage: Stage, when: str) -> None:
    given = a_token(stage).document
    stage.told(1)
    stage.gateway.faults.add([Fault.parse(f"{when}:refresh:seconds=0.1")])
    stage.caller.refresh(given["refreshToken"])
    if when == "notify-before":
        assert len(stage.endpoint.deliveries) == 2
    told = stage.told(2)[1]
    assert told.access_token is not None
    assert (told.type, told.access_token.reveal()) == (NotificationType.TOKEN_CANCELED, given["accessToken"])


def test_times_are_counted_for_all_calls_or_for_each_subject() -> None:
    faults = Faults([Fault("unknown", "exchange", times=2)])
    assert [bool(faults.take(Operation.EXCHANGE, code)) for code in "abcd"] == [True, True, False, False]
    assert faults.left() == ()
    faults = Faults([Fault("unknown", "exchange", times=1, each=True)])
    assert [bool(faults.take(Operation.EXCHANGE, code)) for code in "aabba"] == [True, False, True, False, False]
    assert len(faults.left()) == 1


def test_a_fault_concerns_its_operation_only() -> None:
    faults = Faults([Fault("unknown", "applyToken")])
    suffered = [each for each in Operation if faults.take(each, "x")]
    assert suffered == [Operation.EXCHANGE, Operation.REFRESH]


def test_a_call_suffers_one_fault_of_the_answer_and_the_one_behind_it_is_kept() -> None:
    faults = Faults(
        [Fault("unknown", times=1), Fault("cut-after", times=1), Fault("notify-before"), Fault("no-expiry")]
    )
    assert [each.fault for each in faults.take(Operation.EXCHANGE, "a")] == ["unknown", "notify-before", "no-expiry"]
    assert [each.fault for each in faults.take(Operation.EXCHANGE, "a")] == ["cut-after", "notify-before", "no-expiry"]


def test_a_share_is_chance_that_a_seed_repeats() -> None:
    runs = [[bool(faults.take(Operation.CONSULT, "a")) for _ in range(200)] for faults in _twice()]
    assert runs[0] == runs[1]
    assert 20 < sum(runs[0]) < 180


def _twice() -> list[Faults]:
    return [Faults([Fault("unknown", share=0.5)], seed=7) for _ in range(2)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        "unknown:nothing",
        "unknown:consult:times=0",
        "unknown:consult:times=x",
        "unknown:consult:times",
        "unknown:consult:each=maybe",
        "unknown:consult:share=2",
        "unknown:consult:share=nan",
        "slow:consult:seconds=301",
        "slow:consult:seconds=nan",
        "slow:consult:seconds=-1",
        "refused:consult:code=",
        f"refused:consult:code={'X' * 65}",
        "refused:consult:color=red",
    ],
)
def test_what_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(BadFaultError):
        Fault.parse(text)


@pytest.mark.parametrize("document", [None, [], 1, "unknown", {}, {"fault": []}, {"fault": "unknown", "times": True}])
def test_what_is_no_fault_as_json_is_refused(document: object) -> None:
    with pytest.raises(BadFaultError):
        Fault.read(document)


# --- over HTTP -------------------------------------------------------------------------------------------------------


def test_faults_are_asked_for_listed_and_ended_over_http(stage: Stage) -> None:
    url, http = f"{stage.gateway.url}/faults", stage.caller.http
    fault = {"fault": "refused", "operation": "consult", "times": 2, "code": "RISK_REJECT"}
    added = http.request("POST", url, json=[fault, {"fault": "slow", "operation": "revoke"}])
    assert (added.status, len(added.json()["faults"])) == (201, 2)
    assert stage.caller.consult().code == "RISK_REJECT"
    assert http.request("GET", url).json()["faults"][0]["times"] == 1
    assert http.request("DELETE", url).json() == {"faults": []}
    assert stage.caller.consult().believed == "S"


@pytest.mark.parametrize(
    "body", [b"", b"no json", b'{"fault": "nothing"}', b"[" * 10_000, b'{"times": ' + b"1" * 9_999 + b"}"]
)
def test_a_bad_fault_over_http_is_answered_with_a_sentence(stage: Stage, body: bytes) -> None:
    answer = stage.caller.http.request(
        "POST", f"{stage.gateway.url}/faults", body=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status == 400
    assert answer.json()["problem"].endswith(".")


def test_everything_that_was_done_is_had_as_json(stage: Stage) -> None:
    token = a_token(stage).document["accessToken"]
    stage.told(1)
    answer = stage.caller.http.request("GET", f"{stage.gateway.url}/ledger")
    ledger = json.loads(answer.data)
    assert [each["operation"] for each in ledger["calls"]] == ["consult", "exchange"]
    assert [each["access_token"] for each in ledger["tokens"]] == [token]
    assert (len(ledger["notifications"]), ledger["rejections"]) == (1, [])
