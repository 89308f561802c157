"""An event that the database refuses to number holds up no other, is never lost, and is numbered once it is mended."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import select, text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app import metrics
from app.events import feed, numbering
from app.events.numbering import RETRY_SECONDS, Numbering
from app.models import FeedEvent, OutboxEvent
from tests.integration.stage import Stage, a_stage

Number = Callable[[], None]


class Seconds:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def number(stage: Stage, seconds: Seconds) -> Number:
    of_stage = Numbering(stage.database, lambda _: ["shop"], endpoints=1, clock=stage.clock, monotonic=seconds)
    return partial(of_stage.number, may_go_on=lambda: True, on_numbered=lambda: None)


def staged(stage: Stage) -> list[int]:
    return stage.database.run(
        lambda session: list(session.scalars(select(OutboxEvent.id).order_by(OutboxEvent.id))), read_only=True
    )


def numbered(stage: Stage) -> list[str]:
    page = stage.database.run(partial(feed.page, after=None, types=None, limit=100), read_only=True)
    assert [each.position for each in page.events] == list(range(1, len(page.events) + 1))
    return [each.auth_state for each in page.events]


def refuse(stage: Stage, *outbox_ids: int) -> None:
    """Give events the id of one that is in the feed: what a row has that came back by hand from an old backup."""

    def work(session: Session) -> None:
        taken = session.scalars(select(FeedEvent.event_id).limit(1)).one()
        session.execute(update(OutboxEvent).where(OutboxEvent.id.in_(outbox_ids)).values(event_id=taken))

    stage.database.run(work)


def mend(stage: Stage, outbox_id: int) -> None:
    new = text("UPDATE event_outbox SET event_id = :new WHERE id = :id")
    value: Any = "0" * 31 + "7"
    stage.database.run(lambda session: session.execute(new, {"new": value, "id": outbox_id}))


def test_a_refused_event_holds_up_no_other_and_stays(
    stage: Stage, number: Number, caplog: pytest.LogCaptureFixture
) -> None:
    stage.consult("first")
    number()
    for name in ("s-1", "s-2", "s-3", "s-4", "s-5"):
        stage.consult(name)
    third = staged(stage)[2]
    refuse(stage, third)
    number()
    assert numbered(stage) == ["first", "s-1", "s-2", "s-4", "s-5"]
    assert staged(stage) == [third]
    (said,) = [each for each in caplog.records if each.message == "event not numbered"]
    assert vars(said)["outbox_id"] == third
    stage.consult("s-6")
    number()
    assert numbered(stage)[-1] == "s-6"


def test_it_is_numbered_once_it_is_mended(stage: Stage, number: Number, seconds: Seconds) -> None:
    stage.consult("first")
    number()
    stage.consult("s-1")
    (bad,) = staged(stage)
    refuse(stage, bad)
    number()
    mend(stage, bad)
    number()
    assert staged(stage) == [bad]
    seconds.now += RETRY_SECONDS
    number()
    assert staged(stage) == []
    assert numbered(stage) == ["first", "s-1"]


def test_each_refusal_is_counted(stage: Stage, number: Number, seconds: Seconds) -> None:
    def counted() -> float:
        families = {family.name: family for family in metrics.collect([], revision="0007")}
        return families["notifyauth_events_refused"].samples[0].value

    stage.consult("first")
    number()
    stage.consult("s-1")
    refuse(stage, *staged(stage))
    before = counted()
    number()
    number()
    assert counted() == before + 1
    seconds.now += RETRY_SECONDS
    number()
    assert counted() == before + 2


def test_where_all_are_refused_it_is_the_feed_that_is_wrong_and_that_is_raised(
    stage: Stage, number: Number, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbering, "SET_ASIDE_MAX", 2)
    stage.consult("first")
    number()
    for index in range(5):
        stage.consult(f"s-{index}")
    refuse(stage, *staged(stage))
    with pytest.raises(SQLAlchemyError):
        number()
    assert len(staged(stage)) == 5


def test_a_value_that_cannot_be_read_holds_up_no_other(
    sqlite_url: str, alipay_key: RSAPrivateKey, seconds: Seconds
) -> None:
    stage = a_stage(sqlite_url, alipay_key)
    number = Numbering(stage.database, lambda _: [], endpoints=0, clock=stage.clock, monotonic=seconds).number
    stage.consult("s-1")
    stage.consult("s-2")
    first = staged(stage)[0]
    stage.database.run(
        lambda session: session.execute(text("UPDATE event_outbox SET at = 'noon' WHERE id = :id"), {"id": first})
    )
    number(may_go_on=lambda: True, on_numbered=lambda: None)
    assert numbered(stage) == ["s-2"]
    assert staged(stage) == [first]
    stage.database.close()
