"""The feed has every move once, in an order in which nothing is ever added behind what a reader has seen."""

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.documents import event_document
from app.events import deliveries, feed
from app.events.feed import PastCursorError, PublishedEvent
from app.simulator.draft import authcode_created, token_canceled, token_created
from tests.builders import CLIENT_ID
from tests.integration.stage import NOON, Stage


def a_life(stage: Stage, auth_state: str = "s-1") -> None:
    stage.consult(auth_state, user_ref="u-1")
    stage.notify(authcode_created(auth_state, f"code-{auth_state}"))
    stage.notify(token_created(auth_state, f"token-{auth_state}"))
    stage.notify(token_canceled(f"token-{auth_state}"))


def number(stage: Stage, *endpoints: str) -> int:
    return stage.database.run(partial(feed.number, subscribers=lambda _type: endpoints, now=stage.clock()))


def read(stage: Stage, after: int | None = None, types: list[str] | None = None, limit: int = 100) -> feed.Page:
    return stage.database.run(partial(feed.page, after=after, types=types, limit=limit), read_only=True)


def kinds(events: Any) -> list[str]:  # noqa: ANN401
    return [each.type.removeprefix("authorization.") for each in events]


def test_every_move_is_an_event_in_order(stage: Stage) -> None:
    a_life(stage)
    assert number(stage) == 4
    page = read(stage)
    assert kinds(page.events) == ["consulted", "authcode_issued", "token_active", "canceled"]
    assert [(each.position, each.sequence) for each in page.events] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert (page.next, page.has_more) == (4, False)


def test_an_event_says_what_happened_and_no_secret(stage: Stage) -> None:
    a_life(stage)
    number(stage)
    document = event_document(read(stage).events[1])
    assert document["type"] == "authorization.authcode_issued"
    assert document["data"] == {
        "authorizationId": document["data"]["authorizationId"],
        "clientId": CLIENT_ID,
        "authState": "s-1",
        "userRef": "u-1",
        "customerBelongsTo": None,
        "sequence": 2,
        "from": "consulted",
        "to": "authcode_issued",
        "cause": "notification",
        "learnedAt": "2026-11-22T12:00:00.000Z",
        "at": "2026-11-22T12:00:00.000Z",
        "expiresAt": "2026-11-22T12:01:00.000Z",
    }


def test_with_many_endpoints_one_transaction_numbers_fewer_and_nothing_is_left_out(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_ROWS_AT_ONCE_MAX", 8)
    for index in range(5):
        stage.consult(f"s-{index}")
    assert [number(stage, "one", "two", "three") for _ in range(4)] == [2, 2, 1, 0]
    stage.consult("s-5")
    assert number(stage, *(f"e-{index}" for index in range(10))) == 1
    assert [each.position for each in read(stage).events] == [1, 2, 3, 4, 5, 6]


def test_what_is_rejected_or_waits_is_no_event(stage: Stage) -> None:
    stage.notify(authcode_created("s-2", "code-1"))
    stage.notify(token_canceled("token-1"))
    assert number(stage) == 0


def test_an_event_that_took_its_number_first_and_commits_last_comes_last(postgresql_stage: Stage) -> None:
    stage = postgresql_stage
    stage.consult("other")
    number(stage)
    with stage.database.engine.connect() as slow, slow.begin():
        slow.execute(
            text(
                "INSERT INTO event_outbox (event_id, type, authorization_id, sequence, at) "
                "SELECT gen_random_uuid(), 'authorization.token_active', id, 1, now() FROM authorizations"
            )
        )
        stage.consult("s-1")
        number(stage)
        seen = read(stage, after=1)
        assert kinds(seen.events) == ["consulted"]
    number(stage)
    assert kinds(read(stage, after=seen.next).events) == ["token_active"]
    assert [each.position for each in read(stage).events] == [1, 2, 3]


def test_moves_of_one_authorization_are_in_the_feed_in_their_order(stage: Stage) -> None:
    for number_of in range(20):
        stage.consult(f"s-{number_of}", flow="direct")
    for number_of in reversed(range(20)):
        stage.notify_batch(
            [token_created(f"s-{number_of}", f"t-{number_of}").body(), token_canceled(f"t-{number_of}").body()]
        )
    number(stage)
    events = read(stage).events
    assert len(events) == 60
    by_authorization: dict[Any, list[int]] = {}
    for each in events:
        by_authorization.setdefault(each.authorization_id, []).append(each.sequence)
    assert set(map(tuple, by_authorization.values())) == {(1, 2, 3)}


def test_a_page_says_where_to_read_on(stage: Stage) -> None:
    a_life(stage)
    number(stage)
    first = read(stage, limit=3)
    assert (len(first.events), first.next, first.has_more) == (3, 3, True)
    last = read(stage, after=first.next, limit=3)
    assert (kinds(last.events), last.next, last.has_more) == (["canceled"], 4, False)
    assert read(stage, after=last.next) == feed.Page([], 4, has_more=False)


def test_types_narrow_the_feed_and_the_cursor_passes_over_the_rest(stage: Stage) -> None:
    a_life(stage, "s-1")
    a_life(stage, "s-2")
    number(stage)
    types = ["authorization.consulted", "authorization.token_active"]
    page = read(stage, types=types, limit=3)
    assert (kinds(page.events), page.has_more) == (["consulted", "token_active", "consulted"], True)
    rest = read(stage, after=page.next, types=types, limit=3)
    assert (kinds(rest.events), rest.next, rest.has_more) == (["token_active"], 8, False)


def test_each_endpoint_gets_each_event_once(stage: Stage) -> None:
    a_life(stage)
    number(stage, "shop", "books")
    number(stage, "shop", "books")

    def due(session: Session) -> list[tuple[int, int]]:
        return [(each.position, each.attempts) for each in deliveries.due(session, "shop", now=stage.clock(), limit=10)]

    assert stage.database.run(due) == [(1, 0), (2, 0), (3, 0), (4, 0)]


def test_purging_takes_the_oldest_and_a_reader_behind_them_is_told(stage: Stage) -> None:
    a_life(stage, "s-1")
    number(stage)
    stage.clock.forward(days=31)
    a_life(stage, "s-2")
    number(stage)
    assert stage.database.run(partial(feed.purge, before=stage.clock() - timedelta(days=30))) == 4
    with pytest.raises(PastCursorError) as caught:
        read(stage, after=3)
    assert caught.value.oldest == 4
    assert [each.position for each in read(stage).events] == [each.position for each in read(stage, after=4).events]
    assert [each.position for each in read(stage).events] == [5, 6, 7, 8]


def test_an_event_that_is_still_to_be_told_is_not_purged(stage: Stage) -> None:
    a_life(stage)
    number(stage, "shop")
    assert stage.database.run(partial(feed.purge, before=NOON + timedelta(days=31))) == 0


def test_a_cursor_that_the_feed_never_had_is_refused(stage: Stage) -> None:
    with pytest.raises(PastCursorError):
        read(stage, after=7)


def test_the_fields_of_an_event_are_the_columns_that_are_read(stage: Stage) -> None:
    a_life(stage)
    number(stage)
    told = stage.database.run(partial(feed.find, event_id=read(stage).events[0].event_id))
    assert isinstance(told, PublishedEvent)
    assert told == read(stage).events[0]
