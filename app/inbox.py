"""The inbox: every authentic notification is stored once, however often it is delivered."""

import re
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, literal_column, select, union_all, update
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from app import tokens
from app.alipay.delivery import Delivery
from app.alipay.notification import (
    MalformedNotificationError,
    Named,
    Notification,
    NotificationType,
    names,
    parse,
)
from app.database.bulk import KeyedStatement, insertion, update_of
from app.database.pipeline import Rows, Statement, execute, plain
from app.key_locks import AuthStateKey
from app.models import InboxEntry
from app.tokens import TokenKey
from app.vault import Vault
from app.vocabulary import OPEN_OUTCOMES, REPLAYABLE_OUTCOMES, Outcome, Reason

BODY_COLUMN = "inbox.sealed_body"

#: Written out rather than bound, or no database would use the partial indexes over such entries.
IS_PARKED: ColumnElement[bool] = InboxEntry.outcome == literal_column(f"'{Outcome.PARKED}'")
IS_NOT_APPLIED: ColumnElement[bool] = InboxEntry.outcome != literal_column(f"'{Outcome.APPLIED}'")
IS_CANCELLATION: ColumnElement[bool] = InboxEntry.type == literal_column(f"'{NotificationType.TOKEN_CANCELED}'")


@dataclass(frozen=True, slots=True)
class ParseResult:
    """What could be read from a delivery's body: a notification, or what stands in the way."""

    notification: Notification | None
    #: Set for a body that breaks a rule of the wire.
    malformed: MalformedNotificationError | None = None
    #: Set when reading broke, which is our fault and not the sender's.
    error: Exception | None = None
    #: What a malformed body can still be found by.
    named: Named = field(default_factory=Named)


@dataclass(frozen=True, slots=True)
class VerifiedDelivery:
    """A delivery whose signature was verified, what could be read from it, and when it was received."""

    delivery: Delivery
    parsed: ParseResult
    at: datetime
    #: Transactions that were to store or count this delivery, and whose commit was neither confirmed nor refused.
    attempts: list["Attempt"] = field(default_factory=list, compare=False)


@dataclass(frozen=True, slots=True)
class Attempt:
    """Marks by which a retry recognizes rows that an unconfirmed commit may have written.

    So no delivery is counted twice.
    """

    #: Of a new entry. Sealing is random, so no other transaction has written the same bytes.
    sealed_body: bytes
    #: Whether this delivery was the first of its notification in the batch.
    is_first: bool
    #: The time of the last delivery that was written to an entry on record.
    counted_at: datetime

    def is_of(self, entry: InboxEntry) -> bool:
        """Say whether this transaction was the last to write this entry."""
        return self.sealed_body == entry.sealed_body or self.counted_at == entry.last_received_at


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """The entry of a delivery as it is stored, and whether this delivery was the first of its notification."""

    id: int
    is_new: bool
    outcome: Outcome | str
    reason: str | None

    @classmethod
    def of(cls, entry: InboxEntry, *, is_new: bool) -> "StoredEntry":
        """Read it from a stored entry."""
        return cls(entry.id, is_new, entry.outcome, entry.reason)


def read(body: bytes) -> ParseResult:
    """Parse a body, and never raise: an authentic delivery is stored whatever its body is."""
    try:
        return ParseResult(parse(body))
    except MalformedNotificationError as malformed:
        return ParseResult(None, malformed=malformed, named=names(body))
    except Exception as error:  # noqa: BLE001 -- whatever it is, the delivery must still be stored
        return ParseResult(None, error=error)


def draft(vault: Vault, verified: VerifiedDelivery) -> InboxEntry:
    """Make the entry of a delivery, which is not stored yet."""
    delivery, notification = verified.delivery, verified.parsed.notification
    named: Notification | Named = notification or verified.parsed.named
    fingerprint = _fingerprint(vault, delivery, notification)
    outcome, reason = _first_outcome(verified.parsed)
    return plain(InboxEntry)(
        fingerprint=fingerprint,
        client_id=delivery.client_id,
        # Empty where the body is not understood: that tells such an entry from one that once was understood.
        type=notification.type if notification else None,
        auth_state=named.auth_state,
        token_index=token_index(vault, delivery.client_id, named),
        sealed_body=vault.seal(delivery.body, column=BODY_COLUMN, row_key=fingerprint),
        uri=delivery.uri,
        request_time=delivery.request_time,
        signature=delivery.signature,
        deliveries=1,
        received_at=verified.at,
        last_received_at=verified.at,
        outcome=outcome,
        reason=reason,
    )


