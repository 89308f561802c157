"""The receiver: one delivery from top to bottom. Verify, parse, store and process, acknowledge.

All that moves an authorization comes through here: a delivery over HTTP or from a file (`receive`), and below that a
stored entry again (`process`) and a report of the merchant's (`record`).
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain, repeat
from typing import TypeVar
from uuid import UUID

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from app import authorizations, inbox, metrics, processing, reports
from app.alipay.acknowledgement import NotifyResponse, acknowledge, refuse
from app.alipay.delivery import Delivery
from app.alipay.keyring import Client, Keyring
from app.alipay.signature import NotAuthenticError, check_freshness, verify
from app.authorizations import Cause
from app.correlation import CorrelationKeys, PendingEntry
from app.database import Database, DatabaseUnavailableError, seconds_left, within
from app.group_commit import GroupCommit
from app.inbox import Attempt, Outcome, StoredEntry, VerifiedDelivery
from app.logs import failure
from app.models import InboxEntry
from app.processing import Done, Processed
from app.reports import Recorded, Report
from app.resuming import UNFINISHED_MAX, Resumption
from app.unit_of_work import KnownMeanwhileError, UnitOfWork
from app.vault import Vault

_log = logging.getLogger(__name__)

#: Each may wait for a row, without a connection. A failed entry that comes again is rare, and many at once are rarer.
_REPLAYS_AT_ONCE_MAX = 8
#: A delivery is answered by then. What a replay would still take is left out: the entry is stored.
_SECONDS_MAX = 4

T = TypeVar("T")

#: What is on record of a delivery, and what was resumed with it.
StoreResult = tuple[StoredEntry, list[Processed]]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one delivery. Only an authentic one that was stored has an entry."""

    answer: NotifyResponse
    entry_id: int | None = None
    outcome: Outcome | None = None
    reason: str | None = None
    #: Whether this was the first delivery of its notification.
    is_new: bool = False


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
        self.group_commit = GroupCommit(
            self._store_batch,
            self._store_single,
            key=inbox.needed_by,
            unavailable=DatabaseUnavailableError,
            is_locked=lambda error: error.is_of_one_row,
            is_circuit_open=database.is_unavailable,
            within=within,
        )
        self._replays = ThreadPoolExecutor(_REPLAYS_AT_ONCE_MAX, thread_name_prefix="replay")
        self._resumption = Resumption(self._resume)

    def close(self) -> None:
        """End all threads, once what is under way is done. Nothing may be asked of it afterwards."""
        self.group_commit.close()
        self._replays.shutdown()
        self._resumption.close()

    def receive(self, delivery: Delivery) -> Receipt:
        """Answer one delivery as `receive_later` does, and wait for it."""
        return self.receive_later(delivery).result()

    def receive_later(self, delivery: Delivery) -> "Future[Receipt]":
        """Say what the answer to one delivery will be: it is acknowledged once it is stored, and only then.

        Never fails: what cannot be stored now is answered so that Alipay sends it again. A callback of it must neither
        take long nor wait for another delivery: the others of the batch are answered after it.
        """
        receipt: Future[Receipt] = Future()
        receipt.set_running_or_notify_cancel()
        now = self._clock()
        seconds = min(_SECONDS_MAX, seconds_left())
        until = time.monotonic() + seconds
        try:
            verify(delivery, self._keyring)
            if self._freshness is not None:
                check_freshness(delivery, now=now, limit=self._freshness)
        except NotAuthenticError as refusal:
            receipt.set_result(self._answer_not_authentic(delivery, refusal, now))
        else:
            metrics.LAST_VERIFIED.note(delivery.client_id, now.timestamp())
            verified = VerifiedDelivery(delivery, inbox.read(delivery.body), now)
            stored = self.group_commit.submit(verified, seconds=seconds)
            stored.add_done_callback(partial(self._when_stored, verified, receipt, until))
        return receipt

    def _store_batch(self, deliveries: Sequence[VerifiedDelivery]) -> list[StoreResult]:
        """Store a batch of deliveries, and process the first of each notification, in one transaction.

        What was resumed beside them is returned with the first of them.
        """
        try:
            return self._try_batch(deliveries)
        except (KnownMeanwhileError, IntegrityError):
            # Another process was quicker with one of them, and its transaction is over by now.
            return self._try_batch(deliveries)

    def _try_batch(self, deliveries: Sequence[VerifiedDelivery]) -> list[StoreResult]:
        drafts = [inbox.draft(self._vault, each) for each in deliveries]
        times = Counter(draft.fingerprint for draft in drafts)
        first: dict[bytes, PendingEntry] = {}
        for draft, verified in zip(drafts, deliveries, strict=True):
            first.setdefault(draft.fingerprint, PendingEntry(draft, _correlation_keys(draft, verified)))
        # One time for all that moves: no history runs backwards, in whatever order they are judged.
        latest = max(verified.at for verified in deliveries)
        for fingerprint, (draft, _) in first.items():
            if times[fingerprint] > 1:
                draft.deliveries, draft.last_received_at = times[fingerprint], latest
        # In the order in which they will be stored.
        pending = [first[fingerprint] for fingerprint in sorted(first)]
        try:
            done = self._database.run_once(
                lambda connection: processing.process_batch(
                    UnitOfWork(connection, self._vault, has_savepoints=False), pending, times=times, now=latest
                )
            )
        except DBAPIError as error:
            if error.connection_invalidated:
                # It may have been committed all the same.
                for draft, verified in zip(drafts, deliveries, strict=True):
                    entry = first[draft.fingerprint].entry
                    verified.attempts.append(Attempt(entry.sealed_body, is_first=entry is draft, counted_at=latest))
            raise
        self._resumption.go_on(done.unfinished)
        ended = {each.entry_id: each for each in done.resumed}
        stored = []
        for draft in drafts:
            if (on_record := done.known.get(draft.fingerprint)) is not None:
                stored.append(_as_ended(on_record, ended.get(on_record.id)))
            else:
                entry = first[draft.fingerprint].entry
                stored.append(StoredEntry.of(entry, is_new=entry is draft))
        return list(zip(stored, chain([done.resumed], repeat([])), strict=False))

    def _store_single(self, verified: VerifiedDelivery) -> StoreResult:
        """Store one delivery by itself, and process it; where that breaks it is stored all the same.

        Raises `DatabaseUnavailableError`, at once where another transaction holds a row that it needs.
        """
        draft = inbox.draft(self._vault, verified)
        subject = _correlation_keys(draft, verified)
        this = Attempt(draft.sealed_body, is_first=True, counted_at=verified.at)

        def store_and_process(session: Session) -> tuple[StoredEntry, Done]:
            work = UnitOfWork(session.connection(), self._vault)
            entry, is_new = inbox.store_or_count(work.connection, draft, verified.attempts)
            done = Done()
            if is_new and subject is not None:
                done = processing.process(work, entry, subject, now=verified.at)
            work.close()
            is_new = is_new or any(
                each.is_first and each.sealed_body == entry.sealed_body for each in verified.attempts
            )
            # Only the commit is left. Whatever becomes of that, another try finds it.
            verified.attempts.append(this)
            stored = StoredEntry.of(entry, is_new=is_new)
            return _as_ended(stored, done.processed[0] if done.processed else None), done

        stored, done = self._database.run_unless_locked(store_and_process)
        self._resumption.go_on(done.unfinished)
        return stored, done.processed[1:]

    def _when_stored(
        self, verified: VerifiedDelivery, receipt: "Future[Receipt]", until: float, run: "Future[StoreResult]"
    ) -> None:
        """Answer a delivery whose transaction has ended."""
        if (error := run.exception()) is not None:
            # Whatever it is, nothing was stored, so nothing may be acknowledged.
            client = self._keyring.client(verified.delivery.client_id)
            self._resolve(verified, receipt, lambda: self._answer_not_stored(verified, error, client))
            return
        stored, resumed = run.result()
        if not _is_to_be_replayed(stored, verified):
            self._resolve(verified, receipt, lambda: self._answer_stored(verified, stored, resumed))
            return
        # That takes a transaction of its own, and others wait to be told what came of the one that has ended.
        replay = partial(self._replay_failed, stored, until=until)
        answer = partial(self._resolve, verified, receipt, lambda: self._answer_stored(verified, replay(), resumed))
        try:
            self._replays.submit(answer)
        except RuntimeError:
            # No thread can be had, or the interpreter ends: the entry is stored all the same.
            self._resolve(verified, receipt, lambda: self._answer_stored(verified, stored, resumed))

    # --- answers ---

    def _resolve(self, verified: VerifiedDelivery, receipt: "Future[Receipt]", make: Callable[[], Receipt]) -> None:
        try:
            made = make()
        except BaseException as error:  # noqa: BLE001 -- whatever it is, somebody waits; and it may be our signature that fails
            made = self._answer_not_stored(verified, error, None)
        receipt.set_result(made)

    def _replay_failed(self, stored: StoredEntry, *, until: float) -> StoredEntry:
        """Take a redelivery as the occasion to process an entry again; it is stored whatever comes of it."""
        if time.monotonic() > until:
            _log.warning("replay left out", extra={"entry": stored.id})
            return stored
        try:
            with within(until - time.monotonic()):
                done = self.process(stored.id)
        except Exception as error:  # noqa: BLE001 -- the entry stays as it is, and will be replayed
            _log.error("replay failed", extra={"entry": stored.id, **failure(error)})
            return stored
        return _as_ended(stored, done[0] if done else None)

    def _answer_not_authentic(self, delivery: Delivery, refusal: NotAuthenticError, now: datetime) -> Receipt:
        known = delivery.client_id in self._keyring.clients
        client_id = delivery.client_id if known else "unknown"
        metrics.SIGNATURE_FAILURES.inc(client_id, refusal.cause)
        fields = {"client_id": client_id, "cause": refusal.cause, **delivery.origin.fields()}
        _log.warning("delivery refused", extra=fields)
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

    def _answer_not_stored(self, verified: VerifiedDelivery, error: BaseException, client: Client | None) -> Receipt:
        fields = {"client_id": verified.delivery.client_id, **failure(error), **verified.delivery.origin.fields()}
        _log.error("delivery not stored", extra=fields)
        answer = refuse(
            verified.delivery,
            status=503,
            result_code="UNKNOWN_EXCEPTION",
            result_status="U",
            message="The notification could not be stored. Send it again.",
            client=client,
            now=verified.at,
        )
        return Receipt(answer)

    def _answer_stored(self, verified: VerifiedDelivery, stored: StoredEntry, resumed: list[Processed]) -> Receipt:
        fields = {
            "entry": stored.id,
            "duplicate": not stored.is_new,
            "outcome": stored.outcome.value,
            "reason": stored.reason,
            "request_id": verified.delivery.origin.request_id,
        }
        _log.info("delivery stored", extra=fields)
        if stored.is_new:
            notification = verified.parsed.notification
            auth_state = None if notification is None else notification.auth_state
            if stored.outcome is Outcome.PARKED and not inbox.can_be_consulted(auth_state):
                _log.warning("parked for an authState that no consult can name", extra={"entry": stored.id})
            metrics.count_notification(None if notification is None else notification.type, stored.outcome)
        _count_and_log(resumed)
        client = self._keyring.client(verified.delivery.client_id)
        if stored.outcome is not Outcome.MALFORMED:
            answer = acknowledge(verified.delivery, client, now=verified.at)
            return Receipt(answer, stored.id, stored.outcome, stored.reason, stored.is_new)
        answer = refuse(
            verified.delivery,
            status=400,
            result_code="PARAM_ILLEGAL",
            result_status="F",
            message=f"The notification is malformed: {stored.reason}.",
            client=client,
            now=verified.at,
        )
        return Receipt(answer, stored.id, stored.outcome, stored.reason, stored.is_new)

    # --- replays and reports ---

    def process(self, entry_id: int) -> list[Processed]:
        """Process a stored entry again that is not decided for good, and resume what waited for that.

        Returns the entry first, then each one resumed; an empty list where there is nothing to replay. Raises
        `DatabaseUnavailableError`.
        """
        now = self._clock()
        done = self._resumption.first_finish(
            lambda: self._in_transaction(lambda work: processing.replay(work, entry_id, now=now))
        )
        _count_and_log(done.processed)
        self._resumption.go_on(done.unfinished)
        return done.processed

    def record(self, report: Report, *, cause: reports.Reporter, by: str | None = None) -> Recorded:
        """Record what the merchant learned itself, and who says so, and resume what waited for that.

        Raises `ReportRefusedError` where the report contradicts what is on record, and
        `DatabaseUnavailableError`.
        """
        because = Cause(cause, at=self._clock(), by=by)
        recorded = self._resumption.first_finish(
            lambda: self._in_transaction(lambda work: reports.record(work, self._keyring, report, cause=because))
        )
        fields = {
            "report": report.name,
            "authorization": recorded.authorization_id,
            "changed": recorded.changed,
            "cause": cause,
            "key": by,
        }
        _log.info("report recorded", extra=fields)
        _count_and_log(recorded.resumed)
        self._resumption.go_on(recorded.unfinished)
        return recorded

    def resume_unfinished(self) -> None:
        """Go on, in another thread, with parked entries that any process has left to be resumed.

        Raises `DatabaseUnavailableError`.
        """
        self._resumption.go_on(
            self._database.run(lambda session: authorizations.unfinished(session, limit=UNFINISHED_MAX), read_only=True)
        )

    def _resume(self, authorization_id: UUID) -> bool:
        """Resume some more parked entries, in one transaction, and say whether there are still more."""
        now = self._clock()
        done = self._in_transaction(lambda work: processing.resume(work, authorization_id, now=now))
        _count_and_log(done.processed)
        return bool(done.unfinished)

    def _in_transaction(self, do: Callable[[UnitOfWork], T]) -> T:
        """Do something in one transaction, and do all of it again where another has made known what was unknown."""

        def do_and_write(session: Session) -> T:
            work = UnitOfWork(session.connection(), self._vault)
            done = do(work)
            work.close()
            return done

        while True:
            try:
                return self._database.run(do_and_write)
            except KnownMeanwhileError:
                # What is known stays known, so there is an end to it.
                continue


def _is_to_be_replayed(stored: StoredEntry, verified: VerifiedDelivery) -> bool:
    """Say whether a redelivery is the occasion to process its entry again: it failed, or can be understood by now."""
    if stored.is_new:
        return False
    return stored.outcome is Outcome.FAILED or (
        stored.outcome is Outcome.MALFORMED and verified.parsed.notification is not None
    )


def _as_ended(stored: StoredEntry, resumed: Processed | None) -> StoredEntry:
    """Say of an entry on record how it ended, where the same transaction has resumed it."""
    return stored if resumed is None else replace(stored, outcome=resumed.outcome, reason=resumed.reason)


def _correlation_keys(draft: InboxEntry, verified: VerifiedDelivery) -> CorrelationKeys | None:
    notification = verified.parsed.notification
    return None if notification is None else CorrelationKeys(draft.client_id, notification, draft.token_index)


def _count_and_log(processed: list[Processed]) -> None:
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
