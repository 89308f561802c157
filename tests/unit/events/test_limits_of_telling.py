"""The limits of telling fit each other and those of requests, and the page for operators says the same numbers."""

import re

from app import worker
from app.events import deliveries, feed, numbering, schedule, sender, sending
from app.leases import BEAT_SECONDS, HELD_SECONDS, TAKEOVER_SECONDS
from app.limits import ANSWER_SECONDS_MAX, STOP_SECONDS_MAX
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "capacity.md").read_text(encoding="utf-8")

#: What the page says, in the order of its rows.
NUMBERS = [
    f"{sender.POLL_SECONDS} s",
    str(feed.NUMBERED_AT_ONCE_MAX),
    str(numbering.SET_ASIDE_MAX),
    f"{BEAT_SECONDS:g} s",
    f"{HELD_SECONDS:g} s",
    f"{TAKEOVER_SECONDS:g} s",
    str(sender.AT_ONCE_MAX),
    f"{sending.SECONDS_MAX:g} s",
    f"{sending.ANSWER_BYTES_MAX // 1024} KiB",
    str(sender.FAILURES_MAX),
    f"{schedule.RETRY_AFTER_MAX.total_seconds() / 3600:g} h",
    f"{worker.RETENTION.days} days",
    f"{deliveries.COUNTED_MAX:,}",
]


def test_the_page_says_how_telling_is_bounded() -> None:
    section = PAGE.partition("## Telling the merchant's systems\n")[2]
    rows = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)
    assert rows[1:] == NUMBERS
    assert f"each for {numbering.RETRY_SECONDS:g} s" in section
    assert f"tried every {sender.PROBE_SECONDS:g} s" in section
    assert feed.PURGED_AT_ONCE_MAX == feed.NUMBERED_AT_ONCE_MAX


def test_a_holder_has_a_second_chance_and_stops_before_another_may_begin() -> None:
    assert 2 * BEAT_SECONDS < HELD_SECONDS
    # What is started in the last moment has begun when another takes over.
    assert HELD_SECONDS + BEAT_SECONDS < TAKEOVER_SECONDS


def test_what_is_in_flight_is_recorded_before_the_process_is_killed() -> None:
    assert sending.SECONDS_MAX + 2 * ANSWER_SECONDS_MAX < STOP_SECONDS_MAX


def test_what_is_kept_is_older_than_anything_that_is_still_sent() -> None:
    assert schedule.AGE_MAX < worker.RETENTION
