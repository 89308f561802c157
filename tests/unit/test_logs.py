"""One line for each thing that happened, and no value can forge another."""

import logging

import pytest

from app.logs import FieldFormatter, failure


def logged(message: str, **fields: object) -> str:
    record = logging.makeLogRecord({"msg": message, "levelname": "INFO"} | fields)
    return FieldFormatter().format(record) + "\n"


def test_a_line_has_a_time_in_utc_a_level_a_message_and_its_fields() -> None:
    time, level, rest = logged("delivery stored", entry=7, outcome="applied", duplicate=False).split(" ", 2)
    assert time.endswith("Z")
    assert level == "INFO"
    assert rest == "delivery stored entry=7 outcome=applied duplicate=false\n"


def test_an_empty_field_is_left_out() -> None:
    assert logged("delivery stored", reason=None).endswith("delivery stored\n")


@pytest.mark.parametrize("value", ["a b", "a\nb", 'a"b', "a=b", "用户", "\ud800", "\x1b[31m", "\u2028"])
def test_a_value_stays_within_its_quotes_on_its_line(value: str) -> None:
    line = logged("m", field=value)
    assert line.isascii()
    assert line.count("\n") == 1
    assert '="' in line


def test_a_failure_is_described_without_its_words() -> None:
    with pytest.raises(ValueError, match="token-1") as caught:
        int("token-1")
    described = failure(caught.value)
    assert described["error"] == "ValueError"
    assert "test_logs" in described["trace"]
    assert "token-1" not in str(described)
