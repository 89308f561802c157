"""The tables, one page of schema.

Text of a stranger is stored escaped, secrets are stored sealed, times are UTC. History is only ever added to.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    TypeDecorator,
    Uuid,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from typing_extensions import override

from app.alipay.notification import NotificationType
from app.state_machine import AuthorizationState, Flow
from app.vocabulary import CallKind, CallStatus, CauseKind, Outcome, known

#: The migration that makes exactly these tables; a test holds it to the newest file in `migrations/versions`.
REVISION = "0011"

E = TypeVar("E", bound=StrEnum)

_UNSTORABLE = re.compile("[\\\\\x00\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(?:\\|u([0-9a-f]{4}))")


class EscapedText(TypeDecorator[str]):
    """A stranger's text, with what PostgreSQL or the driver refuses (NUL, lone surrogates) written as an escape.

    Equal texts stay equal and different ones different, so it can be compared and indexed.
    """

    impl = Text
    cache_ok = True

    @override
    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Escape on the way in."""
        if value is None or (value.isascii() and "\\" not in value and "\x00" not in value):
            # Nearly all is such text, and looking for that is much quicker.
            return value
        return _UNSTORABLE.sub(lambda found: r"\\" if found[0] == "\\" else f"\\u{ord(found[0]):04x}", value)

    @override
    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """Unescape on the way out."""
        if value is None or "\\" not in value:
            return value
        return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else "\\", value)


class Word(EscapedText, Generic[E]):
    """A member of an enumeration, or as plain text a word that it does not have: a newer release's, or a stranger's."""

    cache_ok = True

    def __init__(self, enumeration: type[E]) -> None:
        super().__init__()
        self.enumeration = enumeration
        self._members: Mapping[str, E] = {each.value: each for each in enumeration}

    @override
    def process_result_value(self, value: str | None, dialect: Dialect) -> E | str | None:
        """Give back the member, if this release has it."""
        if value is None:
            return None
        return self._members.get(value) or super().process_result_value(value, dialect)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, always UTC; SQLite has no time zones and keeps the bare UTC time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @override
    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn any aware time into UTC; a naive one is refused, for nobody knows what it means."""
        if value is None:
            return None
        if value.tzinfo is None:
            message = "a time without a zone cannot be stored"
            raise ValueError(message)
        return value if value.tzinfo is UTC else value.astimezone(UTC)

    @override
    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Names every constraint by one convention, so that migrations can name them too."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: EscapedText,
        datetime: UtcDateTime,
        bytes: LargeBinary,
        UUID: Uuid(),
        # SQLite counts on its own only in a column that is INTEGER to the letter.
        int: BigInteger().with_variant(Integer, "sqlite"),
    }


class Authorization(Base):
    """A user's permission to debit, opened by a consult."""

    __tablename__ = "authorizations"

    #: UUIDv7: newest last, and never given twice, not even after a restore from a backup.
    id: Mapped[UUID] = mapped_column(primary_key=True)
    client_id: Mapped[str]
    auth_state: Mapped[str]
    flow: Mapped[Flow | str] = mapped_column(Word(Flow))
    #: Whether a consult named the flow. One that was taken from the client's `default_flow` (false) contradicts none
    #: that is named later. Empty where that is not known, from an older release.
    flow_was_said: Mapped[bool | None]
    state: Mapped[AuthorizationState | str] = mapped_column(Word(AuthorizationState))
    #: How many transitions there are: the sequence of the last one.
    version: Mapped[int]
    #: The merchant's own name for the user.
    user_ref: Mapped[str | None]
    #: The wallet, such as GCASH. No notification names it.
    customer_belongs_to: Mapped[str | None]
    #: The wallet's id of the user, if a notification told it.
    user_id: Mapped[str | None]
    sealed_login_id: Mapped[bytes | None]
    sealed_auth_code: Mapped[bytes | None]
    #: applyToken has about a minute from here.
    auth_code_received_at: Mapped[datetime | None]
    #: The blind indexes of the other codes that are known, one after another: none is news when it comes again.
    other_code_indexes: Mapped[bytes | None]
    #: Why the merchant revoked, in its own words, where it said so.
    sealed_cancel_reason: Mapped[bytes | None]
    #: Set while parked entries that name it are still to be resumed: those behind this one in the inbox.
    resume_after: Mapped[int | None]
    #: applyToken wants the one that the consult named, if it did.
    merchant_region: Mapped[str | None]
    #: Since the merchant asked for a revoke its token is not given out.
    revoke_asked_at: Mapped[datetime | None]
    #: When an operator had its user forgotten.
    erased_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    __table_args__ = (
        Index("uq_authorizations_client_id_auth_state", "client_id", "auth_state", unique=True),
        Index("ix_authorizations_auth_state_id", "auth_state", "id"),
        Index("ix_authorizations_user_ref_id", "user_ref", "id"),
        Index("ix_authorizations_state_id", "state", "id"),
        Index("ix_authorizations_client_id_id", "client_id", "id"),
        Index("ix_authorizations_customer_belongs_to_id", "customer_belongs_to", "id"),
        Index("ix_authorizations_state_updated_at_id", "state", "updated_at", "id"),
        # Only some wallets tell an id.
        Index(
            "ix_authorizations_user_id_id",
            "user_id",
            "id",
            postgresql_where=text("user_id IS NOT NULL"),
            sqlite_where=text("user_id IS NOT NULL"),
        ),
        # Hardly ever any, so that looking for them costs nothing.
        Index(
            "ix_authorizations_unfinished",
            "id",
            postgresql_where=text("resume_after IS NOT NULL"),
            sqlite_where=text("resume_after IS NOT NULL"),
        ),
    )

    @property
    def is_understood(self) -> bool:
        """Whether this release knows its state and its flow: a newer one, beside it, may have written others."""
        return isinstance(self.state, AuthorizationState) and isinstance(self.flow, Flow)

    @property
    def current_state(self) -> AuthorizationState:
        """The state as the machine knows it. Raises `NewerReleaseError`."""
        return known(self.state)

    @property
    def current_flow(self) -> Flow:
        """The flow as the machine knows it. Raises `NewerReleaseError`."""
        return known(self.flow)


