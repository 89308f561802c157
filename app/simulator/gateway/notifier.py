"""Send the notifications of a pretend gateway from threads of its own, and again until they are acknowledged."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from urllib.parse import urlsplit

from app.simulator.gateway.alipay import Notice
from app.simulator.gateway.keys import ClientKeys
from app.simulator.gateway.ledger import Ledger, SentNotification
from app.simulator.sender import (
    REDELIVERY_DELAYS,
    Sender,
    ServiceResponse,
    Signer,
    UnusableUrlError,
    epoch_milliseconds,
)

#: More than a service commits together at once are of no use on one machine.
_THREADS = 8
_LOOPBACK_HOSTS = {"127.0.0.1", "localhost", "[::1]", "::1"}
#: A laptop has one service, or a few.
_SENDERS_MAX = 16


class Notifier:
    """Signs notifications and sends each on Alipay's schedule, on a clock that can run faster."""

    def __init__(
        self,
        keys: Mapping[str, ClientKeys],
        ledger: Ledger,
        clock: Callable[[], datetime],
        *,
        url: str | None,
        uri: str | None = None,
        speed: float = 1,
    ) -> None:
        """Take the address that is notified where a consult names none on this machine; `None` to notify nobody.

        Raises `UnusableUrlError`.
        """
        self._keys = keys
        self._ledger = ledger
        self._clock = clock
        self._uri = uri
        self._delays = tuple(delay.total_seconds() / speed for delay in REDELIVERY_DELAYS)
        self._senders: dict[str, Sender] = {}
        self._default = None if url is None else self._sender_to(url)
        #: Due times, and what is to be sent then; the number keeps equal times apart.
        self._due: list[tuple[float, int, Notice, int]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._is_closed = False
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(_THREADS)]
        for thread in self._threads:
            thread.start()

    def send(self, notice: Notice, *, after_seconds: float = 0) -> None:
        """Send a notification soon, from another thread."""
        self._schedule(notice, 0, after_seconds)

    def send_now(self, notice: Notice) -> None:
        """Send a notification and return with its answer on record; unless it is acknowledged it is sent again."""
        self._attempt(notice, 0)

    def lose(self, notice: Notice) -> None:
        """Write down that a notification is never sent."""
        self._note(notice, "", ServiceResponse(error="lost on request"))

    def close(self) -> None:
        """Stop. What has not been sent is not sent any more."""
        with self._changed:
            self._is_closed = True
            self._due.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        for sender in self._senders.values():
            sender.close()

    def _run(self) -> None:
        while (due := self._next_due()) is not None:
            self._attempt(*due)

    def _next_due(self) -> tuple[Notice, int] | None:
        """Wait for a notification that is due; `None` once the notifier is closed."""
        with self._changed:
            while not self._is_closed:
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is not None and wait <= 0:
                    _, _, notice, attempt = heapq.heappop(self._due)
                    return notice, attempt
                self._changed.wait(wait)
        return None

    def _schedule(self, notice: Notice, attempt: int, after_seconds: float) -> None:
        with self._changed:
            if not self._is_closed:
                heapq.heappush(self._due, (time.monotonic() + after_seconds, next(self._numbers), notice, attempt))
                self._changed.notify()

    def _attempt(self, notice: Notice, attempt: int) -> None:
        sender = self._sender_for(notice)
        if sender is None:
            return
        keys = self._keys[notice.client_id]
        signer = Signer(keys.client_id, keys.alipay_key, keys.key_version)
        # Only the default address can be behind a proxy that was named.
        uri = self._uri if self._uri is not None and sender is self._default else sender.uri
        delivery = signer.sign(notice.draft.body(), uri=uri, request_time=epoch_milliseconds(self._clock()))
        answer = sender.send(delivery)
        self._note(notice, sender.url, answer)
        if not answer.acknowledged and attempt + 1 < len(self._delays):
            self._schedule(notice, attempt + 1, self._delays[attempt + 1])

    def _note(self, notice: Notice, url: str, answer: ServiceResponse) -> None:
        draft = notice.draft
        self._ledger.note(
            SentNotification(
                notice.client_id,
                draft.type,
                url,
                draft.auth_state,
                draft.access_token,
                self._clock(),
                str(answer),
                answer.acknowledged,
            )
        )

    def _sender_for(self, notice: Notice) -> Sender | None:
        """Choose the address that the consult named, if it is on this machine; a pretend Alipay calls no other."""
        if notice.url is None or urlsplit(notice.url).hostname not in _LOOPBACK_HOSTS:
            return self._default
        try:
            return self._sender_to(notice.url)
        except UnusableUrlError:
            return self._default

    def _sender_to(self, url: str) -> Sender:
        sender = self._senders.get(url)
        if sender is None:
            sender = Sender(url, connections=_THREADS)
            # One that is lost to a race, or for want of room, is let go with its connections.
            if len(self._senders) < _SENDERS_MAX:
                self._senders[url] = sender
        return sender
