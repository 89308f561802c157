"""A request-time is asked for its age only when an operator wants it asked."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from app.alipay.signature import NotAuthenticError, check_freshness
from tests.builders import a_delivery

SENT_AT = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
LIMIT = timedelta(hours=25)


@pytest.mark.parametrize(
    "request_time",
    [
        "1795312800000",
        "2026-11-22T02:00:00Z",
        "2026-11-22T10:00:00+08:00",
        "2026-11-22T10:00:00+0800",
        "2026-11-21T21:00:00-05:00",
        "2026-11-22T02:00:00.09Z",
        "2026-11-22T02:00:00.123Z",
        "2026-11-22T02:00:00.1234567Z",
        "2026-11-22T10:00:00.1234567+08:00",
    ],
)
class TestEveryShapeInUse:
    def test_is_fresh_up_to_the_limit(self, request_time: str) -> None:
        check_freshness(a_delivery(request_time=request_time), now=SENT_AT + LIMIT, limit=LIMIT)

    def test_is_stale_a_second_after_the_limit(self, request_time: str) -> None:
        with pytest.raises(NotAuthenticError) as refusal:
            check_freshness(
                a_delivery(request_time=request_time), now=SENT_AT + LIMIT + timedelta(seconds=1), limit=LIMIT
            )
        assert (refusal.value.cause, refusal.value.result_code) == ("stale", "INVALID_SIGNATURE")


def test_time_to_come_is_fresh() -> None:
    check_freshness(a_delivery(request_time="2026-11-23T00:00:00Z"), now=SENT_AT, limit=timedelta())


@pytest.mark.parametrize(
    "request_time",
    ["", "yesterday", "2026-11-22T02:00:00", "2026-11-22", "-1", "9" * 400, "\uff11795312800000"],
)
def test_time_that_cannot_be_read_is_stale(request_time: str) -> None:
    with pytest.raises(NotAuthenticError):
        check_freshness(a_delivery(request_time=request_time), now=SENT_AT, limit=LIMIT)


@given(
    st.text()
    | st.text("0123456789", max_size=20)
    | st.datetimes(timezones=st.timezones()).map(datetime.isoformat)
    | st.sampled_from(["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
)
def test_any_request_time_is_fresh_or_stale(request_time: str) -> None:
    try:
        check_freshness(a_delivery(request_time=request_time), now=SENT_AT, limit=LIMIT)
    except NotAuthenticError as refusal:
        assert refusal.cause == "stale"  # noqa: PT017 -- either way is right, and this one only for this cause