class AccessToken(Base):
    """A token that a creation or a refresh made known, current or superseded."""

    __tablename__ = "access_tokens"

    client_id: Mapped[str] = mapped_column(primary_key=True)
    #: The blind index of the token: a cancellation names nothing else.
    token_index: Mapped[bytes] = mapped_column(primary_key=True)
    authorization_id: Mapped[UUID] = mapped_column(ForeignKey(Authorization.id))
    sealed_access_token: Mapped[bytes]
    access_token_expires_at: Mapped[datetime | None]
    sealed_refresh_token: Mapped[bytes | None]
    refresh_token_expires_at: Mapped[datetime | None]
    #: When a refresh replaced it; empty for the current token.
    superseded_at: Mapped[datetime | None]
    #: When the service is to refresh it; empty where it cannot be refreshed, or an older release wrote the row.
    refresh_due_at: Mapped[datetime | None]
    #: When the call that refreshes it was made a row: there is one of its own accord, however that ends.
    refresh_asked_at: Mapped[datetime | None]
    created_at: Mapped[datetime]

    __table_args__ = (
        Index("ix_access_tokens_authorization_id", "authorization_id"),
        # Those still to be refreshed, the most urgent first.
        Index(
            "ix_access_tokens_refresh_due",
            "client_id",
            "refresh_due_at",
            postgresql_where=text("refresh_due_at IS NOT NULL AND refresh_asked_at IS NULL AND superseded_at IS NULL"),
            sqlite_where=text("refresh_due_at IS NOT NULL AND refresh_asked_at IS NULL AND superseded_at IS NULL"),
        ),
        # Those of which an older release has not said when; soon there are none.
        Index(
            "ix_access_tokens_refresh_unplanned",
            "client_id",
            "token_index",
            postgresql_where=text(
                "refresh_due_at IS NULL AND superseded_at IS NULL"
                " AND sealed_refresh_token IS NOT NULL AND access_token_expires_at IS NOT NULL"
            ),
            sqlite_where=text(
                "refresh_due_at IS NULL AND superseded_at IS NULL"
                " AND sealed_refresh_token IS NOT NULL AND access_token_expires_at IS NOT NULL"
            ),
        ),
        # Those that end next.
        Index(
            "ix_access_tokens_expires_at",
            "access_token_expires_at",
            "authorization_id",
            postgresql_where=text("superseded_at IS NULL AND access_token_expires_at IS NOT NULL"),
            sqlite_where=text("superseded_at IS NULL AND access_token_expires_at IS NOT NULL"),
        ),
        # The one current token of an authorization.
        Index(
            "uq_access_tokens_current",
            "authorization_id",
            unique=True,
            postgresql_where=text("superseded_at IS NULL"),
            sqlite_where=text("superseded_at IS NULL"),
        ),
    )


