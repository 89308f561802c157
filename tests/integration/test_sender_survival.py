"""A sender goes on, whatever the system refuses it and whatever is gone."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

from sqlalchemy import delete

from app.events import feed
from app.events.endpoints import Endpoint
from app.events.sender import Sender
from app.events.sending import Answer
from app.models import FeedEvent
from app.secret import Secret
from tests.integration.stage import Stage

ENDPOINT = Endpoint("crm", "http://127.0.0.1/", (Secret("whsec_" + "a" * 32),), ("*",))
SECONDS_MAX = 10


def number(stage: Stage) -> None:
    stage.database.run(partial(feed.number, subscribers=lambda _type: ["crm"], now=stage.clock()))


def have_come(sent: list[int], wanted: list[int]) -> bool:
    deadline = time.monotonic() + SECONDS_MAX
    while sent != wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    return sent == wanted


@contextmanager
def sending(stage: Stage) -> Iterator[list[int]]:
    """Send to an endpoint that takes everything, and note the positions of the events that it is told."""
    sent: list[int] = []

    def send(_endpoint: Endpoint, body: str, *_: object, **__: object) -> Answer:
        sent.append(int(body))
        return Answer(200, None, None, None, 1)

    sender = Sender(ENDPOINT, stage.database, body=lambda told: str(told.position), clock=stage.clock)
    stop = threading.Event()
    thread = threading.Thread(target=sender.run_until, args=(stop,))
    with patch("app.events.sender.send", send):
        thread.start()
        try:
            yield sent
        finally:
            stop.set()
            thread.join()


def refusing_the_first(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    refused: list[threading.Thread] = []

    def start_or_refuse(thread: threading.Thread) -> None:
        if thread.name == "to crm" and not refused:
            refused.append(thread)
            message = "can't start new thread"
            raise RuntimeError(message)
        start(thread)

    return start_or_refuse


def test_a_sender_goes_on_where_no_thread_could_be_started(stage: Stage) -> None:
    stage.consult("s-1")
    number(stage)
    with (
        patch.object(threading.Thread, "start", refusing_the_first(threading.Thread.start)),
        sending(stage) as sent,
    ):
        assert have_come(sent, [1])


def test_a_delivery_whose_event_is_gone_keeps_none_from_being_sent(stage: Stage) -> None:
    stage.consult("s-1")
    stage.consult("s-2")
    number(stage)

    stage.database.run(lambda session: session.execute(delete(FeedEvent).where(FeedEvent.position == 1)))
    with sending(stage) as sent:
        assert have_come(sent, [2])
