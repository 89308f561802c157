"""The one path: verify, store, process, settle, acknowledge; and record what the merchant reports.

Everything that moves an authorization comes through here: a delivery over HTTP or from a file (`receive`), a stored
entry again (`process`), a report of the merchant's (`record`).
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain, repeat

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import inbox, metrics
from app.alipay.acknowledgement import Answer, acknowledge, refuse
from app.alipay.delivery import Delivery
from app.alipay.keyring import Client, Keyring
from app.alipay.signature import NotAuthenticError, check_freshness, verify
from app.database import Database
from app.inbox import Arrival, Kept, Outcome
from app.logs import failure
from app.models import InboxEntry
from app.receiver import processing, reports
from app.receiver.cases import Case, Subject
from app.receiver.crew import Crew, Promise
from app.receiver.docket import KnownMeanwhileError
from app.receiver.gathering import Gathering
from app.receiver.processing import Processed
from app.receiver.reports import Recorded, Report
from app.vault import Vault

_log = logging.getLogger(__name__)

#: Each may wait for a row, without a connection. A failed entry that comes again is rare, and many at once are rarer.
_REPLAYS_AT_ONCE_MAX = 8
#: Whoever has waited this long for the replays of others is answered without one of its own: what it brings is stored.
_REPLAY_WITHIN_S = 4

#: What is on record of a delivery, and what was settled with it.
Stored = tuple[Kept, list[Processed]]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one delivery. Only an authentic one that was stored has an entry."""

    answer: Answer
    entry_id: int | None = None
    outcome: Outcome | None = None
    reason: str | None = None


