"""The merchant's endpoints: read the feed, and wait for what comes next."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from sqlalchemy import update
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from app import calls, long_polling
from app.authorizations import Cause
from app.events import feed
from app.events.staging import EventType
from app.models import Feed
from app.simulator.draft import authcode_created, token_canceled, token_created
from app.unit_of_work import UnitOfWork
from app.vocabulary import CallKind, CallStatus, CauseKind
from tests.builders import CLIENT_ID
from tests.integration.http_client import HttpClient, problem

EVENTS = "/v1/events"


@pytest.fixture
def client() -> Iterator[ThreadPoolExecutor]:
    """Clients that wait beside the test."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


def number(http: HttpClient, *endpoints: str) -> int:
    """What the worker does all the time."""
    work = partial(feed.number, subscribers=lambda _type: endpoints, now=datetime.now(UTC))
    return http.service.database.run(work)


def a_life(http: HttpClient, auth_state: str = "s-1") -> None:
    http.consult(auth_state, userRef="u-1")
    http.notify(authcode_created(auth_state, f"code-{auth_state}"))
    http.notify(token_created(auth_state, f"token-{auth_state}"))
    http.notify(token_canceled(f"token-{auth_state}"))
    number(http)


def kinds(document: dict[str, Any]) -> list[str]:
    return [each["type"].removeprefix("authorization.") for each in document["events"]]


def until_somebody_waits(http: HttpClient, how_many: int = 1) -> None:
    deadline = time.monotonic() + 10
    while http.service.long_polling.waiting < how_many:
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_life_is_read_page_by_page(http: HttpClient) -> None:
    a_life(http)
    first = http.get(f"{EVENTS}?limit=3").get_json()
    assert (kinds(first), first["next"], first["more"]) == (["consulted", "authcode_issued", "token_active"], "3", True)
    last = http.get(f"{EVENTS}?after=3").get_json()
    assert (kinds(last), last["next"], last["more"]) == (["canceled"], "4", False)
    assert http.get(f"{EVENTS}?after=4").get_json() == {"events": [], "next": "4", "more": False}


def test_the_feed_begins_empty(http: HttpClient) -> None:
    assert http.get(EVENTS).get_json() == {"events": [], "next": "0", "more": False}
    assert http.get(f"{EVENTS}?after=0").status_code == 200


@pytest.mark.parametrize(
    ("types", "told"),
    [
        ("authorization.canceled", ["canceled"]),
        ("authorization.canceled,authorization.consulted", ["consulted", "canceled"]),
        ("authorization.c*", ["consulted", "canceled"]),
        ("authorization.*", ["consulted", "authcode_issued", "token_active", "canceled"]),
        ("*", ["consulted", "authcode_issued", "token_active", "canceled"]),
    ],
)
def test_types_narrow_the_feed(http: HttpClient, types: str, told: list[str]) -> None:
    a_life(http)
    page = http.get(f"{EVENTS}?types={types}").get_json()
    assert (kinds(page), page["next"]) == (told, "4")


@pytest.mark.parametrize("types", ["", "canceled", "authorization.cancelled", "a.*", "*,", "?*", "x"])
def test_an_unknown_type_is_refused_with_those_that_there_are(http: HttpClient, types: str) -> None:
    refused = http.get(f"{EVENTS}?types={types}")
    assert problem(refused) == (422, "invalid")
    (error,) = refused.get_json()["errors"]
    assert error["field"] == "types"
    assert all(each in error["message"] for each in EventType)


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("wait=26", "wait"),
        ("wait=-1", "wait"),
        ("wait=1.5", "wait"),
        ("limit=1001", "limit"),
        ("limit=0", "limit"),
        ("after=", "after"),
        ("after=-1", "after"),
        ("after=1e3", "after"),
        ("after=" + "9" * 19, "after"),
        ("type=authorization.canceled", "type"),
    ],
)
def test_a_query_of_another_form_is_refused(http: HttpClient, query: str, wrong: str) -> None:
    refused = http.get(f"{EVENTS}?{query}")
    assert problem(refused) == (422, "invalid")
    assert [each["field"] for each in refused.get_json()["errors"]] == [wrong]


