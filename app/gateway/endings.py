"""What an answer of Alipay means for a call (protocol.md §4). Pure: the row and the answer in, the ending out."""

from dataclasses import dataclass
from datetime import datetime

from app.alipay.call import Done, Refused, Unknown, is_to_be_repeated_slowly
from app.gateway.attempts import Answer
from app.gateway.schedule import next_attempt
from app.models import Call
from app.vocabulary import CallKind, CallStatus

#: The token that is to go is gone.
_GONE = "INVALID_ACCESS_TOKEN"
#: What Alipay says of a code or a refresh token that was used, has expired, or never was.
_SPENT = {CallKind.EXCHANGE: "INVALID_AUTHCODE", CallKind.REFRESH: "INVALID_REFRESH_TOKEN"}

_REMEDIES = {
    CallKind.CONSULT: "Consult again, with a new authState.",
    CallKind.EXCHANGE: "The code is spent: the user must agree again, with a new authState.",
    CallKind.REFRESH: "The user must authorize again before the token expires.",
    CallKind.REVOKE: "Ask for the revoke again, or revoke in the dashboard.",
}
#: What is to be done about a code of Alipay's, where it is something else than usual.
_REMEDIES_BY_CODE = {
    "RISK_REJECT": "The wallet refuses this user for risk: do not repeat it; offer another way to pay.",
    "NO_PAY_OPTIONS": "The user has no way to pay in this wallet: offer another one.",
    "PAYMENT_NOT_QUALIFIED": "The contract does not cover this: ask Alipay's support.",
    "MERCHANT_NOT_REGISTERED": "The merchant is not registered for this wallet: ask Alipay's support.",
    "INVALID_CONTRACT": "The contract does not cover this: ask Alipay's support.",
    "CLIENT_INVALID": "Check the client id and gateway of the keyring: sandbox and production differ.",
    "INVALID_CLIENT": "Check the client id and gateway of the keyring: sandbox and production differ.",
    "INVALID_SIGNATURE": "Check that merchant_private_key of the keyring is the key whose public half Alipay has.",
    "KEY_NOT_FOUND": "Check that Alipay has the public half of merchant_private_key.",
    "ACCESS_DENIED": "The client may not make this call: ask Alipay's support.",
    "PARAM_ILLEGAL": "Check what the request names against Alipay's documents.",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """What becomes of a call after an attempt."""

    #: Due where it is repeated.
    status: CallStatus
    #: When it is repeated.
    due_at: datetime | None
    reason: str | None
    result_code: str | None
    #: Whether Alipay may have carried out an attempt whose answer is not known.
    is_uncertain: bool


def ending_of(call: Call, answer: Answer, *, now: datetime, spread: float = 0) -> Ending:
    """Say what becomes of a call by the answer to its last attempt."""
    match answer:
        case Done():
            return Ending(CallStatus.DONE, None, None, "SUCCESS", is_uncertain=False)
        case Refused():
            return _refused(call, answer)
        case Unknown():
            return _unknown(call, answer, now, spread)


def remedy(kind: CallKind | str, result_code: str | None) -> str:
    """Say what is to be done about a call that Alipay refused with this code."""
    return _REMEDIES_BY_CODE.get(result_code or "") or _REMEDIES.get(CallKind(kind), "")


def _refused(call: Call, answer: Refused) -> Ending:
    kind = CallKind(call.kind)
    if kind is CallKind.REVOKE and answer.code == _GONE:
        return Ending(CallStatus.DONE, None, "The token was gone already.", answer.code, is_uncertain=False)
    if answer.code == _SPENT.get(kind) and call.is_uncertain:
        what = "code" if kind is CallKind.EXCHANGE else "refresh token"
        reason = (
            f"Alipay knows this {what} no more, after an attempt whose outcome is unknown: that attempt may have "
            f"succeeded. {_MAY_COME[kind]}"
        )
        return Ending(CallStatus.UNDETERMINED, None, reason, answer.code, is_uncertain=True)
    said = f": {answer.message}" if answer.message else ""
    reason = f"Alipay refused it ({answer.code or 'without a code'}{said}). {remedy(kind, answer.code)}"
    return Ending(CallStatus.FAILED, None, reason, answer.code or None, is_uncertain=False)


_MAY_COME = {
    CallKind.EXCHANGE: "A TOKEN_CREATED may still bring the token.",
    CallKind.REFRESH: (
        "Then the old access token is dead: where a payment is refused for it, the user must authorize again."
    ),
}


def _unknown(call: Call, answer: Unknown, now: datetime, spread: float) -> Ending:
    is_uncertain = call.is_uncertain or answer.is_sent
    due_at = next_attempt(
        CallKind(call.kind),
        call.attempts,
        now=now,
        deadline_at=call.deadline_at,
        is_slow=is_to_be_repeated_slowly(answer.code),
        spread=spread,
    )
    if due_at is not None:
        return Ending(CallStatus.DUE, due_at, answer.why, answer.code, is_uncertain)
    return Ending(late_status(is_uncertain=is_uncertain), None, late_reason(answer.why), answer.code, is_uncertain)


def late_status(*, is_uncertain: bool) -> CallStatus:
    """Say how a call ends whose time is up."""
    return CallStatus.UNDETERMINED if is_uncertain else CallStatus.FAILED


def late_reason(why: str | None) -> str:
    """Say why a call ends whose time is up."""
    return f"Its time is up without a final answer. {why}" if why else "Its time was up before it could be made."
