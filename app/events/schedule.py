"""When an event is sent again to an endpoint that did not take it. Pure: plain values in, a time out."""

from datetime import datetime, timedelta
from itertools import accumulate

#: A code lives a minute: when it is tried, counted from when the webhook delivery was made.
CODE_ATTEMPTS_AT = tuple(timedelta(seconds=each) for each in (0, 1, 3, 8, 20, 40))
#: All else. `PAUSES[n]`: the wait after the nth failure; index 0 is the first attempt.
PAUSES = tuple(
    timedelta(seconds=each)
    for each in (0, 5, 30, 2 * 60, 10 * 60, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 24 * 3600, 24 * 3600)
)
#: By how much of itself a pause may be longer or shorter: what failed together is not tried again together.
SPREAD = 0.2
#: What an endpoint asks for with Retry-After, beyond this, is no pause but an outage.
RETRY_AFTER_MAX = timedelta(hours=1)
#: Older than this, a webhook delivery is given up even with attempts left.
AGE_MAX = list(accumulate(PAUSES))[-1] * (1 + SPREAD) + RETRY_AFTER_MAX


def next_attempt(
    attempts: int,
    *,
    created_at: datetime,
    expires_at: datetime | None,
    now: datetime,
    retry_after: timedelta | None = None,
    spread: float = 0,
) -> datetime | None:
    """Say when a webhook delivery that failed this often is tried again, or `None` if it is not.

    `spread`, from -1 to 1, says which way its pause departs from the schedule.
    """
    if expires_at is not None:
        if attempts >= len(CODE_ATTEMPTS_AT):
            return None
        due = created_at + CODE_ATTEMPTS_AT[attempts]
    else:
        if attempts >= len(PAUSES):
            return None
        due = now + PAUSES[attempts] * (1 + SPREAD * spread)
    if retry_after is not None:
        due = max(due, now + min(retry_after, RETRY_AFTER_MAX))
    is_too_late = due >= expires_at if expires_at is not None else due > created_at + AGE_MAX
    return None if is_too_late else due