class InboxEntry(Base):
    """An authentic notification, stored once however often it is delivered."""

    __tablename__ = "inbox"

    #: The inbox sequence: contradictions go to the lower one.
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    #: Says which deliveries are the same notification. Alipay sends no message id.
    fingerprint: Mapped[bytes] = mapped_column(unique=True)
    client_id: Mapped[str]
    #: What the body says; empty when it could not be understood that far.
    type: Mapped[NotificationType | str | None] = mapped_column(Word(NotificationType))
    #: Empty for a cancellation, which never carries one.
    auth_state: Mapped[str | None]
    #: The blind index of the token it names.
    token_index: Mapped[bytes | None]
    sealed_body: Mapped[bytes]
    #: With the body, all that is needed to prove that Alipay said so. As first received.
    uri: Mapped[str]
    request_time: Mapped[str]
    signature: Mapped[str]
    deliveries: Mapped[int]
    received_at: Mapped[datetime]
    last_received_at: Mapped[datetime]
    outcome: Mapped[Outcome | str] = mapped_column(Word(Outcome))
    reason: Mapped[str | None]
    #: The state the authorization was in when this was decided.
    found_state: Mapped[AuthorizationState | str | None] = mapped_column(Word(AuthorizationState))
    authorization_id: Mapped[UUID | None] = mapped_column(ForeignKey(Authorization.id))

    __table_args__ = (
        Index("ix_inbox_authorization_id", "authorization_id"),
        Index("ix_inbox_outcome_id", "outcome", "id"),
        Index("ix_inbox_type_id", "type", "id"),
        Index("ix_inbox_auth_state_id", "auth_state", "id"),
        # Never updated, and always at its end when something is added.
        Index("ix_inbox_received_at_id", "received_at", "id"),
        # What was applied at once, nearly all there is, costs nothing in these two.
        Index(
            "ix_inbox_reason_id",
            "reason",
            "id",
            postgresql_where=text("reason IS NOT NULL"),
            sqlite_where=text("reason IS NOT NULL"),
        ),
        Index(
            "ix_inbox_token_index_id",
            "token_index",
            "id",
            postgresql_where=text("outcome <> 'applied'"),
            sqlite_where=text("outcome <> 'applied'"),
        ),
        # The few that wait, by what they may wait for. PostgreSQL must have no choice between the two.
        Index(
            "ix_inbox_parked_auth_state",
            "client_id",
            "auth_state",
            "id",
            postgresql_where=text("outcome = 'parked' AND auth_state IS NOT NULL"),
            sqlite_where=text("outcome = 'parked'"),
        ),
        Index(
            "ix_inbox_parked_token_index",
            "client_id",
            "token_index",
            "id",
            postgresql_where=text("outcome = 'parked' AND type = 'TOKEN_CANCELED'"),
            sqlite_where=text("outcome = 'parked'"),
        ),
        # What is parked for a reason, by age. That it names the reason keeps it from being used for anything else.
        Index(
            "ix_inbox_parked_reason_received_at",
            "reason",
            "received_at",
            postgresql_where=text("outcome = 'parked' AND reason IS NOT NULL"),
            sqlite_where=text("outcome = 'parked' AND reason IS NOT NULL"),
        ),
        {"sqlite_autoincrement": True},
    )


