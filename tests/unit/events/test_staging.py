"""Which event tells of a call that ended badly, and what it says."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from app.events.staging import EventType, event_of_call
from app.models import Authorization, Call
from app.vocabulary import CallKind, CallStatus

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TYPES = {
    CallKind.CONSULT: None,
    CallKind.EXCHANGE: EventType.EXCHANGE_FAILED,
    CallKind.REFRESH: EventType.REFRESH_FAILED,
    CallKind.REVOKE: EventType.REVOKE_FAILED,
}


@pytest.mark.parametrize("status", [CallStatus.FAILED, CallStatus.UNDETERMINED])
@pytest.mark.parametrize("kind", list(CallKind))
def test_a_call_that_ended_badly_is_told_with_its_code_and_moves_nothing(kind: CallKind, status: CallStatus) -> None:
    authorization = Authorization(id=UUID(int=1), version=3)
    call = Call(id=UUID(int=2), kind=kind, status=status, result_code="PROCESS_FAIL")
    event = event_of_call(authorization, call, at=NOON)
    if event is None:
        assert TYPES[kind] is None
        return
    assert (event.type, event.authorization_id, event.at) == (TYPES[kind], authorization.id, NOON)
    assert (event.call_id, event.call_status, event.result_code) == (call.id, status, "PROCESS_FAIL")
    # The sequence of the last move: it is neither dropped as old, nor does it make a later move old.
    assert event.sequence == authorization.version
    assert event.event_id.version == 7
