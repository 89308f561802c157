"""The background worker: numbers events, sends them to endpoints, makes calls to Alipay, and purges what is old.

Any number of them may run, on any machines: leases say which of them does what. One that dies leaves nothing behind
but leases that end.
"""

import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol
from uuid import uuid4

from sqlalchemy.orm import Session

from app import call_statements, metrics, quarantine
from app.documents import event_body
from app.events import deliveries, feed
from app.events.deliveries import Status
from app.events.endpoints import Endpoints
from app.events.numbering import Numbering
from app.events.persistence import Persistence
from app.events.schedule import AGE_MAX
from app.events.sender import Sender
from app.gateway import runner
from app.gateway.runner import CallRunner
from app.leases import BEAT_SECONDS, CALLS, Leases
from app.process_name import name_of_this_process

#: For how long the feed has its events, and calls are on record: who reads on later is told that some are gone.
RETENTION = timedelta(days=30)
#: How often to look for what is to be numbered. To look at an empty table costs next to nothing.
_POLL_SECONDS = 0.1
#: How often to look whether a lease that another worker holds is free.
_WAIT_SECONDS = 0.5
#: How often to look for what is to be purged.
_PURGE_SECONDS = 3600.0
#: After trouble.
_PAUSE_SECONDS = 1.0

_NUMBERING = "numbering"


class Parts(runner.Parts, Protocol):
    """What a background worker needs of the service, each made when it is first asked for."""

    @property
    def endpoints(self) -> Endpoints:
        """Who is told."""


class Worker:
    """The background work of one process."""

    def __init__(
        self,
        service: Parts,
        *,
        identity: str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take an identity where this takes the place of a worker that has ended: then its leases are this one's."""
        self._database = service.database
        self._endpoints = service.endpoints
        self._clock = clock
        self._monotonic = monotonic
        # The host is for people who look who holds what.
        name = f"{socket.gethostname()}:{identity or uuid4()}"
        self._leases = Leases(name, process=name_of_this_process(), monotonic=monotonic)
        self._senders = {
            _lease_of(each.name): Sender(
                each,
                self._database,
                body=event_body,
                may_send=partial(self._leases.holds, _lease_of(each.name)),
                clock=clock,
            )
            for each in self._endpoints.values()
        }
        self._calls = CallRunner(
            service,
            may_call=partial(self._leases.holds, CALLS),
            clock=clock,
        )
        self._names = {_NUMBERING, CALLS, *self._senders}
        self._renew_at = self._check_free_at = self._purge_at = 0.0
        self._renewing = Persistence("renewing leases")
        self._numbering = Numbering(
            self._database, self._endpoints.subscribers, endpoints=len(self._senders), clock=clock, monotonic=monotonic
        )
        self._numbering_events = Persistence("numbering events")
        self._purging = Persistence("purging events")

    def run_until(self, stop: threading.Event) -> None:
        """Work until told to stop; then wait for what is being sent, and give back the leases.

        Whatever goes wrong is logged and tried again: nothing raises here.
        """
        threads = {
            name: threading.Thread(target=sender.run_until, args=(stop,), name=f"send {sender.endpoint.name}")
            for name, sender in self._senders.items()
        }
        threads[CALLS] = threading.Thread(target=self._calls.run_until, args=(stop,), name="make calls")
        for thread in threads.values():
            thread.start()
        while not stop.is_set():
            stop.wait(_POLL_SECONDS if self._turn() else _PAUSE_SECONDS)
        self._end(threads)

    def _turn(self) -> bool:
        """Do what is to be done by now, and say whether all of that went well."""
        if not self._renew_if_due(self._names):
            return False
        if not self._leases.holds(_NUMBERING):
            return True
        return self._numbering_events.try_once(self._number) and self._purge_if_due()

    # --- leases ---

    def _renew_if_due(self, names: set[str]) -> bool:
        """Renew the leases when it is time, and say whether that went well."""
        now = self._monotonic()
        is_full_renewal = now >= self._renew_at
        if not is_full_renewal and now < self._check_free_at:
            return True
        asked = names if is_full_renewal else {each for each in names if not self._leases.holds(each)}
        if asked and not self._renewing.try_once(partial(self._renew, asked)):
            return False
        self._check_free_at = now + _WAIT_SECONDS
        if is_full_renewal:
            self._renew_at = now + BEAT_SECONDS
        return True

    def _renew(self, names: set[str]) -> None:
        self._database.run(partial(self._leases.renew, names=names, now=self._clock()))()
        for name, sender in self._senders.items():
            if self._leases.holds(name):
                metrics.note_endpoint(sender.endpoint.name, is_failing=sender.is_failing)

    def _end(self, threads: dict[str, threading.Thread]) -> None:
        """Give back each lease as soon as nothing is done under it, so that another worker need not wait."""
        held = set(self._names)
        while held:
            over = {each for each in held if each not in threads or not threads[each].is_alive()}
            if over:
                self._renewing.try_once(partial(self._database.run, partial(self._leases.release, names=over)))
                held -= over
            if held:
                self._renew_if_due(held)
                time.sleep(_POLL_SECONDS / 2)

    # --- the feed ---

    def _number(self) -> None:
        self._numbering.number(may_go_on=self._may_number, on_numbered=self._wake_senders)

    def _may_number(self) -> bool:
        return self._leases.holds(_NUMBERING) and self._monotonic() < self._renew_at

    def _wake_senders(self) -> None:
        for sender in self._senders.values():
            sender.wake()

    def _purge_if_due(self) -> bool:
        """Purge a piece, if it is time, and say whether that went well."""
        if self._monotonic() < self._purge_at:
            return True
        if not self._purging.try_once(self._purge):
            self._purge_at = self._monotonic() + _PAUSE_SECONDS
            return False
        return True

    def _purge(self) -> None:
        given_up = self._database.run(self._give_up_abandoned)
        self._database.run(partial(quarantine.purge, now=self._clock()))
        before = self._clock() - RETENTION
        purged = self._database.run(partial(feed.purge, before=before))
        purged_calls = self._database.run(partial(call_statements.purge, before=before, limit=feed.PURGED_AT_ONCE_MAX))
        if max(given_up + purged, purged_calls) < feed.PURGED_AT_ONCE_MAX:
            self._purge_at = self._monotonic() + _PURGE_SECONDS

    def _give_up_abandoned(self, session: Session) -> int:
        """Give up what is due to endpoints that are configured no more, once it is too old: nobody will send it."""
        now = self._clock()
        limit = feed.PURGED_AT_ONCE_MAX
        ids = [
            each.id
            for name in deliveries.endpoints_with_due(session)
            if name not in self._endpoints
            for each in deliveries.due(session, name, now=now - AGE_MAX, limit=limit)
        ]
        if ids:
            deliveries.give_up(session, ids, Status.DEAD, now=now)
        return len(ids)


def _lease_of(endpoint: str) -> str:
    return f"endpoint:{endpoint}"
