"""Authorizations: the statements that find, lock and insert them, and what they store of codes and users.

The unit of work advances them: it alone changes their state and appends to their history.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import CompoundSelect, Select, select, union_all
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from app import state_machine
from app.database.bulk import CopiedColumn, KeyedStatement, KeyFilter, insertion
from app.database.contents import any_of_keys
from app.database.pipeline import Statement, plain
from app.key_locks import AuthStateKey
from app.models import AccessToken, Authorization, InboxEntry, Transition
from app.secret import Secret
from app.state_machine import INITIAL_STATE, AuthorizationState, Decision, Event, Flow, Verdict
from app.tokens import TokenKey
from app.vault import Vault
from app.vocabulary import CauseKind

#: The first line of every history. No event of the machine: it is how an authorization begins.
CONSULT: Final = "consult"

#: What a history says of a code that is not the first.
REPLACED_A_CODE = "took the place of another code"
OLDER_THAN_THE_CODE = "older than the code on record, which stays"
#: What a history says of a token that was exchanged for a code that the history does not have.
OTHER_CODE = "exchanged for another code than the one on record"

#: What is processed after something that came later is so by seconds; a time further ahead is a clock that was wrong.
_HELD_UP_BY_MAX = timedelta(seconds=10)

#: A blind index has 32 bytes.
_CODE_INDEX_BYTES = 32
#: A user who goes back and agrees again has a few; this many are no user, and take 2 KiB of a row. The oldest go first.
OTHER_CODES_MAX = 64

CODE_COLUMN = "authorizations.sealed_auth_code"
LOGIN_ID_COLUMN = "authorizations.sealed_login_id"
CANCEL_REASON_COLUMN = "authorizations.sealed_cancel_reason"


@dataclass(frozen=True, slots=True)
class Cause:
    """What made an authorization move, and when it was recorded."""

    kind: CauseKind
    at: datetime
    #: When it was learned, if not just then: a notification may have waited.
    learned_at: datetime | None = None
    #: Who reported it.
    by: str | None = None
    #: The entry of the notification.
    entry: InboxEntry | None = None

    @classmethod
    def of_entry(cls, entry: InboxEntry, *, at: datetime) -> "Cause":
        """Name a notification, which may have waited since it came."""
        return cls(CauseKind.NOTIFICATION, at=at, learned_at=entry.received_at, entry=entry)


def new(
    *,
    client_id: str,
    auth_state: str,
    flow: Flow,
    flow_was_said: bool,
    user_ref: str | None,
    customer_belongs_to: str | None,
    at: datetime,
) -> Authorization:
    """Make the row of an authorization, which is not stored yet, and has no history."""
    return plain(Authorization)(
        id=uuid7(),
        client_id=client_id,
        auth_state=auth_state,
        flow=flow,
        flow_was_said=flow_was_said,
        state=INITIAL_STATE,
        version=0,
        user_ref=user_ref,
        customer_belongs_to=customer_belongs_to,
        created_at=at,
        updated_at=at,
    )


def decide(authorization: Authorization, event: Event) -> Decision:
    """Ask the machine what an event would be for this authorization now.

    Raises `NewerReleaseError`.
    """
    return state_machine.decide(authorization.current_state, event, authorization.current_flow)


def can_correct_flow(authorization: Authorization) -> bool:
    """Say whether the flow may still be another: nothing but its consult has moved the authorization."""
    return authorization.state == INITIAL_STATE


# --- finding ---------------------------------------------------------------------------------------------------------


def find(session: Session, client_id: str, auth_state: str) -> Authorization | None:
    """Find an authorization by its authState, without locking it."""
    return session.scalars(_by_auth_state(client_id, auth_state)).one_or_none()


def find_all(session: Session, auth_state: str) -> Sequence[Authorization]:
    """Find the authorizations of every client under this authState."""
    return session.scalars(select(Authorization).where(Authorization.auth_state == auth_state)).all()


def of_tokens(session: Session, keys: Sequence[TokenKey]) -> Sequence[Authorization]:
    """Find the authorizations that these tokens are of, current or superseded."""
    named = any_of_keys((AccessToken.client_id, AccessToken.token_index), keys)
    theirs = select(AccessToken.authorization_id).where(named)
    return session.scalars(select(Authorization).where(Authorization.id.in_(theirs)).order_by(Authorization.id)).all()


def authorization_lock(states: Collection[AuthStateKey], token_keys: Collection[TokenKey]) -> Statement:
    """Lock the authorizations of these authStates and tokens, in one order for all, and read them as they then are."""
    return _LOCK(states=states, token_keys=token_keys)


def loaded_tokens_query(states: Collection[AuthStateKey], token_keys: Collection[TokenKey]) -> Statement:
    """Find these tokens and the current one of each of the authorizations, without locking them.

    Refreshes leave thousands behind in the course of years. Nothing waits for those: they were current once.
    """
    return _TOKENS(states=states, token_keys=token_keys)


def key_of(connection: Connection, authorization_id: UUID) -> AuthStateKey | None:
    """Find what a client calls an authorization."""
    statement = select(Authorization.client_id, Authorization.auth_state).where(Authorization.id == authorization_id)
    row = connection.execute(statement).one_or_none()
    return None if row is None else (row.client_id, row.auth_state)


def awaiting_code(session: Session, ids: Collection[UUID]) -> set[UUID]:
    """Name those of these authorizations that have no code on record, and can still get one."""
    rows = session.execute(
        select(Authorization.id, Authorization.state, Authorization.flow).where(
            Authorization.id.in_(ids), Authorization.sealed_auth_code.is_(None)
        )
    )
    return {row.id for row in rows if _can_get_code(AuthorizationState(row.state), Flow(row.flow))}


def _can_get_code(state: AuthorizationState, flow: Flow) -> bool:
    return state_machine.decide(state, Event.AUTHCODE_CREATED, flow).verdict is not Verdict.ILLEGAL


def unfinished(session: Session, *, limit: int) -> Sequence[UUID]:
    """List authorizations for which parked entries are still to be judged."""
    return session.scalars(select(Authorization.id).where(Authorization.resume_after.is_not(None)).limit(limit)).all()


def known_states_query(states: Collection[AuthStateKey]) -> Statement:
    """Find which of these authStates are known."""
    return _KNOWN(states=states)


def authorization_insertion(begun: Sequence[Authorization]) -> Statement:
    """Insert authorizations."""
    return insertion(Authorization, begun)


def transition_insertion(history: Sequence[Transition], fingerprints: Sequence[bytes | None]) -> Statement:
    """Append lines to history, each with the id of the entry that has this fingerprint, if one caused it."""
    return insertion(Transition, history, copied=_NOTIFICATION_ID, keys=fingerprints)


def _by_auth_state(client_id: str, auth_state: str) -> Select[Authorization]:
    return select(Authorization).where(Authorization.client_id == client_id, Authorization.auth_state == auth_state)


def _named(keys_in: KeyFilter) -> CompoundSelect[UUID]:
    return union_all(
        keys_in.find(select(Authorization.id), "states", Authorization.client_id, Authorization.auth_state),
        keys_in.find(
            select(AccessToken.authorization_id), "token_keys", AccessToken.client_id, AccessToken.token_index
        ),
    )


_LOCK = KeyedStatement(
    lambda keys_in: (
        select(Authorization).where(Authorization.id.in_(_named(keys_in))).order_by(Authorization.id).with_for_update()
    )
)
_TOKENS = KeyedStatement(
    lambda keys_in: union_all(
        keys_in.find(select(AccessToken), "token_keys", AccessToken.client_id, AccessToken.token_index),
        keys_in.where_in_found(
            select(AccessToken).where(AccessToken.superseded_at.is_(None)),
            AccessToken.authorization_id,
            _named(keys_in),
        ),
    )
)
_KNOWN = KeyedStatement(
    lambda keys_in: keys_in.find(select(Authorization.id), "states", Authorization.client_id, Authorization.auth_state)
)
_NOTIFICATION_ID = CopiedColumn("notification_id", of=InboxEntry.id, key=InboxEntry.fingerprint)


def history(session: Session, authorization_id: UUID) -> Sequence[Transition]:
    """List every move of an authorization, first to last."""
    return session.scalars(
        select(Transition).where(Transition.authorization_id == authorization_id).order_by(Transition.sequence)
    ).all()


# --- secrets ---------------------------------------------------------------------------------------------------------


def auth_code(vault: Vault, authorization: Authorization) -> Secret | None:
    """Open the auth code on record, if there is one.

    Raises `VaultError` where it does not open.
    """
    if authorization.sealed_auth_code is None:
        return None
    return Secret(vault.open_text(authorization.sealed_auth_code, column=CODE_COLUMN, row_key=authorization.id.bytes))


def knows_code(vault: Vault, authorization: Authorization, code: Secret) -> bool:
    """Say whether a code is stored, or was until another replaced it.

    Raises `VaultError` where the one on record does not open.
    """
    if auth_code(vault, authorization) == code:
        return True
    return authorization.other_code_indexes is not None and _code_index(vault, authorization, code) in _other_codes(
        authorization
    )


def has_other_codes(authorization: Authorization) -> bool:
    """Say whether the authorization has had other codes than the stored one."""
    return authorization.other_code_indexes is not None


def count_codes(authorization: Authorization) -> int:
    """Count the codes: the stored one, and the others as far as they are remembered."""
    return (authorization.sealed_auth_code is not None) + len(_other_codes(authorization))


def store_auth_code(
    vault: Vault, authorization: Authorization, code: Secret, *, received_at: datetime, now: datetime
) -> str | None:
    """Store a new auth code and when it came; return what the history is to say where there was a code already.

    The code that came last is the valid one. A notification that was replayed, or shares a batch, may be processed
    after one that came later; then the later code stays.
    """
    other = auth_code(vault, authorization)
    on_record_since = authorization.auth_code_received_at
    if other is not None and on_record_since is not None and received_at < on_record_since <= now + _HELD_UP_BY_MAX:
        remember_code(vault, authorization, code)
        return OLDER_THAN_THE_CODE
    if other is not None:
        remember_code(vault, authorization, other)
    authorization.sealed_auth_code = vault.seal(code.reveal(), column=CODE_COLUMN, row_key=authorization.id.bytes)
    authorization.auth_code_received_at = received_at
    return None if other is None else REPLACED_A_CODE


def remember_code(vault: Vault, authorization: Authorization, code: Secret) -> None:
    """Remember the blind index of a code that is not the stored one, so that its repetition changes nothing."""
    known = [*_other_codes(authorization), _code_index(vault, authorization, code)]
    authorization.other_code_indexes = b"".join(known[-OTHER_CODES_MAX:])


def _other_codes(authorization: Authorization) -> list[bytes]:
    indexes = authorization.other_code_indexes or b""
    return [indexes[start : start + _CODE_INDEX_BYTES] for start in range(0, len(indexes), _CODE_INDEX_BYTES)]


def _code_index(vault: Vault, authorization: Authorization, code: Secret) -> bytes:
    return vault.blind_index("auth code", authorization.id.bytes, code.reveal())


def learn_user(vault: Vault, authorization: Authorization, *, user_id: str | None, login_id: Secret | None) -> bool:
    """Store the wallet's ids of the user where none are stored yet, and say whether that changed anything."""
    learned = False
    if user_id is not None and authorization.user_id is None:
        authorization.user_id = user_id
        learned = True
    if login_id is not None and authorization.sealed_login_id is None:
        row = authorization.id.bytes
        authorization.sealed_login_id = vault.seal(login_id.reveal(), column=LOGIN_ID_COLUMN, row_key=row)
        learned = True
    return learned


def store_cancel_reason(vault: Vault, authorization: Authorization, reason: Secret) -> None:
    """Store why the merchant revoked, sealed: its words may name a person."""
    row = authorization.id.bytes
    authorization.sealed_cancel_reason = vault.seal(reason.reveal(), column=CANCEL_REASON_COLUMN, row_key=row)


def cancel_reason(vault: Vault, authorization: Authorization) -> Secret | None:
    """Open why the merchant revoked, if it said so. Raises `VaultError` where it does not open."""
    sealed, row = authorization.sealed_cancel_reason, authorization.id.bytes
    return None if sealed is None else Secret(vault.open_text(sealed, column=CANCEL_REASON_COLUMN, row_key=row))


def forget_user(authorization: Authorization, *, at: datetime) -> None:
    """Take out whatever names the user, or is the user's, and say when."""
    authorization.user_ref = authorization.user_id = authorization.sealed_login_id = None
    authorization.sealed_auth_code = authorization.other_code_indexes = authorization.sealed_cancel_reason = None
    authorization.erased_at = at


def is_canceled(authorization: Authorization) -> bool:
    """Say whether the user, or the merchant, has taken the authorization back."""
    return authorization.state == AuthorizationState.CANCELED
