"""Choose which of the calls that are due a worker makes now, and put an attempt at each of them on record.

The most urgent come first, one for an authorization, as many as there is room for: a client whose gateway hangs, and
thousands of refreshes, leave some for the others.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from app import call_statements, calls
from app.alipay.keyring import Keyring
from app.call_statements import Standing
from app.gateway.attempts import BegunAttempt
from app.limits import CLIENT_CALLS_AT_ONCE_MAX, REFRESHES_AT_ONCE_MAX
from app.logs import failure
from app.models import Call
from app.state_machine import AuthorizationState
from app.vault import Vault, VaultError
from app.vocabulary import CallKind, CallStatus, CauseKind

_log = logging.getLogger(__name__)

#: Of each kind, what is looked at to choose from.
_PAGE = 100
#: For a call whose request does not open: another worker may have the vault key.
_UNREADABLE_SECONDS = 60.0
#: For a call of a client that this worker's keyring has no gateway of.
_OTHER_KEYRING_PAUSE = timedelta(seconds=2)
#: Why a call that the service began of its own accord is not made any more.
_SWITCHED_OFF = {
    CallKind.EXCHANGE: "The keyring says that the merchant exchanges codes itself.",
    CallKind.REFRESH: "The keyring says that the merchant refreshes tokens itself.",
}


class DueCalls:
    """The calls that are due, as one worker sees them."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        #: Calls whose request does not open here, and until when they are left alone.
        self._unreadable: dict[UUID, float] = {}

    def begin(
        self,
        session: Session,
        *,
        vault: Vault,
        keyring: Keyring,
        in_flight: Collection[BegunAttempt],
        room: int,
        now: datetime,
    ) -> list[BegunAttempt]:
        """Put attempts on record, and return them, given those under way. What is not wanted any more ends here."""
        by_client = Counter(each.auth_state_key[0] for each in in_flight)
        full = [client for client, count in by_client.items() if count >= CLIENT_CALLS_AT_ONCE_MAX]
        due = call_statements.lock_due(session, now=now, limit=_PAGE, full=full)
        busy = call_statements.authorizations_in_flight(session, [each.authorization_id for each in due])
        refreshes = sum(each.kind is CallKind.REFRESH for each in in_flight)
        standings = call_statements.standings(session, due)
        self._unreadable = {key: until for key, until in self._unreadable.items() if until > self._monotonic()}
        chosen: dict[UUID, bytes] = {}
        for each in due:
            if each.authorization_id in busy or by_client[each.client_id] >= CLIENT_CALLS_AT_ONCE_MAX:
                continue
            if each.id in self._unreadable or (each.kind == CallKind.REFRESH and refreshes >= REFRESHES_AT_ONCE_MAX):
                continue
            if len(chosen) >= room:
                break
            if _turn_down(session, keyring, each, standings[each.authorization_id], now=now):
                continue
            try:
                chosen[each.id] = calls.request_body(vault, each)
            except VaultError as error:
                _log.error("request does not open", extra={"call": each.id, **failure(error)})
                self._unreadable[each.id] = self._monotonic() + _UNREADABLE_SECONDS
                continue
            busy.add(each.authorization_id)
            by_client[each.client_id] += 1
            refreshes += each.kind == CallKind.REFRESH
        begun = [each for each in due if each.id in chosen]
        call_statements.begin_attempts(session, begun, now=now)
        return [
            BegunAttempt(
                call_id=each.id,
                number=each.attempts,
                kind=CallKind(each.kind),
                auth_state_key=standings[each.authorization_id].auth_state_key,
                subject_index=each.subject_index,
                body=chosen[each.id],
            )
            for each in begun
        ]


def _turn_down(session: Session, keyring: Keyring, call: Call, standing: Standing, *, now: datetime) -> bool:
    """End or postpone a locked call that is not to be made, and say whether it was one.

    It ends where its token has come otherwise, or the keyring does not want it any more; it is postponed where this
    worker's keyring has no gateway for it.
    """
    client = keyring.clients.get(call.client_id)
    gateway = None if client is None else client.gateway
    if gateway is None:
        # Another worker may have a newer keyring. What is not made in time is told.
        call.due_at, call.reason = now + _OTHER_KEYRING_PAUSE, "The client has no gateway in the keyring."
        return True
    if call.kind == CallKind.EXCHANGE and standing.state != AuthorizationState.AUTHCODE_ISSUED:
        calls.finish(call, CallStatus.UNNEEDED, calls.TOKEN_CAME_OTHERWISE, at=now)
        return True
    is_switched_off = call.cause == CauseKind.GATEWAY and (
        (call.kind == CallKind.EXCHANGE and not gateway.exchange)
        or (call.kind == CallKind.REFRESH and not gateway.refresh)
    )
    if not is_switched_off:
        return False
    if call.kind == CallKind.REFRESH:
        call_statements.let_refresh_be_asked_again(session, call)
    if call.is_uncertain:
        # Alipay may have carried it out: that is told.
        calls.make_overdue(call, _SWITCHED_OFF[CallKind(call.kind)], at=now)
    else:
        calls.finish(call, CallStatus.UNNEEDED, _SWITCHED_OFF[CallKind(call.kind)], at=now)
    return True
