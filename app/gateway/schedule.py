"""When a call is repeated that had no final answer. Pure: plain values in, a time out."""

from datetime import datetime, timedelta

from app.vocabulary import CallKind

#: The first pause; each further one is twice the one before.
_FIRST_PAUSE = timedelta(seconds=1)
#: The longest. A code has a minute; a token that is to go, or to be refreshed, has days.
_PAUSE_MAX = {
    CallKind.CONSULT: timedelta(seconds=8),
    CallKind.EXCHANGE: timedelta(seconds=8),
    CallKind.REFRESH: timedelta(hours=1),
    CallKind.REVOKE: timedelta(hours=1),
}
#: Where Alipay asks for fewer requests, a pause is so many times as long.
_SLOWLY = 4
#: The last attempt is made so long before the deadline, so that its answer comes in time.
_LAST_ATTEMPT_BEFORE = timedelta(seconds=5)
#: A shorter pause is none.
_PAUSE_MIN = timedelta(seconds=1)
#: By how much of itself a long pause may be shorter: calls that failed together are not repeated together.
_SPREAD = 0.2
_LONG = timedelta(seconds=10)


def next_attempt(
    kind: CallKind,
    attempts: int,
    *,
    now: datetime,
    deadline_at: datetime | None,
    is_slow: bool = False,
    spread: float = 0,
) -> datetime | None:
    """Say when a call that was tried so often is repeated, or `None` if there is no time for that.

    `spread`, from 0 to 1, says how much shorter than the schedule a long pause is.
    """
    pause = min(_FIRST_PAUSE * (1 << min(attempts - 1, 20)), _PAUSE_MAX[kind])
    if is_slow:
        pause *= _SLOWLY
    if pause >= _LONG:
        pause *= 1 - _SPREAD * spread
    due_at = now + pause
    if deadline_at is None:
        return due_at
    last_at = deadline_at - _LAST_ATTEMPT_BEFORE if kind is CallKind.EXCHANGE else deadline_at
    if due_at < last_at:
        return due_at
    return last_at if last_at - now >= _PAUSE_MIN and last_at < deadline_at else None