def test_a_reader_behind_the_purged_is_told_where_to_read_on(http: HttpClient) -> None:
    a_life(http)
    late = datetime.now(UTC) + timedelta(days=1)
    assert http.service.database.run(partial(feed.purge, before=late)) == 4
    gone = http.get(f"{EVENTS}?after=3")
    assert problem(gone) == (410, "cursor-gone")
    assert gone.get_json()["oldest"] == "4"
    assert "purged" in gone.get_json()["detail"]
    assert http.get(f"{EVENTS}?after=4").get_json()["events"] == []


def test_a_cursor_that_the_feed_never_had_is_told_apart(http: HttpClient) -> None:
    a_life(http)
    never = http.get(f"{EVENTS}?after=5&wait=25")
    assert problem(never) == (410, "cursor-gone")
    assert never.get_json()["oldest"] == "0"
    assert "never had an event 5" in never.get_json()["detail"]


def test_the_feed_needs_a_key(http: HttpClient) -> None:
    assert problem(http.get(EVENTS, key=None)) == (401, "unauthorized")


def fail_a_call_of_each_kind(http: HttpClient, auth_state: str = "s-1") -> None:
    """End calls badly, as whoever makes them does."""

    def fail(work: UnitOfWork) -> None:
        work.lock_and_load(states=[(CLIENT_ID, auth_state)])
        authorization = work.authorization(CLIENT_ID, auth_state)
        assert authorization is not None
        for kind in CallKind:
            cause = Cause(CauseKind.GATEWAY, at=datetime.now(UTC))
            call = calls.new(work.vault, authorization, kind, body=b"{}", subject=None, cause=cause, deadline_at=None)
            calls.finish(call, CallStatus.FAILED, "Alipay refused it.", at=cause.at)
            work.begin_call(call)
            work.tell_of_failed_call(authorization, call, at=cause.at)

    http.service.receiver.run_work(fail)
    number(http)


def test_every_event_is_as_its_webhook_is_described(http: HttpClient) -> None:
    a_life(http)
    http.consult("s-2")
    fail_a_call_of_each_kind(http, "s-2")
    described = http.description()
    assert set(described["webhooks"]) == set(EventType)
    events = http.get(EVENTS).get_json()["events"]
    assert {each["type"] for each in events} == set(EventType) - {EventType.TOKEN_REFRESHED}
    for event in events:
        webhook = described["webhooks"][event["type"]]["post"]
        schema = webhook["requestBody"]["content"]["application/json"]["schema"]
        whole = {**schema, "components": described["components"]}
        Draft202012Validator(whole, format_checker=FormatChecker()).validate(event)
        names = {each["name"] for each in webhook["parameters"] if each["in"] == "header"}
        assert names == {"webhook-id", "webhook-timestamp", "webhook-signature"}


# --- waiting ---------------------------------------------------------------------------------------------------------


def test_a_reader_who_waits_is_told_as_soon_as_there_is_something(http: HttpClient, client: ThreadPoolExecutor) -> None:
    a_life(http)
    asked = client.submit(http.get, f"{EVENTS}?after=4&wait=25")
    until_somebody_waits(http)
    http.consult("s-2")
    number(http)
    page = asked.result(timeout=10).get_json()
    assert (kinds(page), page["next"]) == (["consulted"], "5")
    assert asked.result().headers["X-Request-Id"]


def test_a_reader_waits_on_where_what_comes_is_of_other_types(http: HttpClient, client: ThreadPoolExecutor) -> None:
    asked = client.submit(http.get, f"{EVENTS}?types=authorization.canceled&wait=25")
    until_somebody_waits(http)
    http.consult("s-1")
    number(http)
    assert not happens(asked)
    a_life(http)
    page = asked.result(timeout=10).get_json()
    assert (kinds(page), page["next"]) == (["canceled"], "4")


def test_when_the_time_is_up_the_answer_is_empty_and_says_how_far_it_looked(
    http: HttpClient, client: ThreadPoolExecutor
) -> None:
    asked = client.submit(http.get, f"{EVENTS}?types=authorization.canceled&wait=2")
    until_somebody_waits(http)
    http.consult("s-1")
    number(http)
    assert asked.result(timeout=10).get_json() == {"events": [], "next": "1", "more": False}


def test_what_is_there_already_is_not_waited_for(http: HttpClient) -> None:
    a_life(http)
    assert len(http.get(f"{EVENTS}?wait=25").get_json()["events"]) == 4
    assert http.service.long_polling.waiting == 0


