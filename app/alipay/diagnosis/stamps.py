"""Which time and client id may have been signed, where others arrived."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import quote, unquote

from app.alipay.diagnosis.changes import Alternative, Change, distinct
from app.alipay.diagnosis.keys import SANDBOX_PREFIX
from app.alipay.token_answer import read_time

#: A merchant has a handful.
_CLIENTS_MAX = 50
_CHARACTERS_MAX = 64
#: Come before other clients.
_LIKELY_TIMES = 14
_EPOCH_SECONDS = re.compile(r"[0-9]{9,11}")
_EPOCH_MILLISECONDS = re.compile(r"[0-9]{12,14}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ZONES = (UTC, timezone(timedelta(hours=8)))
#: Where a sender, or a proxy that knows this one, may have put the time.
_TIME_HEADERS = ("response-time", "request_time", "x-request-time", "date")

#: A client id and a time: what stands before the body.
Stamp = tuple[str, str]


def stamps(
    client_id: str, request_time: str, *, client_ids: Sequence[str], headers: Mapping[str, str]
) -> Iterator[Alternative[Stamp]]:
    """Give every other client id or time that may have been signed, the likeliest first."""
    absent = Change.MISSING_HEADER
    of_time = Change.TIME_REFORMATTED if request_time else absent
    of_client = Change.OTHER_CLIENT_ID if client_id else absent

    def alternatives() -> Iterator[Alternative[Stamp]]:
        if (once := _said_once(client_id)) is not None:
            yield Alternative((once, request_time), (absent,))
        if (once := _said_once(request_time)) is not None:
            yield Alternative((client_id, once), (absent,))
        named = [*client_ids[:_CLIENTS_MAX], headers.get("client_id", ""), *_twins(client_id)]
        likeliest, others = named[0], named[1:]
        yield Alternative((likeliest, request_time), (of_client,))
        for header in _TIME_HEADERS:
            if headers.get(header):
                yield Alternative((client_id, headers[header]), (of_time,))
        times = [Alternative((client_id, other), (Change.TIME_REFORMATTED,)) for other in _other_times(request_time)]
        yield from times[:_LIKELY_TIMES]
        yield from (Alternative((other, request_time), (of_client,)) for other in others if other)
        yield from times[_LIKELY_TIMES:]

    yield from distinct((client_id, request_time), alternatives())


def _said_once(value: str) -> str | None:
    """Undo the doubling of a header, which arrives joined by a comma."""
    first, comma, second = value.partition(",")
    return first if comma and first == second.strip() else None


def _twins(client_id: str) -> Iterator[str]:
    """Name the same merchant in the other environment, and spellings of the same id."""
    if client_id.startswith(SANDBOX_PREFIX):
        yield client_id.removeprefix(SANDBOX_PREFIX)
    elif client_id:
        yield SANDBOX_PREFIX + client_id
    yield client_id.upper()


def _other_times(request_time: str) -> Iterator[str]:
    if not request_time or len(request_time) > _CHARACTERS_MAX:
        return
    # Form decoding made a blank of the plus before the offset.
    with_plus = request_time.replace(" ", "+")
    instant = _instant(request_time) or _instant(with_plus) or _instant(unquote(request_time, "latin-1"))
    yield with_plus
    if instant is None:
        yield unquote(request_time, "latin-1")
        yield quote(request_time, safe="", encoding="latin-1")
        return
    seconds = int((instant - _EPOCH) // timedelta(seconds=1))
    milliseconds = int((instant - _EPOCH) // timedelta(milliseconds=1))
    yield from (str(milliseconds), str(seconds), str(seconds * 1000))
    yield from _iso_forms(instant)
    yield quote(request_time, safe="", encoding="latin-1")
    if milliseconds % 1000 == 0:
        # Only the seconds arrived: one of a thousand times was signed.
        yield from (str(seconds * 1000 + rest) for rest in range(1000))


def _instant(text: str) -> datetime | None:
    if _EPOCH_SECONDS.fullmatch(text):
        return _EPOCH + timedelta(seconds=int(text))
    if _EPOCH_MILLISECONDS.fullmatch(text):
        return _EPOCH + timedelta(milliseconds=int(text))
    return read_time(text)


def _iso_forms(instant: datetime) -> Iterator[str]:
    """Write an instant as ISO 8601: to the second first, with a fraction, and without a zone."""
    zones = dict.fromkeys((*_ZONES, instant.tzinfo))
    try:
        local = [instant.astimezone(zone) for zone in zones]
    except OverflowError:
        return
    texts = [(each.strftime("%Y-%m-%dT%H:%M:%S"), each.strftime("%z")) for each in local]
    milliseconds, microseconds = f"{instant.microsecond // 1000:03}", f"{instant.microsecond:06}"
    for fraction in ("", f".{milliseconds}", f".{microseconds}", f".{microseconds}0"):
        for text, offset in texts:
            yield from (f"{text}{fraction}{zone}" for zone in _zones_of(offset))
    for text, _ in texts:
        yield from (text, text.replace("T", " "))


def _zones_of(offset: str) -> tuple[str, ...]:
    return (*(("Z",) if offset == "+0000" else ()), f"{offset[:3]}:{offset[3:5]}", offset)