class Transition(Base):
    """One recorded move of an authorization. Never changed, never deleted."""

    __tablename__ = "transitions"

    authorization_id: Mapped[UUID] = mapped_column(ForeignKey(Authorization.id), primary_key=True)
    #: 1, 2, 3 … without a gap. That no two moves can take one number is what guards against a lost update.
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    event: Mapped[str]
    #: Empty for the consult, which comes from nowhere.
    from_state: Mapped[AuthorizationState | str | None] = mapped_column(Word(AuthorizationState))
    to_state: Mapped[AuthorizationState | str] = mapped_column(Word(AuthorizationState))
    cause: Mapped[CauseKind | str] = mapped_column(Word(CauseKind))
    #: Who reported it: the name of an API key, or the user of a shell. Empty for a notification.
    by: Mapped[str | None]
    #: Why, where the event does not say it all.
    reason: Mapped[str | None]
    #: The inbox entry. Not a foreign key: entries are purged, history never is.
    notification_id: Mapped[int | None]
    #: When the service was first told; empty in what an older release wrote, which kept only when it was recorded.
    learned_at: Mapped[datetime | None]
    #: When it was recorded.
    at: Mapped[datetime]


class OutboxEvent(Base):
    """An event that is not in the feed yet, written by the transaction that moves the authorization.

    Thin: what the event says of the authorization and of its move is read from those, which stay.
    """

    __tablename__ = "event_outbox"

    #: Rises from one move of an authorization to its next, since the later one waits for the lock of the first.
    #: Between authorizations it says nothing: numbers are taken before commits.
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    #: UUIDv7: what receivers tell a repeated event by, so it is never given twice, not even after a restore.
    event_id: Mapped[UUID]
    type: Mapped[str]
    authorization_id: Mapped[UUID]
    #: That of the transition; for a call that ended badly, of the last one before.
    sequence: Mapped[int]
    #: The call that ended badly, if that is what it tells of, how it ended then, and Alipay's code.
    call_id: Mapped[UUID | None]
    call_status: Mapped[str | None]
    result_code: Mapped[str | None]
    #: When it is no longer of any use, for the code of an `authcode_issued` lives a minute.
    expires_at: Mapped[datetime | None]
    at: Mapped[datetime]

    __table_args__ = ({"sqlite_autoincrement": True},)


class FeedEvent(Base):
    """An event with its place in the feed, which it got once its transaction was committed."""

    __tablename__ = "events"

    #: 1, 2, 3 … without a gap, in an order in which nothing is ever added behind what a reader has seen.
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    event_id: Mapped[UUID] = mapped_column(unique=True)
    type: Mapped[str]
    authorization_id: Mapped[UUID]
    sequence: Mapped[int]
    call_id: Mapped[UUID | None]
    call_status: Mapped[str | None]
    result_code: Mapped[str | None]
    expires_at: Mapped[datetime | None]
    at: Mapped[datetime]
    #: When it got its position.
    numbered_at: Mapped[datetime]

    __table_args__ = (
        Index("ix_events_type_position", "type", "position"),
        Index("ix_events_authorization_id_position", "authorization_id", "position"),
        Index("ix_events_numbered_at_position", "numbered_at", "position"),
    )


