"""What becomes of a call by the answer to its last attempt: of each kind, and of each answer."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from app.alipay.call import Done, Refused, Unknown
from app.gateway.attempts import Answer
from app.gateway.endings import Ending, ending_of, late_reason, late_status, remedy
from app.models import Call
from app.vocabulary import CallKind, CallStatus

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
KINDS = list(CallKind)
SPENT = {CallKind.EXCHANGE: "INVALID_AUTHCODE", CallKind.REFRESH: "INVALID_REFRESH_TOKEN"}
#: Codes with resultStatus F: those of Alipay's own documents, and one that is in none.
CODES = [
    "INVALID_AUTHCODE",
    "INVALID_REFRESH_TOKEN",
    "INVALID_ACCESS_TOKEN",
    "PROCESS_FAIL",
    "SYSTEM_ERROR",
    "RISK_REJECT",
    "INVALID_SIGNATURE",
    "NEVER_HEARD_OF",
    "",
]


def a_call(kind: CallKind, **said: Any) -> Call:  # noqa: ANN401 -- whatever a call may say
    row = {"attempts": 1, "is_uncertain": False, "deadline_at": NOON + timedelta(seconds=58)} | said
    return Call(id=UUID(int=1), kind=kind, status=CallStatus.DUE, **row)


def refused(code: str, message: str = "says so") -> Refused:
    return Refused(code, message, 200, 5)


def unknown(code: str | None = None, *, is_sent: bool = True) -> Unknown:
    return Unknown("Nobody answered.", code, None, 5, is_sent)


def ending(call: Call, answer: Answer) -> Ending:
    return ending_of(call, answer, now=NOON)


@pytest.mark.parametrize("is_uncertain", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_done_is_done(*, kind: CallKind, is_uncertain: bool) -> None:
    done = ending(a_call(kind, is_uncertain=is_uncertain), Done({}, 200, 5))
    assert done == Ending(CallStatus.DONE, None, None, "SUCCESS", is_uncertain=False)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("is_uncertain", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_refused_is_refused_for_good(*, kind: CallKind, is_uncertain: bool, code: str) -> None:
    found = ending(a_call(kind, is_uncertain=is_uncertain), refused(code))
    if kind is CallKind.REVOKE and code == "INVALID_ACCESS_TOKEN":
        expected = CallStatus.DONE
    elif is_uncertain and code == SPENT.get(kind):
        expected = CallStatus.UNDETERMINED
    else:
        expected = CallStatus.FAILED
    assert (found.status, found.due_at, found.result_code) == (expected, None, code or None)
    assert found.reason
    assert found.reason.endswith(".")


@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_says_alipays_code_and_words_and_what_to_do(kind: CallKind) -> None:
    found = ending(a_call(kind), refused("NEVER_HEARD_OF", "the words of Alipay"))
    assert found.reason == f"Alipay refused it (NEVER_HEARD_OF: the words of Alipay). {remedy(kind, 'NEVER_HEARD_OF')}"
    assert "without a code" in str(ending(a_call(kind), refused("", "")).reason)


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_something_to_do_about_every_refusal(kind: CallKind) -> None:
    for code in (*CODES, None):
        assert remedy(kind, code).endswith(".")
    assert "merchant_private_key" in remedy(kind, "INVALID_SIGNATURE")


@pytest.mark.parametrize("code", [None, "AUTH_IN_PROCESS", "UNKNOWN_EXCEPTION", "NEVER_HEARD_OF"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_unknown_is_asked_for_again_with_its_reason(kind: CallKind, code: str | None) -> None:
    found = ending(a_call(kind), unknown(code))
    due_at = NOON + timedelta(seconds=1)
    assert found == Ending(CallStatus.DUE, due_at, "Nobody answered.", code, is_uncertain=True)


@pytest.mark.parametrize("kind", KINDS)
def test_where_alipay_asks_for_fewer_requests_they_come_slower(kind: CallKind) -> None:
    found = ending(a_call(kind), unknown("REQUEST_TRAFFIC_EXCEED_LIMIT"))
    assert (found.status, found.due_at) == (CallStatus.DUE, NOON + timedelta(seconds=4))


@pytest.mark.parametrize(
    ("was_uncertain", "is_sent", "status"),
    [
        (False, False, CallStatus.FAILED),
        (False, True, CallStatus.UNDETERMINED),
        (True, False, CallStatus.UNDETERMINED),
        (True, True, CallStatus.UNDETERMINED),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_when_the_time_is_up_it_counts_whether_alipay_may_have_the_request(
    *, kind: CallKind, was_uncertain: bool, is_sent: bool, status: CallStatus
) -> None:
    late = a_call(kind, is_uncertain=was_uncertain, deadline_at=NOON)
    found = ending(late, unknown(is_sent=is_sent))
    assert (found.status, found.due_at) == (status, None)
    assert found.is_uncertain == (status is CallStatus.UNDETERMINED)
    assert found.reason == "Its time is up without a final answer. Nobody answered."


@pytest.mark.parametrize("is_sent", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_request_that_may_have_arrived_is_never_forgotten(*, kind: CallKind, is_sent: bool) -> None:
    assert ending(a_call(kind, is_uncertain=True), unknown(is_sent=is_sent)).is_uncertain
    assert ending(a_call(kind), unknown(is_sent=is_sent)).is_uncertain == is_sent


@pytest.mark.parametrize("kind", SPENT)
def test_a_code_that_alipay_knows_no_more_after_a_lost_answer_may_have_been_used(kind: CallKind) -> None:
    reason = ending(a_call(kind, is_uncertain=True), refused(SPENT[kind])).reason
    assert "may have succeeded" in str(reason)
    expected = "TOKEN_CREATED may still" if kind is CallKind.EXCHANGE else "must authorize again"
    assert expected in str(reason)


def test_a_call_whose_time_is_up_before_it_was_made_says_so() -> None:
    assert late_reason(None) == "Its time was up before it could be made."
    assert late_status(is_uncertain=False) == CallStatus.FAILED
    assert late_status(is_uncertain=True) == CallStatus.UNDETERMINED
