"""Read an answer of applyToken as the merchant passes it on: with all that came with it, and as it was written.

A token that cannot be reported is a user whose cancellation is never understood, so little of it is a reason to refuse.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from difflib import get_close_matches

from app.alipay.notification import USER_LOGIN_ID_CHARACTERS_MAX
from app.secret import Secret

#: The first and the last second that Python and both databases hold in UTC. A time beyond them is taken for them.
TIME_MIN = datetime(MINYEAR, 1, 1, tzinfo=UTC)
TIME_MAX = datetime(MAXYEAR, 12, 31, 23, 59, 59, tzinfo=UTC)

#: Nine digits are more than any calendar needs, and bound the time that reading them takes.
_TIME = re.compile(r"(?P<before_christ>-)?\+?(?P<year>[0-9]{4,9})-(?P<rest>[0-9]{2}-[0-9]{2}[T ].+)")
#: The calendar repeats itself after so many years, so a year that Python does not hold can be checked by another.
_YEARS_OF_CALENDAR = 400
#: A leap second (RFC 3339, 5.7), which Python does not hold either.
_LEAP_SECOND = re.compile(r"(?<=:59):60(?=[.,Z+-])")

#: One letter too many, too few or wrong in a name of ten; "accessTokenType" is no slip for "accessToken".
_SLIP_SIMILARITY_MIN = 0.88


def read_time(text: str) -> datetime | None:
    """Read an ISO 8601 time with its zone, in UTC; `None` is what cannot be read.

    Every time of RFC 3339 can be, which is what OpenAPI's `date-time` is. Alipay writes the end of tokens that do not
    end in its own zone, where that may be a year later. What lies beyond year 9999 becomes the last second of it, and
    what lies before year 1 the first.
    """
    match = _TIME.fullmatch(text.upper())
    if match is None or match["before_christ"]:
        return None
    year = int(match["year"])
    written = year if MINYEAR <= year <= MAXYEAR else 2000 + year % _YEARS_OF_CALENDAR
    try:
        time = datetime.fromisoformat(f"{written:04d}-{_LEAP_SECOND.sub(':59', match['rest'])}")
    except ValueError:
        return None
    if time.tzinfo is None:
        return None
    if year != written:
        return TIME_MIN if year < MINYEAR else TIME_MAX
    try:
        return min(time.astimezone(UTC), TIME_MAX)
    except OverflowError:
        return TIME_MIN if year == MINYEAR else TIME_MAX


def is_success(result: object) -> bool:
    """Say whether the result of an answer lets its token be reported. It may have been left out."""
    if not isinstance(result, Mapping):
        return result is None
    return bool(result.get("resultStatus", "S") == "S")


def read_login_id(value: object) -> Secret | None:
    """Read a userLoginId as a notification's is read: a bad one is the same as none."""
    if isinstance(value, str) and 0 < len(value) <= USER_LOGIN_ID_CHARACTERS_MAX:
        return Secret(value)
    return None


def slip_for(name: str, known: Iterable[str]) -> str | None:
    """Return which known field an unknown one is a misspelling of, if it looks like one.

    Other unknown fields are passed over: Alipay adds some to its answers.
    """
    letters = _letters(name)
    # Nobody misses the first letter, and a body may hold thousands of names.
    by_letters = {_letters(each): each for each in known if each[0] == letters[:1]}
    close = get_close_matches(letters, by_letters, n=1, cutoff=_SLIP_SIMILARITY_MIN)
    return by_letters[close[0]] if close else None


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()