class Receiver:
    """Receives, replays and records, with the keys and the database of one service. Safe to share between threads."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        vault: Vault,
        *,
        freshness: timedelta | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._vault = vault
        self._freshness = freshness
        self._clock = clock
        self._gathering = Gathering(self._keep_together, self._keep_alone, is_in_vain=database.is_in_vain)
        self._replays = Crew("replay", threads_max=_REPLAYS_AT_ONCE_MAX)

    def receive(self, delivery: Delivery) -> Receipt:
        """Answer one delivery as `receive_later` does, and wait for it."""
        return self.receive_later(delivery).result()

    def receive_later(self, delivery: Delivery) -> "Future[Receipt]":
        """Say what the answer to one delivery will be: it is acknowledged once it is stored, and only then.

        Never fails: what cannot be stored now is answered so that Alipay sends it again. Whoever is called back must
        not take long, nor wait for another delivery: others are told after it.
        """
        receipt: Promise[Receipt] = Promise()
        now = self._clock()
        try:
            verify(delivery, self._keyring)
            if self._freshness is not None:
                check_freshness(delivery, now=now, limit=self._freshness)
        except NotAuthenticError as refusal:
            receipt.set_result(self._not_authentic(delivery, refusal, now))
        else:
            arrival = Arrival(delivery, inbox.read(delivery.body), now)
            self._gathering.serve_later(arrival).add_done_callback(partial(self._conclude, arrival, receipt))
        return receipt

    def process(self, entry_id: int) -> list[Processed]:
        """Process a stored entry that is parked, failed or dismissed again, and settle what that lets move.

        Returns the entry first, then each one settled; an empty list where there is nothing to replay. Raises
        `DatabaseUnavailableError`.
        """
        now = self._clock()
        done = self._database.run(
            lambda session: processing.replay(session.connection(), self._vault, entry_id, now=now)
        )
        _tell(done)
        return done

    def record(self, report: Report, *, cause: reports.Reporter) -> Recorded:
        """Record what the merchant learned itself, and settle what that lets move.

        Raises `errors.ReportRefusedError` where the report contradicts what is on record, and
        `DatabaseUnavailableError`.
        """
        now = self._clock()
        recorded = self._database.run(
            lambda session: reports.record(session, self._vault, self._keyring, report, cause=cause, now=now)
        )
        fields = {"report": report.name, "authorization": recorded.authorization_id, "changed": recorded.changed}
        _log.info("report recorded", extra=fields)
        _tell(recorded.settled)
        return recorded

    def _keep_together(self, arrivals: Sequence[Arrival]) -> list[Stored]:
        """Store deliveries, and process those that are the first of their notification, in one transaction.

        What was settled beside them is told with the first of them.
        """
        try:
            return self._try_together(arrivals)
        except (KnownMeanwhileError, IntegrityError):
            # Another process was quicker with one of them, and is done with it by now.
            return self._try_together(arrivals)

    def _try_together(self, arrivals: Sequence[Arrival]) -> list[Stored]:
        drafts = [inbox.draft(self._vault, each) for each in arrivals]
        times = Counter(draft.fingerprint for draft in drafts)
        first: dict[bytes, Case] = {}
        for draft, arrival in zip(drafts, arrivals, strict=True):
            first.setdefault(draft.fingerprint, Case(draft, _subject(draft, arrival)))
        # One time for all that moves: no history runs backwards, in whatever order they are judged.
        latest = max(arrival.at for arrival in arrivals)
        for fingerprint, (draft, _) in first.items():
            if times[fingerprint] > 1:
                draft.deliveries, draft.last_received_at = times[fingerprint], latest
        # In the order in which they will be stored.
        cases = [first[fingerprint] for fingerprint in sorted(first)]
        done = self._database.run_once(
            lambda connection: processing.process_together(connection, self._vault, cases, times=times, now=latest)
        )
        ended = {each.entry_id: each for each in done.settled}
        kept = []
        for draft in drafts:
            if (on_record := done.known.get(draft.fingerprint)) is not None:
                kept.append(_as_ended(on_record, ended.get(on_record.id)))
            else:
                entry = first[draft.fingerprint].entry
                kept.append(Kept.of(entry, is_new=entry is draft))
        return list(zip(kept, chain([done.settled], repeat([])), strict=False))

    def _keep_alone(self, arrival: Arrival) -> Stored:
        """Store a delivery that would not go with others, and process it whatever becomes of that.

        Raises `DatabaseUnavailableError`, at once where somebody holds a row that it needs.
        """
        draft = inbox.draft(self._vault, arrival)
        subject = _subject(draft, arrival)

        def work(session: Session) -> Stored:
            connection = session.connection()
            entry, is_new = inbox.keep(connection, draft)
            done: list[Processed] = []
            if is_new and subject is not None:
                done = processing.process(connection, self._vault, entry, subject, now=arrival.at)
            return Kept.of(entry, is_new=is_new), done[1:]

        return self._database.run_briefly(work)

    def _conclude(self, arrival: Arrival, receipt: "Future[Receipt]", served: "Future[Stored]") -> None:
        """Answer a delivery now that it is known what became of it."""
        if (error := served.exception()) is not None:
            # Whatever it is, nothing was stored, so nothing may be acknowledged.
            client = self._keyring.client(arrival.delivery.client_id)
            self._answer(arrival, receipt, lambda: self._not_stored(arrival, error, client))
            return
        kept, settled = served.result()
        if kept.is_new or kept.outcome is not Outcome.FAILED:
            self._answer(arrival, receipt, lambda: self._stored(arrival, kept, settled))
            return
        # That takes a transaction of its own, and others wait to be told what came of the one that has ended.
        replay = partial(self._replay_failed, kept, until=time.monotonic() + _REPLAY_WITHIN_S)
        self._replays.do(lambda: self._answer(arrival, receipt, lambda: self._stored(arrival, replay(), settled)))

    def _answer(self, arrival: Arrival, receipt: "Future[Receipt]", make: Callable[[], Receipt]) -> None:
        try:
            made = make()
        except BaseException as error:  # noqa: BLE001 -- whatever it is, somebody waits; and it may be our signature that fails
            made = self._not_stored(arrival, error, None)
        receipt.set_result(made)

    def _replay_failed(self, kept: Kept, *, until: float) -> Kept:
        """Take a redelivery as the occasion to process a failed entry again; it is stored whatever comes of it."""
        if time.monotonic() > until:
            _log.warning("replay left out", extra={"entry": kept.id})
            return kept
        try:
            done = self.process(kept.id)
        except Exception as error:  # noqa: BLE001 -- the entry stays as it is, and will be replayed
            _log.error("replay failed", extra={"entry": kept.id, **failure(error)})
            return kept
        return _as_ended(kept, done[0] if done else None)

    def _not_authentic(self, delivery: Delivery, refusal: NotAuthenticError, now: datetime) -> Receipt:
        known = delivery.client_id in self._keyring.clients
        client_id = delivery.client_id if known else "unknown"
        metrics.SIGNATURE_FAILURES.labels(client_id, refusal.cause).inc()
        _log.warning("delivery refused", extra={"client_id": client_id, "cause": refusal.cause})
        answer = refuse(
            delivery,
            status=401,
            result_code=refusal.result_code,
            result_status="F",
            message=str(refusal),
            client=None,
            now=now,
        )
        return Receipt(answer)

    def _not_stored(self, arrival: Arrival, error: BaseException, client: Client | None) -> Receipt:
        _log.error("delivery not stored", extra={"client_id": arrival.delivery.client_id, **failure(error)})
        answer = refuse(
            arrival.delivery,
            status=503,
            result_code="UNKNOWN_EXCEPTION",
            result_status="U",
            message="The notification could not be stored. Send it again.",
            client=client,
            now=arrival.at,
        )
        return Receipt(answer)

    def _stored(self, arrival: Arrival, kept: Kept, settled: list[Processed]) -> Receipt:
        fields = {"entry": kept.id, "duplicate": not kept.is_new, "outcome": kept.outcome.value, "reason": kept.reason}
        _log.info("delivery stored", extra=fields)
        if kept.is_new:
            notification = arrival.reading.notification
            metrics.count_notification(None if notification is None else notification.type, kept.outcome)
        _tell(settled)
        client = self._keyring.client(arrival.delivery.client_id)
        if kept.outcome is not Outcome.MALFORMED:
            return Receipt(acknowledge(arrival.delivery, client, now=arrival.at), kept.id, kept.outcome, kept.reason)
        answer = refuse(
            arrival.delivery,
            status=400,
            result_code="PARAM_ILLEGAL",
            result_status="F",
            message=f"The notification is malformed: {kept.reason}.",
            client=client,
            now=arrival.at,
        )
        return Receipt(answer, kept.id, kept.outcome, kept.reason)


def _as_ended(kept: Kept, settled: Processed | None) -> Kept:
    """Say of an entry on record how it ended, where the same transaction has settled it."""
    return kept if settled is None else replace(kept, outcome=settled.outcome, reason=settled.reason)


def _subject(draft: InboxEntry, arrival: Arrival) -> Subject | None:
    notification = arrival.reading.notification
    return None if notification is None else Subject(draft.client_id, notification, draft.token_index)


def _tell(processed: list[Processed]) -> None:
    """Count and log what was processed beside a delivery of its own, once its transaction is committed."""
    for done in processed:
        metrics.count_notification(done.type, done.outcome)
        fields = {
            "entry": done.entry_id,
            "outcome": done.outcome.value,
            "reason": done.reason,
            "authorization": done.authorization_id,
        }
        _log.info("notification processed", extra=fields)
