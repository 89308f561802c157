"""Explain in a sentence how a call ended or why it is repeated, and what is to be done about it."""

from datetime import datetime, timedelta

from app import calls
from app.cli.tables import moment, plain
from app.gateway.endings import remedy
from app.models import Call
from app.vocabulary import CallKind, CallStatus

#: A background worker begins a call within a tenth of a second. What waits for longer may wait for a worker.
_BEGUN_WITHIN = timedelta(seconds=10)

_DONE = {
    CallKind.CONSULT: "Alipay has said where the user agrees.",
    CallKind.EXCHANGE: "Alipay has given a token for the code.",
    CallKind.REFRESH: "Alipay has given a new token.",
    CallKind.REVOKE: "The token is gone.",
}
_NO_WALLET = {
    CallKind.EXCHANGE: (
        "Within its minute the code can still be exchanged by yourself; then the user must agree again, with a new "
        "authState."
    ),
    CallKind.REFRESH: (
        "Consult the same authState with the wallet, then run: flask authorizations refresh {authorization}"
    ),
}
#: Of an exchange that Alipay was not asked for, whose time was up.
_CODE_LOST = "The code's minute is over: the user must agree again, with a new authState."
#: Of calls without a final answer.
_UNANSWERED = {
    CallKind.CONSULT: "Send the same consult again.",
    CallKind.EXCHANGE: (
        "If no TOKEN_CREATED comes, the user must agree again, with a new authState. To ask Alipay for the same once "
        "more, which after the code's minute is likely to be refused: flask calls retry {id}"
    ),
    CallKind.REFRESH: (
        "To ask Alipay for the same once more: flask calls retry {id}. If that is refused, the old "
        "access token may be dead: where a payment is refused for it, the user must authorize again."
    ),
    CallKind.REVOKE: "To ask Alipay for the same once more: flask calls retry {id}",
}


def explain(call: Call, *, now: datetime) -> str:
    """Explain how a call stands: what comes next, or how it ended."""
    return f"{plain(call.status)}: {_why(call, now)}"


def _why(call: Call, now: datetime) -> str:
    said = "" if call.reason is None else plain(call.reason)
    match call.status:
        case CallStatus.DUE:
            return _what_is_next(call, said, now)
        case CallStatus.DONE if isinstance(call.kind, CallKind):
            return " ".join(filter(None, (_DONE[call.kind], said)))
        case _:
            return said or "nothing is on record of why."


def _what_is_next(call: Call, said: str, now: datetime) -> str:
    if call.due_at is None and not call.is_in_flight:
        return f"it cannot be made, and ends soon. {said}"
    if call.is_in_flight or call.due_at is None:
        return f"attempt {call.attempts} is under way, and its end is not on record yet."
    waits = call.due_at < now - _BEGUN_WITHIN
    number = call.attempts + 1
    next_attempt = f"attempt {number} is due {'since' if waits else 'at'} {moment(call.due_at)}."
    if call.attempts and not said:
        said = f"Attempt {call.attempts} has no end on record: the worker that made it has ended."
    no_worker = "No background worker has begun it: flask serve runs one, and so does flask work." if waits else ""
    return " ".join(filter(None, (next_attempt, said, no_worker)))


def what_to_do(call: Call) -> str | None:
    """Say what is to be done about a call that ended badly, and `None` of all others."""
    if call.status not in {CallStatus.FAILED, CallStatus.UNDETERMINED} or not isinstance(call.kind, CallKind):
        return None
    if call.sealed_answer is not None and call.kind is not CallKind.CONSULT:
        return f"Alipay's answer is kept. Mend what keeps it from being recorded, then run: flask calls retry {call.id}"
    if call.reason == calls.NO_WALLET and call.kind in _NO_WALLET:
        return _NO_WALLET[call.kind].format(authorization=call.authorization_id)
    if call.status == CallStatus.FAILED and call.result_code is not None:
        return remedy(call.kind, call.result_code)
    if call.kind is CallKind.EXCHANGE and call.status == CallStatus.FAILED:
        return _CODE_LOST
    return _UNANSWERED[call.kind].format(id=call.id)