def needed_by(verified: VerifiedDelivery) -> Hashable:
    """Return the key of the row that a delivery will lock: of two deliveries with one key, the second would wait."""
    notification = verified.parsed.notification
    named = None if notification is None else notification.auth_state or notification.access_token
    return verified.delivery.client_id, named or verified.delivery.body


# --- keys by which an entry names its authorization, so that all of it is locked and loaded at once ------------------


class CorrelationKeys(NamedTuple):
    """What an entry is about: a notification, the client it was sent for, and the blind index of the token it names."""

    client_id: str
    notification: Notification
    token_index: bytes | None

    @classmethod
    def read(cls, vault: Vault, client_id: str, notification: Notification) -> "CorrelationKeys":
        """Return the keys of a notification."""
        return cls(client_id, notification, token_index(vault, client_id, notification))

    @property
    def auth_state_key(self) -> AuthStateKey | None:
        """The client id and the authState, if it names one."""
        auth_state = self.notification.auth_state
        return None if auth_state is None else (self.client_id, auth_state)

    @property
    def token_key(self) -> TokenKey | None:
        """The client id and the blind index of the token, if it names one."""
        return None if self.token_index is None else (self.client_id, self.token_index)


class PendingEntry(NamedTuple):
    """An entry to be judged, and its correlation keys; `None` where its body could not be read."""

    entry: InboxEntry
    keys: CorrelationKeys | None


def named_by(
    pending: Sequence[PendingEntry], states: Collection[AuthStateKey], token_keys: Collection[TokenKey]
) -> tuple[set[AuthStateKey], set[TokenKey]]:
    """Return the authStates and tokens that these entries name, with those given."""
    named = [each.keys for each in pending if each.keys is not None]
    return (
        {*states, *(state for keys in named if (state := keys.auth_state_key) is not None)},
        {*token_keys, *(key for keys in named if (key := keys.token_key) is not None)},
    )


# --- statements ------------------------------------------------------------------------------------------------------


def stored_entries_query(drafts: Collection[InboxEntry]) -> Statement:
    """Find which of these notifications are on record."""
    return _STORED(fingerprints=[(each.fingerprint,) for each in drafts])


def read_stored_entries(answer: Rows) -> dict[bytes, StoredEntry]:
    """Read the result of `stored_entries_query`, by fingerprint."""
    return {
        fingerprint: StoredEntry(entry_id, is_new=False, outcome=outcome, reason=reason)
        for fingerprint, entry_id, outcome, reason in answer.rows
    }


def entry_insertion(drafts: Sequence[InboxEntry]) -> Statement:
    """Insert new entries.

    Where another transaction has just inserted one of them, this fails (`sqlalchemy.exc.IntegrityError`): the unique
    fingerprint lets one process insert it, and the others wait for its transaction.
    """
    # Sorted, so that two transactions with the same entries do not deadlock.
    ordered = sorted(drafts, key=lambda draft: draft.fingerprint)
    return insertion(InboxEntry, ordered, returning=_ID)


def assign_ids(drafts: Sequence[InboxEntry], answer: Rows) -> None:
    """Set the ids of inserted entries, as the database has assigned them."""
    ids = {row[0]: row[1] for row in answer.rows}
    for draft in drafts:
        draft.id = ids[draft.fingerprint]


def store_or_count(connection: Connection, draft: InboxEntry, attempts: Sequence[Attempt]) -> tuple[InboxEntry, bool]:
    """Store an entry, or else count a redelivery of the one on record; return the entry, and whether it is new.

    A delivery that one of the attempts has stored or counted is not counted again.
    """
    storing = insertion(InboxEntry, [draft], returning=_ID, on_conflict="leave")
    stored, found = execute(connection, storing, _BY_FINGERPRINT(fingerprints=[(draft.fingerprint,)]))
    (entry,) = found.of(InboxEntry)
    is_new = bool(stored.rows)
    is_counted = any(attempt.is_of(entry) for attempt in attempts)
    if not is_new and not is_counted:
        execute(connection, redelivery_update(Counter([entry.id]), at=draft.received_at))
    return entry, is_new


