"""Alipay's day of redeliveries on a clock that is moved by hand, with outages of any length at any time."""

from datetime import datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from typing_extensions import override

from app.alipay.delivery import Delivery
from app.receiver import Receiver
from app.simulator.draft import token_created
from app.simulator.sender import REDELIVERY_DELAYS, Sender, ServiceResponse, deliver
from tests.builders import a_signed_delivery
from tests.integration.stage import NOON, Clock, Stage

#: When each attempt is made, counted from the first.
ATTEMPTS = [sum(REDELIVERY_DELAYS[1 : number + 1], timedelta()) for number in range(len(REDELIVERY_DELAYS))]
A_DAY = timedelta(hours=25)

moments = st.one_of(st.sampled_from(ATTEMPTS), st.timedeltas(min_value=timedelta(), max_value=A_DAY))
outages = st.lists(st.tuples(moments, moments).map(sorted).map(tuple), max_size=6)

Outage = tuple[timedelta, timedelta]


class LocalSender(Sender):
    """Reaches a receiver directly, where the service is up at that moment."""

    def __init__(self, receiver: Receiver, clock: Clock, outages: list[Outage]) -> None:
        super().__init__("http://merchant.example/alipay/notifyAuthorization")
        self.receiver = receiver
        self.clock = clock
        self.outages = outages

    @override
    def send(self, delivery: Delivery) -> ServiceResponse:
        if is_down(self.clock.now - NOON, self.outages):
            return ServiceResponse(error="nobody there")
        answer = self.receiver.receive(delivery).answer
        return ServiceResponse(answer.status, answer.body)


def is_down(moment: timedelta, outages: list[Outage]) -> bool:
    return any(start <= moment < end for start, end in outages)


def redeliver(
    stage: Stage,
    auth_state: str,
    outages: list[Outage],
    *,
    freshness: timedelta | None = None,
    signs_anew: bool = False,
) -> list[ServiceResponse]:
    """Play one notification on the whole schedule, and give the answers."""
    clock = Clock()
    receiver = Receiver(stage.database, stage.keyring, stage.vault, freshness=freshness, clock=clock)

    def sign() -> Delivery:
        signed_at: datetime = clock.now if signs_anew else NOON
        request_time = str(int(signed_at.timestamp() * 1000))
        body = token_created(auth_state, f"token-{auth_state}").body()
        return a_signed_delivery(stage.alipay_key, request_time=request_time, body=body)

    def sleep(delay: timedelta) -> None:
        clock.now += delay

    return list(deliver(LocalSender(receiver, clock, outages), sign, sleep=sleep))


# Every example has an authorization of its own, so the database can be the same.
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(outages=outages, signs_anew=st.booleans())
@example(outages=[(timedelta(), A_DAY)], signs_anew=False)
@example(outages=[(timedelta(), ATTEMPTS[-1])], signs_anew=False)
def test_a_notification_is_applied_if_and_only_if_one_attempt_meets_a_service_that_is_up(
    stage: Stage, outages: list[Outage], *, signs_anew: bool
) -> None:
    auth_state = f"s-{uuid4()}"
    stage.consult(auth_state, flow="direct")
    answers = redeliver(stage, auth_state, outages, signs_anew=signs_anew)
    received = [number for number, moment in enumerate(ATTEMPTS) if not is_down(moment, outages)]
    assert stage.state(auth_state) == ("token_active" if received else "consulted")
    assert len(answers) == (received[0] + 1 if received else len(ATTEMPTS))
    assert answers[-1].acknowledged == bool(received)


@pytest.mark.parametrize("attempt", range(len(ATTEMPTS)))
def test_without_a_freshness_no_redelivery_is_too_old(stage: Stage, attempt: int) -> None:
    stage.consult(flow="direct")
    redeliver(stage, "s-1", [(timedelta(), ATTEMPTS[attempt])])
    assert stage.state() == "token_active"


def test_a_freshness_refuses_what_is_older_only_where_redeliveries_are_not_signed_anew(stage: Stage) -> None:
    """What the page on configuration says of a freshness under a day."""
    outage = [(timedelta(), timedelta(hours=2))]
    stage.consult(flow="direct")
    stale = redeliver(stage, "s-1", outage, freshness=timedelta(hours=1))
    assert {answer.status for answer in stale if not answer.error} == {401}
    assert stage.state() == "consulted"
    assert redeliver(stage, "s-1", outage, freshness=timedelta(hours=1), signs_anew=True)[-1].acknowledged
    assert stage.state() == "token_active"


def test_a_freshness_of_more_than_a_day_loses_no_redelivery(stage: Stage) -> None:
    stage.consult(flow="direct")
    late = [(timedelta(), ATTEMPTS[-1])]
    assert redeliver(stage, "s-1", late, freshness=timedelta(seconds=90_000))[-1].acknowledged
