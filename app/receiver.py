"""The entry of the service: deliveries, replays and reports. A delivery is verified, parsed, stored, acknowledged.

Everything that moves an authorization comes through here, so that all of it is logged and counted in one place: a
delivery (`receive`), a stored entry that is processed again (`replay`), and a report of the merchant's (`record`).
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar
from uuid import UUID

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from app import authorizations, inbox, metrics, processing, quarantine, reports
from app.alipay.acknowledgement import NotifyResponse, acknowledge, refuse
from app.alipay.delivery import Delivery
from app.alipay.keyring import Client, Keyring
from app.alipay.signature import NotAuthenticError, check_freshness, verify
from app.authorizations import Cause
from app.database import Database, DatabaseUnavailableError, seconds_left, within
from app.erasure import Erasure, erase_next_piece
from app.events import deliveries
from app.group_commit import GroupCommit
from app.inbox import Attempt, CorrelationKeys, PendingEntry, StoredEntry, VerifiedDelivery
from app.limits import ANSWER_SECONDS_MAX, REPLAYS_AT_ONCE_MAX
from app.logs import failure
from app.models import InboxEntry
from app.processing import Done, Processed
from app.quarantine import Refused
from app.reports import Recorded, Report
from app.resuming import UNFINISHED_MAX, Resumption
from app.unit_of_work import KnownMeanwhileError, UnitOfWork
from app.vault import Vault
from app.vocabulary import Outcome

_log = logging.getLogger(__name__)


T = TypeVar("T")

#: The stored entry of a delivery, and the parked entries that were resumed with it.
StoreResult = tuple[StoredEntry, list[Processed]]


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to one delivery, and how its entry ended. Only an authentic delivery that was stored has an entry."""

    answer: NotifyResponse
    entry_id: int | None = None
    outcome: Outcome | str | None = None
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
        when_refused: Callable[[Refused], None] = lambda _: None,
    ) -> None:
        """Take the parts of a service. `when_refused` must neither wait nor raise: an answer comes after it."""
        self._database = database
        self._keyring = keyring
        self._vault = vault
        self._gateways = {each.client_id: each.gateway for each in keyring.clients.values() if each.gateway is not None}
        self._freshness = freshness
        self._clock = clock
        self._when_refused = when_refused
        self.group_commit = GroupCommit(
            self._store_batch,
            self._store_single,
            key=inbox.needed_by,
            unavailable=DatabaseUnavailableError,
            is_held_row=lambda error: error.is_held_row,
            is_circuit_open=database.is_circuit_open,
            within=within,
        )
        self._replays = ThreadPoolExecutor(REPLAYS_AT_ONCE_MAX, thread_name_prefix="replay")
        self._resumption = Resumption(self._resume_next_piece)

    def close(self) -> None:
        """End all threads, once what is under way is done. Nothing may be asked of it afterwards."""
        self.group_commit.close()
        self._replays.shutdown()
        self._resumption.close()

    def receive(self, delivery: Delivery) -> Receipt:
        """Answer one delivery as `receive_later` does, and wait for it."""
        return self.receive_later(delivery).result()

    def receive_later(
        self, delivery: Delivery, *, other_headers: Callable[[], Mapping[str, str]] = dict
    ) -> "Future[Receipt]":
        """Return the future of the answer to one delivery: it is acknowledged once it is stored, and only then.

        The future never fails: where a delivery cannot be stored, the answer makes Alipay send it again. A callback
        must neither take long nor wait for another delivery: it delays the answers to the rest of the batch. Of a
        delivery that is refused, its other headers are asked for at once, and kept with it.
        """
        receipt: Future[Receipt] = Future()
        receipt.set_running_or_notify_cancel()
        now = self._clock()
        seconds = min(ANSWER_SECONDS_MAX, seconds_left())
        until = time.monotonic() + seconds
        try:
            verify(delivery, self._keyring)
            if self._freshness is not None:
                check_freshness(delivery, now=now, limit=self._freshness)
        except NotAuthenticError as refusal:
            receipt.set_result(self._answer_not_authentic(delivery, refusal, other_headers(), now))
        else:
            metrics.LAST_VERIFIED.note(delivery.client_id, now.timestamp())
            verified = VerifiedDelivery(delivery, inbox.read(delivery.body), now)
            stored = self.group_commit.submit(verified, seconds=seconds)
            stored.add_done_callback(partial(self._when_stored, verified, receipt, until))
        return receipt

    def _store_batch(self, deliveries: Sequence[VerifiedDelivery]) -> list[StoreResult]:
        """Store a batch of deliveries, and process the first of each notification, in one transaction.

        The first result carries all parked entries that were resumed.
        """
        try:
            return self._try_batch(deliveries)
        except (KnownMeanwhileError, IntegrityError):
            # Another process has just committed one of these notifications, or what one of them names.
            return self._try_batch(deliveries)

    def _try_batch(self, deliveries: Sequence[VerifiedDelivery]) -> list[StoreResult]:
        drafts = [inbox.draft(self._vault, each) for each in deliveries]
        counts = Counter(draft.fingerprint for draft in drafts)
        first: dict[bytes, PendingEntry] = {}
        for draft, verified in zip(drafts, deliveries, strict=True):
            first.setdefault(draft.fingerprint, PendingEntry(draft, _correlation_keys(draft, verified)))
        # All transitions of a batch carry the latest arrival time, so that times in a history never decrease.
        latest = max(verified.at for verified in deliveries)
        for fingerprint, (draft, _) in first.items():
            if counts[fingerprint] > 1:
                draft.deliveries, draft.last_received_at = counts[fingerprint], latest
        # In the order of the inserts, so that two processes with the same notifications do not deadlock.
        pending = [first[fingerprint] for fingerprint in sorted(first)]
        try:
            done = self._database.run_once(
                lambda connection: processing.process_batch(
                    UnitOfWork(connection, self._vault, self._gateways, has_savepoints=False),
                    pending,
                    counts=counts,
                    now=latest,
                )
            )
        except DBAPIError as error:
            if error.connection_invalidated:
                # The connection was lost, so the batch may have been committed: a retry must recognize its own rows.
                for draft, verified in zip(drafts, deliveries, strict=True):
                    entry = first[draft.fingerprint].entry
                    verified.attempts.append(Attempt(entry.sealed_body, is_first=entry is draft, counted_at=latest))
            raise
        self._resumption.resume_later(done.unfinished)
        ended = {each.entry_id: each for each in done.resumed}
        results: list[StoreResult] = []
        for draft in drafts:
            if (on_record := done.already_stored.get(draft.fingerprint)) is not None:
                stored = _as_ended(on_record, ended.get(on_record.id))
            else:
                entry = first[draft.fingerprint].entry
                stored = StoredEntry.of(entry, is_new=entry is draft)
            results.append((stored, [] if results else done.resumed))
        return results

    def _store_single(self, verified: VerifiedDelivery) -> StoreResult:
        """Store and process one delivery in its own transaction; an error in processing still stores it, as `failed`.

        Raises `DatabaseUnavailableError`, at once where another transaction holds a row that it needs.
        """
        draft = inbox.draft(self._vault, verified)
        keys = _correlation_keys(draft, verified)
        this = Attempt(draft.sealed_body, is_first=True, counted_at=verified.at)

        def store_and_process(session: Session) -> tuple[StoredEntry, Done]:
            work = UnitOfWork(session.connection(), self._vault, self._gateways)
            entry, is_new = inbox.store_or_count(work.connection, draft, verified.attempts)
            done = Done()
            if is_new and keys is not None:
                done = processing.process_stored(work, entry, keys, now=verified.at)
            work.close()
            is_new = is_new or any(
                each.is_first and each.sealed_body == entry.sealed_body for each in verified.attempts
            )
            # Noted before the commit, whose answer may be lost: a retry must recognize its own rows.
            verified.attempts.append(this)
            stored = StoredEntry.of(entry, is_new=is_new)
            return _as_ended(stored, done.processed[0] if done.processed else None), done

        stored, done = self._database.run_unless_held(store_and_process, is_hot=True)
        self._resumption.resume_later(done.unfinished)
        return stored, done.processed[1:]

    def _when_stored(
        self, verified: VerifiedDelivery, receipt: "Future[Receipt]", until: float, run: "Future[StoreResult]"
    ) -> None:
        """Answer a delivery whose transaction has ended."""
        if (error := run.exception()) is not None:
            # Whatever the error is, no commit was confirmed, so nothing may be acknowledged.
            client = self._keyring.client(verified.delivery.client_id)
            self._resolve(verified, receipt, lambda: self._answer_not_stored(verified, error, client))
            return
        stored, resumed = run.result()
        if not _is_to_be_replayed(stored, verified):
            self._resolve(verified, receipt, lambda: self._answer_stored(verified, stored, resumed))
            return
        # A replay takes a transaction of its own, and the rest of the batch waits for this callback: another thread.
        replay = partial(self._replay_failed, stored, until=until)
        answer = partial(self._resolve, verified, receipt, lambda: self._answer_stored(verified, replay(), resumed))
        try:
            self._replays.submit(answer)
        except RuntimeError:
            # No thread can be started: acknowledge without the replay, since the entry is stored.
            self._resolve(verified, receipt, lambda: self._answer_stored(verified, stored, resumed))

    # --- answers ---

    def _resolve(self, verified: VerifiedDelivery, receipt: "Future[Receipt]", make: Callable[[], Receipt]) -> None:
        try:
            made = make()
        except BaseException as error:  # noqa: BLE001 -- whatever it is, somebody waits; and it may be our signature that fails
            made = self._answer_not_stored(verified, error, None)
        receipt.set_result(made)

    def _replay_failed(self, stored: StoredEntry, *, until: float) -> StoredEntry:
        """Process the stored entry of a redelivery again; an error is logged, and the entry stays as it is."""
        if time.monotonic() > until:
            _log.warning("replay skipped", extra={"entry": stored.id})
            return stored
        try:
            with within(until - time.monotonic()):
                done = self.replay(stored.id)
        except Exception as error:  # noqa: BLE001 -- the entry stays as it is, and will be replayed
            _log.error("replay failed", extra={"entry": stored.id, **failure(error)})
            return stored
        return _as_ended(stored, done[0] if done else None)

    def _answer_not_authentic(
        self, delivery: Delivery, refusal: NotAuthenticError, other_headers: Mapping[str, str], now: datetime
    ) -> Receipt:
        is_known = delivery.client_id in self._keyring.clients
        metrics.SIGNATURE_FAILURES.inc(delivery.client_id if is_known else "unknown", refusal.cause)
        refused = Refused(delivery, refusal.cause, is_known, other_headers, now)
        fields = {**refused.log_fields(), **refusal.facts, **delivery.origin.fields()}
        _log.warning("delivery refused", extra=fields)
        self._when_refused(refused)
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
            "outcome": stored.outcome,
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

    def replay(self, entry_id: int) -> list[Processed]:
        """Process a stored entry again unless its outcome is final, and resume what waited for it.

        Returns the entry first, then each one resumed; an empty list where there is nothing to replay. Raises
        `DatabaseUnavailableError`.
        """
        now = self._clock()
        done = self._resumption.run_after_pieces(
            lambda: self._in_transaction(lambda work: processing.replay(work, entry_id, now=now))
        )
        _count_and_log(done.processed)
        self._resumption.resume_later(done.unfinished)
        return done.processed

    def record(self, report: Report, *, cause: reports.Reporter, by: str | None = None) -> Recorded:
        """Record a report of the merchant's and who made it, and resume what waited for it.

        Raises `ReportRefusedError` where the report contradicts what is on record, and
        `DatabaseUnavailableError`.
        """
        because = Cause(cause, at=self._clock(), by=by)
        recorded = self.run_work(lambda work: reports.record(work, self._keyring, report, cause=because))
        fields = {
            "report": report.name,
            "authorization": recorded.authorization_id,
            "changed": recorded.changed,
            "cause": cause,
            "key": by,
        }
        _log.info("report recorded", extra=fields)
        self.note_resumed(recorded)
        return recorded

    def erase(self, erasure: Erasure) -> int:
        """Forget the user of an authorization, a piece at a time; return of how many notifications the body is gone.

        Raises `ErasureRefusedError` with nothing changed, and `DatabaseUnavailableError`; it can be done once more.
        """
        now, entries, after = self._clock(), 0, 0
        while True:
            piece = self.run_work(partial(erase_next_piece, erasure=erasure, after=after, now=now))
            entries += piece.entries
            if piece.up_to is None:
                break
            after = piece.up_to
        self._database.run(partial(deliveries.forget_answers, of_authorization=erasure.authorization_id))
        # Nobody has verified whose the refused deliveries are: any of them may hold what is to be forgotten.
        self._database.run(quarantine.erase)
        fields = {"authorization": erasure.authorization_id, "by": erasure.by, "forced": erasure.is_forced}
        _log.warning("user erased", extra=fields)
        return entries

    def run_work(
        self, do: Callable[[UnitOfWork], T], *, has_savepoints: bool = True, waits_for_held_rows: bool = True
    ) -> T:
        """Do something in one transaction, once all parked entries that come first are resumed.

        Raises what `do` raises, and `DatabaseUnavailableError`.
        """
        return self._resumption.run_after_pieces(
            lambda: self._in_transaction(do, has_savepoints=has_savepoints, waits_for_held_rows=waits_for_held_rows)
        )

    def note_resumed(self, recorded: Recorded) -> None:
        """Count and log what a report has resumed, once it is committed, and resume what is left in another thread."""
        _count_and_log(recorded.resumed)
        self._resumption.resume_later(recorded.unfinished)

    def resume_unfinished(self) -> None:
        """Resume, in another thread, the parked entries that any process has left to be resumed.

        Raises `DatabaseUnavailableError`.
        """
        self._resumption.resume_later(
            self._database.run(lambda session: authorizations.unfinished(session, limit=UNFINISHED_MAX), read_only=True)
        )

    def _resume_next_piece(self, authorization_id: UUID) -> bool:
        """Resume some more parked entries, in one transaction, and say whether there are still more."""
        now = self._clock()
        done = self._in_transaction(lambda work: processing.resume_next_piece(work, authorization_id, now=now))
        _count_and_log(done.processed)
        return bool(done.unfinished)

    def _in_transaction(
        self, do: Callable[[UnitOfWork], T], *, has_savepoints: bool = True, waits_for_held_rows: bool = True
    ) -> T:
        """Do something in one transaction; retry it where another has just made an authState or token known."""

        def do_and_write(session: Session) -> T:
            work = UnitOfWork(session.connection(), self._vault, self._gateways, has_savepoints=has_savepoints)
            done = do(work)
            work.close()
            return done

        while True:
            try:
                run = self._database.run if waits_for_held_rows else self._database.run_unless_held
                return run(do_and_write, is_hot=True)
            except KnownMeanwhileError:
                # What is known stays known, so this ends.
                continue


def _is_to_be_replayed(stored: StoredEntry, verified: VerifiedDelivery) -> bool:
    """Say whether a redelivery's entry is to be processed again: it failed, or this release understands its body."""
    if stored.is_new:
        return False
    return stored.outcome is Outcome.FAILED or (
        stored.outcome is Outcome.MALFORMED and verified.parsed.notification is not None
    )


def _as_ended(stored: StoredEntry, resumed: Processed | None) -> StoredEntry:
    """Return a stored entry with the outcome that the same transaction gave it, if it resumed it."""
    return stored if resumed is None else replace(stored, outcome=resumed.outcome, reason=resumed.reason)


def _correlation_keys(draft: InboxEntry, verified: VerifiedDelivery) -> CorrelationKeys | None:
    notification = verified.parsed.notification
    return None if notification is None else CorrelationKeys(draft.client_id, notification, draft.token_index)


def _count_and_log(processed: list[Processed]) -> None:
    """Count and log processed entries, once their transaction is committed."""
    for done in processed:
        metrics.count_notification(done.type, done.outcome)
        fields = {
            "entry": done.entry_id,
            "outcome": done.outcome,
            "reason": done.reason,
            "authorization": done.authorization_id,
        }
        _log.info("notification processed", extra=fields)
