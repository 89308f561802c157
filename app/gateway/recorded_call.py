"""What a transaction has made of a call: counted and logged once it is committed."""

import logging
from dataclasses import dataclass
from datetime import datetime

from app import metrics
from app.alipay.call import Unknown
from app.gateway.attempts import Answer
from app.models import Call
from app.reports import Recorded
from app.vocabulary import CallStatus

_log = logging.getLogger(__name__)

_BAD = frozenset({CallStatus.FAILED, CallStatus.UNDETERMINED})


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A call after a transaction: ended by it, to be repeated, or ended before."""

    call: Call
    #: Whether it has ended here in a way that is counted: done, failed or undetermined. One that is unneeded is not.
    is_counted: bool = False
    #: What its report has led to.
    recorded: Recorded | None = None
    #: Of an exchange that has brought a token: when its code came.
    code_received_at: datetime | None = None


def count_and_log(recorded: RecordedCall, *, now: datetime, answer: Answer | None = None) -> None:
    """Say in the metrics and in the log how a call stands, after the answer to an attempt or without one."""
    call = recorded.call
    fields = {
        "call": call.id,
        "kind": call.kind,
        "status": call.status,
        "attempts": call.attempts,
        "result_code": call.result_code,
        "authorization": call.authorization_id,
    }
    if answer is None or (isinstance(answer, Unknown) and answer.http_status is None):
        why = call.reason if answer is None else answer.why
        _log.warning("call not answered", extra={**fields, "reason": why})
    else:
        _log.log(logging.WARNING if call.status in _BAD else logging.INFO, "call answered", extra=fields)
    if recorded.is_counted:
        metrics.CALLS.inc(call.kind, call.status)
    if call.status == CallStatus.DONE and recorded.code_received_at is not None:
        metrics.CODE_TO_TOKEN.observe((now - recorded.code_received_at).total_seconds())
