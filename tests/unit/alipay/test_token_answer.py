"""An answer of applyToken is a reason to refuse only where it has no token."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, strategies as st

from app.alipay.token_answer import TIME_MAX, TIME_MIN, is_success, read_login_id, read_time, slip_for


@given(time=st.datetimes(timezones=st.timezones() | st.just(UTC), allow_imaginary=False))
def test_every_time_is_read_in_utc_or_as_the_first_or_last_second_there_is(time: datetime) -> None:
    try:
        expected = min(time.astimezone(UTC), TIME_MAX)
    except OverflowError:
        expected = TIME_MIN if time.year == 1 else TIME_MAX
    assert read_time(time.isoformat()) == expected


def test_every_time_of_year_0_is_the_first_second_there_is() -> None:
    assert read_time("0000-02-29T12:00:00-08:00") == read_time("0000-12-31T23:59:59Z") == TIME_MIN
    assert read_time("0000-02-30T00:00:00Z") is None


def test_a_leap_second_is_the_second_before_it() -> None:
    assert read_time("2016-12-31T23:59:60Z") == datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert read_time("2017-01-01T07:59:60.5+08:00") == datetime(2016, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC)
    assert read_time("2016-12-31T23:60:00Z") is read_time("2016-12-31T23:58:60Z") is None


def test_the_letters_of_a_time_may_be_small() -> None:
    assert read_time("2016-12-31t23:59:59z") == datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)


@given(year=st.integers(10_000, 999_999_999), day=st.sampled_from(["01-01", "06-30", "12-31"]))
def test_every_time_beyond_year_9999_is_the_last_second_of_it(year: int, day: str) -> None:
    assert read_time(f"{year}-{day}T00:00:00+08:00") == read_time(f"+{year}-{day}T23:59:59Z") == TIME_MAX


@given(st.text() | st.from_regex(r"[+-]?[0-9]{0,12}-[0-9]{2}-[0-9]{2}[T ].*"))
def test_whatever_is_no_time_is_none(text: str) -> None:
    time = read_time(text)
    assert time is None or TIME_MIN <= time <= TIME_MAX


@pytest.mark.parametrize("result", [None, {}, {"resultStatus": "S"}])
def test_an_answer_may_leave_its_result_out(result: object) -> None:
    assert is_success(result)


@pytest.mark.parametrize("result", ["S", [], {"resultStatus": "F"}, {"resultStatus": None}, {"resultStatus": ["S"]}])
def test_every_other_result_is_no_success(result: object) -> None:
    assert not is_success(result)


def test_a_login_id_is_kept_secret() -> None:
    assert "some" not in repr(read_login_id("some***@example.com"))


KNOWN = ["accessToken", "accessTokenExpiryTime", "refreshToken", "refreshTokenExpiryTime", "authCode", "replaces"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("access_token", "accessToken"),
        ("acessToken", "accessToken"),
        ("AuthCode", "authCode"),
        ("replace", "replaces"),
        ("refresh-token-expiry-time", "refreshTokenExpiryTime"),
        ("accessTokenExpiry", "accessTokenExpiryTime"),
    ],
)
def test_a_misspelled_field_is_recognized(name: str, meant: str) -> None:
    assert slip_for(name, KNOWN) == meant


@pytest.mark.parametrize("name", ["", "态", "accessTokenType", "tokenType", "merchantRegion", "userId", "authClientId"])
def test_a_new_field_is_no_misspelling(name: str) -> None:
    assert slip_for(name, KNOWN) is None
