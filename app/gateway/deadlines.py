"""What is done about calls by the clock: one past its deadline is ended, and a token is refreshed before its own.

One that breaks keeps no other from being ended or begun.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from app import call_statements, tokens
from app.alipay.keyring import Keyring
from app.authorizations import Cause
from app.database import Database, DatabaseUnavailableError
from app.gateway import recording, requests
from app.gateway.recorded_call import count_and_log
from app.key_locks import AuthStateKey
from app.limits import REFRESHES_AT_ONCE_MAX
from app.logs import failure
from app.receiver import Receiver
from app.vocabulary import CauseKind

_log = logging.getLogger(__name__)

#: Calls past their deadline that are ended together.
_PAGE = 100
#: Tokens whose refresh one transaction plans, and how long after the last of them is looked for more.
_PLANNED_MAX = 200
_PLAN_SECONDS = 30.0


def end_overdue(database: Database, receiver: Receiver, *, now: datetime, database_time: datetime) -> None:
    """End the calls that are past their deadline: together, and where that breaks, each by itself."""
    overdue = database.run(partial(call_statements.overdue, now=database_time, limit=_PAGE), read_only=True)
    if overdue and not _end(receiver, overdue, now=now):
        for each in overdue:
            _end(receiver, [each], now=now)


def _end(receiver: Receiver, overdue: Sequence[tuple[UUID, AuthStateKey]], *, now: datetime) -> bool:
    """End these calls in one transaction, and say whether that went well."""

    def end() -> None:
        work = partial(recording.end_overdue, overdue=overdue, now=now)
        for each in receiver.run_work(work, waits_for_held_rows=False):
            count_and_log(each, now=now)

    return _try(end, "calls not ended")


class Refreshes:
    """The refreshes that the service makes of its own accord: planned once for each token, and begun when due."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._plan_at = 0.0

    def begin_due(self, database: Database, receiver: Receiver, keyring: Keyring, *, now: datetime) -> None:
        """Begin the refreshes that are due, of the clients whose keyring wants them."""
        refreshing = [
            each.client_id for each in keyring.clients.values() if each.gateway is not None and each.gateway.refresh
        ]
        if not refreshing:
            return
        if self._monotonic() >= self._plan_at:
            plan = partial(tokens.plan_refreshes, client_ids=refreshing, limit=_PLANNED_MAX)
            if database.run(plan) == 0:
                self._plan_at = self._monotonic() + _PLAN_SECONDS
        due = partial(tokens.refreshes_due, client_ids=refreshing, now=now, limit=2 * REFRESHES_AT_ONCE_MAX)
        cause = Cause(CauseKind.GATEWAY, at=now)
        for authorization_id in database.run(due, read_only=True):
            begin = partial(requests.begin_due_refresh, authorization_id=authorization_id, cause=cause)
            _try(partial(receiver.run_work, begin, waits_for_held_rows=False), "refresh not begun")


def _try(do: Callable[[], object], what: str) -> bool:
    """Do one of several things, and say whether that went well. Raises `DatabaseUnavailableError` for all of them."""
    try:
        do()
    except DatabaseUnavailableError as error:
        if not error.is_held_row:
            raise
        return False
    except Exception as error:  # noqa: BLE001 -- what breaks keeps nothing else from being done
        _log.error(what, extra=failure(error))
        return False
    return True
