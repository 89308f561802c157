"""The one path: verify, store, process, settle, acknowledge; and record what the merchant reports.

Everything that moves an authorization comes through here: a delivery over HTTP or from a file (`receive`), a stored
entry again (`process`), a report of the merchant's (`record`).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from app import inbox, metrics
from app.alipay.acknowledgement import Answer, acknowledge, refuse
from app.alipay.delivery import Delivery
from app.alipay.keyring import Keyring
from app.alipay.signature import NotAuthenticError, check_freshness, verify
from app.database import Database, DatabaseUnavailableError
from app.inbox import Arrival, Kept, Outcome
from app.logs import failure
from app.receiver import processing, reports
from app.receiver.docket import Subject
from app.receiver.gathering import Gathering
from app.receiver.processing import Processed
from app.receiver.reports import Recorded, Report
from app.vault import Vault

_log = logging.getLogger(__name__)


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
        self._gathering = Gathering(self._keep_together, self._keep_alone)

    def receive(self, delivery: Delivery) -> Receipt:
        """Answer one delivery: acknowledge it once it is stored, and only then.

        Never raises: what cannot be stored now is answered so that Alipay sends it again.
        """
        now = self._clock()
        try:
            verify(delivery, self._keyring)
            if self._freshness is not None:
                check_freshness(delivery, now=now, limit=self._freshness)
        except NotAuthenticError as refusal:
            return self._not_authentic(delivery, refusal, now)
        arrival = Arrival(delivery, inbox.read(delivery.body), now)
        try:
            kept, processed = self._gathering.serve(arrival)
        except Exception as error:  # noqa: BLE001 -- whatever it is, nothing was stored, so nothing may be acknowledged
            return self._not_stored(delivery, error, now)
        if not kept.is_new and kept.outcome is Outcome.FAILED:
            processed = self._replay_failed(kept.id)
        return self._stored(delivery, kept, processed, now)

    def process(self, entry_id: int) -> list[Processed]:
        """Process a stored entry that is parked or failed again, and settle what that lets move.

        Returns the entry first, then each one settled; an empty list where there is nothing to replay. Raises
        `DatabaseUnavailableError`.
        """
        now = self._clock()
        done = self._database.run(lambda session: processing.replay(session, self._vault, entry_id, now=now))
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

    def _keep_together(self, arrivals: Sequence[Arrival]) -> list[tuple[Kept, list[Processed]]]:
        """Store deliveries, and process those that are the first of their notification, in one transaction."""
        now = self._clock()

        def work(session: Session) -> list[tuple[Kept, list[Processed]]]:
            kept = inbox.keep(session, self._vault, arrivals)
            new = [
                (one.id, Subject(each.delivery.client_id, each.reading.notification))
                for one, each in zip(kept, arrivals, strict=True)
                if one.is_new and each.reading.notification is not None
            ]
            done = processing.process_together(session, self._vault, new, now=now)
            inbox.count(session, kept, at=now)
            return [(_as_processed(one, done), done.get(one.id, []) if one.is_new else []) for one in kept]

        return self._database.run_once(work, impatient=len(arrivals) > 1)

    def _keep_alone(self, arrival: Arrival, error: Exception) -> tuple[Kept, list[Processed]]:
        """Store a delivery that would not go with others, and process it whatever becomes of that."""
        if isinstance(error, DatabaseUnavailableError):
            raise error

        def work(session: Session) -> tuple[Kept, list[Processed]]:
            (kept,) = inbox.keep(session, self._vault, [arrival])
            notification = arrival.reading.notification
            if not kept.is_new:
                inbox.count(session, [kept], at=arrival.at)
            if not kept.is_new or notification is None:
                return kept, []
            subject = Subject(arrival.delivery.client_id, notification)
            return kept, processing.process(session, self._vault, kept.id, subject, now=arrival.at)

        return self._database.run(work)

    def _replay_failed(self, entry_id: int) -> list[Processed]:
        """Take a redelivery as the occasion to process a failed entry again; it is stored whatever comes of it."""
        try:
            return self.process(entry_id)
        except Exception as error:  # noqa: BLE001 -- the entry stays as it is, and will be replayed
            _log.error("replay failed", extra={"entry": entry_id, **failure(error)})
            return []

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

    def _not_stored(self, delivery: Delivery, error: Exception, now: datetime) -> Receipt:
        _log.error("delivery not stored", extra={"client_id": delivery.client_id, **failure(error)})
        answer = refuse(
            delivery,
            status=503,
            result_code="UNKNOWN_EXCEPTION",
            result_status="U",
            message="The notification could not be stored. Send it again.",
            client=self._keyring.client(delivery.client_id),
            now=now,
        )
        return Receipt(answer)

    def _stored(self, delivery: Delivery, kept: Kept, processed: list[Processed], now: datetime) -> Receipt:
        own = next((done for done in processed if done.entry_id == kept.id), None)
        outcome, reason = (kept.outcome, kept.reason) if own is None else (own.outcome, own.reason)
        fields = {"entry": kept.id, "duplicate": not kept.is_new, "outcome": outcome.value, "reason": reason}
        _log.info("delivery stored", extra=fields)
        if kept.is_new:
            metrics.count_notification(None if own is None else own.type, outcome)
            _tell([done for done in processed if done is not own])
        client = self._keyring.client(delivery.client_id)
        if outcome is not Outcome.MALFORMED:
            return Receipt(acknowledge(delivery, client, now=now), kept.id, outcome, reason)
        answer = refuse(
            delivery,
            status=400,
            result_code="PARAM_ILLEGAL",
            result_status="F",
            message=f"The notification is malformed: {reason}.",
            client=client,
            now=now,
        )
        return Receipt(answer, kept.id, outcome, reason)


def _as_processed(kept: Kept, done: Mapping[int, list[Processed]]) -> Kept:
    """Say of an entry how it ended, where the same transaction has processed it."""
    own = next(iter(done.get(kept.id, [])), None)
    return kept if own is None else replace(kept, outcome=own.outcome, reason=own.reason)


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