def redelivery_update(times: Counter[int], *, at: datetime) -> Statement:
    """Count redeliveries. This locks the entries, so it comes last in its transaction."""
    rows = [
        plain(InboxEntry)(id=entry_id, deliveries=count, last_received_at=at)
        for entry_id, count in sorted(times.items())
    ]
    return update_of(InboxEntry, rows, ("last_received_at",), adding=("deliveries",))


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_ID = (InboxEntry.fingerprint, InboxEntry.id)
_STORED = KeyedStatement(
    lambda keys_in: keys_in.find(
        select(InboxEntry.fingerprint, InboxEntry.id, InboxEntry.outcome, InboxEntry.reason),
        "fingerprints",
        InboxEntry.fingerprint,
    )
)
_BY_FINGERPRINT = KeyedStatement(
    lambda keys_in: keys_in.find(select(InboxEntry), "fingerprints", InboxEntry.fingerprint)
)


def _first_outcome(parsed: ParseResult) -> tuple[Outcome, str | None]:
    """Say what the entry is until it is processed: failed, so that it is replayed if nothing else happens to it."""
    if parsed.malformed is not None:
        return Outcome.MALFORMED, f"{parsed.malformed.field}: {parsed.malformed.rule}"
    if parsed.error is not None:
        return Outcome.FAILED, type(parsed.error).__name__
    return Outcome.FAILED, "NotProcessed"


def _fingerprint(vault: Vault, delivery: Delivery, notification: Notification | None) -> bytes:
    """Make the fingerprint: equal for all deliveries of one notification, whatever its bytes, time and signature."""
    if notification is None or not isinstance(notification.type, NotificationType):
        return vault.blind_index("fingerprint of bytes", delivery.client_id, delivery.body)
    match notification.type:
        case NotificationType.AUTHCODE_CREATED:
            keys = [notification.auth_state, notification.auth_code]
        case NotificationType.TOKEN_CREATED:
            keys = [notification.auth_state, notification.access_token]
        case _:
            keys = [notification.access_token]
    texts = [key if isinstance(key, str) else key.reveal() for key in keys if key is not None]
    return vault.blind_index("fingerprint", delivery.client_id, notification.type, notification.result_status, *texts)


def token_index(vault: Vault, client_id: str, notification: Notification | Named) -> bytes | None:
    """Make the blind index of the token that a notification names, if it names one."""
    if notification.access_token is None:
        return None
    return tokens.index(vault, client_id, notification.access_token)


def open_body(vault: Vault, entry: InboxEntry) -> bytes:
    """Open the exact bytes of an entry.

    Raises `VaultError` where they do not open.
    """
    return vault.open_bytes(entry.sealed_body, column=BODY_COLUMN, row_key=entry.fingerprint)


def forget(vault: Vault, entry: InboxEntry) -> None:
    """Take out the body of an entry. What could still have been processed by it is rejected for good.

    What was malformed stays so: its redeliveries are answered as the first was.
    """
    entry.sealed_body = vault.seal(b"", column=BODY_COLUMN, row_key=entry.fingerprint)
    if entry.outcome in REPLAYABLE_OUTCOMES and entry.outcome != Outcome.MALFORMED:
        entry.outcome, entry.reason = Outcome.REJECTED, Reason.ERASED


def is_erased(body: bytes) -> bool:
    """Say whether a stored body was taken out of its entry because its user was erased.

    An empty body that a sender signed says no more than one that was taken out.
    """
    return not body


def read_again(vault: Vault, entry: InboxEntry) -> Notification:
    """Parse a stored entry again, without the nesting limit if an older release understood it.

    Raises `VaultError` where its body does not open, and `MalformedNotificationError`.
    """
    return parse(open_body(vault, entry), nesting_bounded=entry.type is None)