class Feed(Base):
    """How far the feed goes. One row, which a transaction locks to number events: one at a time does."""

    __tablename__ = "feed"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    #: The position of the newest event; the next one gets one more.
    last_position: Mapped[int]
    #: Events up to here are purged: a reader that is not past it has missed some.
    purged_through: Mapped[int]

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class WebhookDelivery(Base):
    """An event that one endpoint is told, or was, or could not be."""

    __tablename__ = "webhook_deliveries"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    #: The event's position in the feed. Not a foreign key: both are purged in pieces.
    position: Mapped[int]
    #: Two moves of one authorization are not sent at the same time.
    authorization_id: Mapped[UUID]
    endpoint: Mapped[str]
    #: `due`, and then for good `delivered`, `expired` or `dead`.
    status: Mapped[str]
    #: How many attempts are on record.
    attempts: Mapped[int]
    #: When the next attempt is due; empty once there is none.
    due_at: Mapped[datetime | None]
    #: When it is no longer of any use.
    expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    #: The delivery that this one repeats because somebody asked for it.
    resend_of: Mapped[int | None]

    __table_args__ = (
        Index("ix_webhook_deliveries_position", "position"),
        Index("ix_webhook_deliveries_endpoint_id", "endpoint", "id"),
        Index("ix_webhook_deliveries_status_id", "status", "id"),
        # The few that are still to be sent, the most urgent first.
        Index(
            "ix_webhook_deliveries_due",
            "endpoint",
            "due_at",
            "id",
            postgresql_where=text("status = 'due'"),
            sqlite_where=text("status = 'due'"),
        ),
        Index(
            "ix_webhook_deliveries_expiring",
            "endpoint",
            "due_at",
            "id",
            postgresql_where=text("status = 'due' AND expires_at IS NOT NULL"),
            sqlite_where=text("status = 'due' AND expires_at IS NOT NULL"),
        ),
        {"sqlite_autoincrement": True},
    )


class WebhookAttempt(Base):
    """One HTTP request to an endpoint, and how it was answered."""

    __tablename__ = "webhook_attempts"

    delivery_id: Mapped[int] = mapped_column(ForeignKey(WebhookDelivery.id), primary_key=True, autoincrement=False)
    #: 1, 2, 3 …
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    milliseconds: Mapped[int]
    #: Empty where nobody answered.
    http_status: Mapped[int | None]
    #: Why it failed, in a sentence.
    error: Mapped[str | None]
    #: The beginning of what was answered.
    answer: Mapped[str | None]


class Call(Base):
    """Something the service asks of Alipay: it is repeated, as the same request, until the answer is final."""

    __tablename__ = "calls"

    #: UUIDv7.
    id: Mapped[UUID] = mapped_column(primary_key=True)
    authorization_id: Mapped[UUID] = mapped_column(ForeignKey(Authorization.id))
    client_id: Mapped[str]
    kind: Mapped[CallKind | str] = mapped_column(Word(CallKind))
    status: Mapped[CallStatus | str] = mapped_column(Word(CallStatus))
    #: How many attempts were begun.
    attempts: Mapped[int]
    #: Whether an attempt was begun whose end is not on record.
    is_in_flight: Mapped[bool]
    #: Whether Alipay may have carried out an attempt whose answer is not known.
    is_uncertain: Mapped[bool]
    #: When the next attempt is due; empty once there is none.
    due_at: Mapped[datetime | None]
    #: From when on it is not repeated.
    deadline_at: Mapped[datetime | None]
    #: The blind index of the code or token that it is about.
    subject_index: Mapped[bytes | None]
    #: The body of the request; empty once it is of no use any more.
    sealed_request: Mapped[bytes | None]
    #: What a consult was answered.
    sealed_answer: Mapped[bytes | None]
    #: Alipay's code in the last answer.
    result_code: Mapped[str | None]
    #: How it ended or why it is repeated, in a sentence.
    reason: Mapped[str | None]
    #: What asked for it: `gateway` where the service did of its own accord.
    cause: Mapped[CauseKind | str] = mapped_column(Word(CauseKind))
    #: Who asked for it.
    by: Mapped[str | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_calls_authorization_id_id", "authorization_id", "id"),
        Index("ix_calls_status_id", "status", "id"),
        Index("ix_calls_kind_id", "kind", "id"),
        Index("ix_calls_client_id_id", "client_id", "id"),
        # The few that are still to be made, the most urgent of each kind first.
        Index(
            "ix_calls_due",
            "kind",
            "due_at",
            "id",
            postgresql_where=text("status = 'due'"),
            sqlite_where=text("status = 'due'"),
        ),
        Index(
            "ix_calls_due_authorization_id",
            "authorization_id",
            postgresql_where=text("status = 'due'"),
            sqlite_where=text("status = 'due'"),
        ),
        Index(
            "ix_calls_deadline_at",
            "deadline_at",
            postgresql_where=text("status = 'due' AND deadline_at IS NOT NULL"),
            sqlite_where=text("status = 'due' AND deadline_at IS NOT NULL"),
        ),
        Index(
            "ix_calls_in_flight",
            "id",
            postgresql_where=text("is_in_flight"),
            sqlite_where=text("is_in_flight"),
        ),
    )


