"""What support asks of a service that has run for years: the questions of docs/questions.md, over HTTP."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from statistics import median
from typing import Any
from urllib.parse import urlencode

from benchmarks.history import user_ref_of

#: Each is asked so often, of other users where it is about one.
TIMES = 30
_MS = 1000


class QuestionError(Exception):
    """The service answered a question of the bench with something else than what was asked for."""


@dataclass(frozen=True)
class Question:
    """A question, by the name of its plot, and the request that asks it of one of so many authorizations."""

    name: str
    title: str
    path: Callable[[int, datetime], str]
    #: What the answer lists.
    has: str = "authorizations"


def _listing(**wanted: object) -> str:
    return f"/v1/authorizations?{urlencode(wanted)}"


def _ago(now: datetime, **time: float) -> str:
    return (now - timedelta(**time)).isoformat()


QUESTIONS = (
    Question("by-user", "a user's page, ms", lambda number, _: _listing(userRef=user_ref_of(number))),
    Question("by-wallet-id", "a user of the wallet, ms", lambda number, _: _listing(userId=f"2088{number:012}")),
    Question("by-state", "the newest 50 in a state, ms", lambda _, __: _listing(state="token_active")),
    Question(
        "ending",
        "50 of a wallet that end within ten days, ms",
        lambda _, now: _listing(customerBelongsTo="GCASH", expiresBefore=_ago(now, days=-10)),
    ),
    Question(
        "canceled",
        "50 canceled yesterday with reasons, ms",
        lambda _, now: _listing(
            state="canceled", updatedAfter=_ago(now, days=2), updatedBefore=_ago(now, days=1), reasons="true"
        ),
    ),
    Question(
        "without-code",
        "the oldest 1000 without a code, ms",
        lambda _, now: _listing(state="consulted", createdBefore=_ago(now, days=1), order="oldest", limit=1000),
    ),
    Question("feed", "a page of 100 events, ms", lambda _, __: "/v1/events?limit=100", has="events"),
    Question(
        "feed-of-type",
        "a page of 100 events of a rare type, ms",
        lambda _, __: "/v1/events?limit=100&types=authorization.exchange_failed",
        has="events",
    ),
)


def ask(port: int, key: str, authorizations: int, *, now: datetime | None = None) -> dict[str, float]:
    """Ask all of it, and give the median of the milliseconds that each answer takes, by the name of the question."""
    now = now or datetime.now(UTC)
    return {each.name: median(_asked(port, key, each, authorizations, now)) for each in QUESTIONS}


def _asked(port: int, key: str, question: Question, authorizations: int, now: datetime) -> Iterator[float]:
    for turn in range(TIMES):
        # One that had a code and a token: all with this remainder did.
        number = turn * (authorizations // 60 // TIMES) * 60 + 7
        yield _ms(port, key, question, question.path(number, now))


def _ms(port: int, key: str, question: Question, path: str) -> float:
    """Give how long an answer takes, over a connection of its own as a merchant's service might make one."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    started = time.perf_counter()
    connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    took = (time.perf_counter() - started) * _MS
    connection.close()
    if question.has not in answer:
        message = f"{path}: {answer}"
        raise QuestionError(message)
    return took