class SealedBody(NamedTuple):
    """The body of an entry as it is stored, and the key of its row."""

    fingerprint: bytes
    sealed_body: bytes


def newest_sealed_body(session: Session) -> SealedBody | None:
    """Read the body that was sealed last; `None` where there is no entry."""
    newest = select(InboxEntry.fingerprint, InboxEntry.sealed_body).order_by(InboxEntry.id.desc()).limit(1)
    found = session.execute(newest).one_or_none()
    return None if found is None else SealedBody(*found)


def find(connection: Connection, entry_id: int) -> InboxEntry | None:
    """Find an entry, without locking it."""
    (found,) = execute(connection, _BY_ID(ids=[(entry_id,)]))
    return next(iter(found.of(InboxEntry)), None)


def undecided_cancellation(session: Session, key: TokenKey) -> int | None:
    """Find the cancellation of a token, if one was acknowledged that may still be carried out."""
    client_id, token_index = key
    statement = select(InboxEntry.id).where(
        *(IS_NOT_APPLIED, IS_CANCELLATION, InboxEntry.client_id == client_id, InboxEntry.token_index == token_index),
        InboxEntry.outcome.in_(OPEN_OUTCOMES),
    )
    return session.scalars(statement.order_by(InboxEntry.id).limit(1)).one_or_none()


def entry_lock(ids: Collection[int]) -> Statement:
    """Lock entries until the transaction ends, in inbox sequence, and read them as they then are."""
    return _LOCK(ids=[(each,) for each in ids])


def waiting_entries_query(
    states: Collection[tuple[str, str, int]], keys: Collection[TokenKey], *, limit: int
) -> Statement:
    """Find, unlocked, parked entries: of each authState the first few behind a number, and cancellations of tokens.

    A token has no more than one cancellation that waits.
    """
    return _waiting_entries(limit)(states=states, keys=keys)


_BY_ID = KeyedStatement(lambda keys_in: keys_in.find(select(InboxEntry), "ids", InboxEntry.id))
_LOCK = KeyedStatement(
    lambda keys_in: select(InboxEntry).where(keys_in("ids", InboxEntry.id)).order_by(InboxEntry.id).with_for_update()
)


@cache
def _waiting_entries(limit: int) -> KeyedStatement:
    return KeyedStatement(
        lambda keys_in: union_all(
            keys_in.first(
                select(InboxEntry).where(IS_PARKED).order_by(InboxEntry.id),
                limit,
                "states",
                InboxEntry.client_id,
                InboxEntry.auth_state,
                after=InboxEntry.id,
            ),
            keys_in.find(
                # A creation that names the same token is about another authorization.
                select(InboxEntry).where(IS_PARKED, IS_CANCELLATION),
                "keys",
                InboxEntry.client_id,
                InboxEntry.token_index,
            ),
        )
    )


def illegal_entries_update(authorization_id: UUID) -> Statement:
    """Let what was illegal for an authorization, which is locked, wait again."""
    return _PARK_ILLEGAL(authorizations=[(authorization_id,)])


_PARK_ILLEGAL = KeyedStatement(
    lambda keys_in: (
        update(InboxEntry)
        .where(
            keys_in("authorizations", InboxEntry.authorization_id),
            InboxEntry.outcome == literal_column(f"'{Outcome.REJECTED}'"),
            InboxEntry.reason == literal_column(f"'{Reason.ILLEGAL_TRANSITION}'"),
        )
        .values(outcome=literal_column(f"'{Outcome.PARKED}'"), reason=literal_column(f"'{Reason.EARLY}'"))
    )
)


def can_be_consulted(auth_state: str | None) -> bool:
    """Say whether a consult can name this authState: half a character is stored here, but the API refuses it."""
    return auth_state is None or _LONE_SURROGATE.search(auth_state) is None


def update_parsed_fields(vault: Vault, entry: InboxEntry, notification: Notification) -> None:
    """Write down what a replay could read and an earlier reading could not: a type that was unknown then."""
    entry.type = notification.type
    entry.auth_state = notification.auth_state
    entry.token_index = token_index(vault, entry.client_id, notification)