def test_beyond_the_places_nobody_waits(http: HttpClient, client: ThreadPoolExecutor) -> None:
    http.service.long_polling = long_polling.LongPolling(places=1)
    asked = client.submit(http.get, f"{EVENTS}?wait=25")
    until_somebody_waits(http)
    refused = http.get(f"{EVENTS}?wait=25")
    assert problem(refused) == (503, "unavailable")
    assert int(refused.headers["Retry-After"]) > 0
    assert http.get(EVENTS).status_code == 200
    http.service.long_polling.close()
    assert asked.result(timeout=10).get_json()["events"] == []


def test_who_waits_is_told_what_goes_wrong_as_if_the_request_were_still_in_hand(
    http: HttpClient, client: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    asked = client.submit(http.get, f"{EVENTS}?wait=25", headers={"X-Request-Id": "r-1"})
    until_somebody_waits(http)

    def lose(session: Session) -> None:
        session.execute(update(Feed).values(last_position=10, purged_through=5))

    # A restore under those who wait: what they have read is not there.
    http.service.database.run(lose)
    gone = asked.result(timeout=10)
    assert problem(gone) == (410, "cursor-gone")
    (line,) = [each for each in caplog.records if each.message == "request refused"]
    assert (line.__dict__["request_id"], line.__dict__["key"]) == ("r-1", "shop")


def test_the_thread_that_looks_ends_with_the_last_who_waits(http: HttpClient, client: ThreadPoolExecutor) -> None:
    before = set(threading.enumerate())
    asked = [client.submit(http.get, f"{EVENTS}?wait=1") for _ in range(3)]
    until_somebody_waits(http, 3)
    looking = [each for each in set(threading.enumerate()) - before if each.name == "long-polling"]
    assert len(looking) == 1
    assert [each.result(timeout=10).status_code for each in asked] == [200] * 3
    looking[0].join(timeout=10)
    assert not looking[0].is_alive()


def happens(asked: "Future[TestResponse]", *, seconds: float = 0.7) -> bool:
    """Whether an answer comes within a few looks."""
    time.sleep(seconds)
    return asked.done()


# --- waiting for a code ----------------------------------------------------------------------------------------------


def test_who_waits_for_a_code_has_it_as_soon_as_it_comes(
    http: HttpClient, client: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = http.at(http.consult(), "authcode")
    asked = client.submit(http.get, f"{path}?wait=25")
    until_somebody_waits(http)
    http.notify(authcode_created("s-1", "code-1"))
    answer = asked.result(timeout=10)
    assert answer.get_json()["authCode"] == "code-1"
    assert answer.headers["Cache-Control"] == "no-store"
    (line,) = [each for each in caplog.records if each.message == "secret read"]
    assert (line.__dict__["what"], line.__dict__["key"]) == ("authcode", "shop")


def test_a_code_that_is_there_is_not_waited_for(http: HttpClient) -> None:
    path = http.at(http.consult(), "authcode")
    http.notify(authcode_created("s-1", "code-1"))
    assert http.get(f"{path}?wait=25").get_json()["authCode"] == "code-1"


def test_when_the_time_is_up_without_a_code_the_answer_is_as_without_waiting(http: HttpClient) -> None:
    path = http.at(http.consult(), "authcode")
    waited = http.get(f"{path}?wait=1")
    assert problem(waited) == (409, "no-authcode")
    assert waited.get_json() == http.get(path).get_json()


def test_nobody_waits_for_a_code_that_cannot_come_any_more(http: HttpClient, client: ThreadPoolExecutor) -> None:
    direct = http.consult("s-1", flow="direct")
    assert problem(http.get(f"{http.at(direct, 'authcode')}?wait=25")) == (409, "no-authcode")
    other = http.consult("s-2")
    asked = client.submit(http.get, f"{http.at(other, 'authcode')}?wait=25")
    until_somebody_waits(http)
    # The same consult, which now says that it has no code.
    http.consult("s-2", flow="direct")
    assert problem(asked.result(timeout=10)) == (409, "no-authcode")


def test_an_unknown_authorization_is_not_waited_for(http: HttpClient) -> None:
    nobody = {"id": "00000000-0000-0000-0000-000000000000"}
    assert problem(http.get(f"{http.at(nobody, 'authcode')}?wait=25")) == (404, "authorization-not-found")