class CallAttempt(Base):
    """One request to Alipay, on record before it is sent, and how it was answered."""

    __tablename__ = "call_attempts"

    call_id: Mapped[UUID] = mapped_column(ForeignKey(Call.id), primary_key=True)
    #: 1, 2, 3 …
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    started_at: Mapped[datetime]
    #: Empty while it is on its way, and for good where the worker that made it died.
    milliseconds: Mapped[int | None]
    http_status: Mapped[int | None]
    #: `S`, `F` or `U`, where there was an answer that can be believed.
    result_status: Mapped[str | None]
    result_code: Mapped[str | None]
    #: Why there is no answer that can be believed, in a sentence.
    error: Mapped[str | None]


class AuditLine(Base):
    """What an operator did that no history tells: who forgot a user. Only ever added to."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    at: Mapped[datetime]
    #: The user of the shell; empty where the system has no name.
    who: Mapped[str | None]
    #: `erase`.
    action: Mapped[str]
    #: The id of the authorization: nothing that names a person.
    subject: Mapped[str]
    #: Why, in the operator's own words.
    reason: Mapped[str | None]

    __table_args__ = (Index("ix_audit_subject_id", "subject", "id"), {"sqlite_autoincrement": True})


class RefusedDelivery(Base):
    """A delivery that was not authentic, kept for a day so that the doctor can say why. Nothing of it is believed."""

    __tablename__ = "refused_deliveries"

    #: UUIDv7: newest last.
    id: Mapped[UUID] = mapped_column(primary_key=True)
    #: As its header said, in part where that is long.
    client_id: Mapped[str]
    #: Whether the keyring had this client. All others together have the room of one.
    is_known_client: Mapped[bool]
    #: Which of the checks failed: see `alipay.signature.Cause`.
    cause: Mapped[str]
    #: That the signature header names, if it does.
    key_version: Mapped[int | None]
    #: The path that was verified; a query is only hinted at, since it may hold a secret.
    path: Mapped[str]
    #: Of the connection; a proxy's, if there is one.
    address: Mapped[str]
    request_id: Mapped[str]
    at: Mapped[datetime]
    #: Method, URI and the headers that the doctor needs, as JSON.
    sealed_head: Mapped[bytes]
    sealed_body: Mapped[bytes]


class Lease(Base):
    """What one background worker at a time does, and which one that is."""

    __tablename__ = "leases"

    #: `numbering`, `calls`, or `endpoint:` and its name.
    name: Mapped[str] = mapped_column(primary_key=True)
    #: Empty where it was given back.
    holder: Mapped[str | None]
    #: Rises with each sign of life. A holder whose beat stands still loses the lease.
    beat: Mapped[int]
    #: The last sign of life, for people: clocks of several machines differ, and decide nothing.
    at: Mapped[datetime]


class KeyLock(Base):
    """A lock on a key of something unknown: the transactions that park for it, and make it known, both insert the row.

    The table keeps its first name: workers of the previous release lock the same rows during an upgrade.
    """

    __tablename__ = "rendezvous"

    client_id: Mapped[str] = mapped_column(primary_key=True)
    #: `authState` or `token`.
    kind: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[bytes] = mapped_column(primary_key=True)


class IndexKey(Base):
    """The key of all blind indexes, sealed under a vault key. One row."""

    __tablename__ = "index_key"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sealed_key: Mapped[bytes]

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class MaintenanceRun(Base):
    """When a kind of maintenance last succeeded. One row for each."""

    __tablename__ = "maintenance_runs"

    #: `purge`, `reseal` or `verify`.
    name: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime]
