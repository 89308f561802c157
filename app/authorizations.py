"""Find authorizations, advance them, and keep the history of how they came to be what they are."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import CompoundSelect, Select, select, tuple_, union_all
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from app import rendezvous
from app.alipay.secret import Secret
from app.database.messages import Request, ask
from app.database.rows import unwatched
from app.database.sets import Among, Borrowed, Lookup, insertion, updating
from app.models import AccessToken, Authorization, InboxEntry, Transition
from app.rendezvous import Place
from app.state_machine import INITIAL_STATE, AuthorizationState, Decision, Event, Flow, decide
from app.tokens import TokenKey
from app.vault import Vault

#: What a client calls an authorization: client id and authState.
AuthStateKey = tuple[str, str]

#: The first line of every history. No event of the machine: it is how an authorization begins.
CONSULT = "consult"

CODE_PLACE = "authorizations.sealed_auth_code"
LOGIN_ID_PLACE = "authorizations.sealed_login_id"
CANCEL_REASON_PLACE = "authorizations.sealed_cancel_reason"


@dataclass(frozen=True, slots=True)
class Cause:
    """What made an authorization move, and when."""

    kind: Literal["api", "shell", "notification"]
    at: datetime


class IllegalAdvanceError(Exception):
    """An event was to be applied that the machine does not allow: our fault, for callers ask the machine first."""

    def __init__(self, state: str, event: Event) -> None:
        self.state = state
        self.event = event
        super().__init__(f"{event} is not legal in {state}.")


def begin(
    session: Session,
    *,
    client_id: str,
    auth_state: str,
    flow: Flow,
    user_ref: str | None,
    customer_belongs_to: str | None,
    cause: Cause,
) -> Authorization:
    """Record a consult. The caller holds the rendezvous of the authState."""
    authorization = Authorization(
        id=uuid7(),
        client_id=client_id,
        auth_state=auth_state,
        flow=flow,
        state=INITIAL_STATE,
        version=0,
        user_ref=user_ref,
        customer_belongs_to=customer_belongs_to,
        created_at=cause.at,
        updated_at=cause.at,
    )
    session.add(authorization)
    # Without a relationship between the two, the order of the inserts is ours to give.
    first = _transition(authorization, CONSULT, from_state=None, cause=cause)
    session.flush()
    ask(session.connection(), insertion([first]))
    return authorization


def verdict(authorization: Authorization, event: Event) -> Decision:
    """Ask the machine what an event would be for this authorization now."""
    return decide(authorization.current_state, event, authorization.current_flow)


def advance(session: Session, authorization: Authorization, event: Event, *, cause: Cause) -> None:
    """Move a locked authorization and add the move to its history, together or not at all.

    Raises `IllegalAdvanceError` where the machine does not allow it.
    """
    transition = move(authorization, event, cause=cause)
    session.flush()
    ask(session.connection(), insertion([transition]))


def move(authorization: Authorization, event: Event, *, cause: Cause) -> Transition:
    """Move a locked authorization, and return the move, which the caller is to add to its history.

    Raises `IllegalAdvanceError` where the machine does not allow it.
    """
    decision = verdict(authorization, event)
    if decision.next_state is None:
        raise IllegalAdvanceError(authorization.state, event)
    from_state, authorization.state = authorization.state, decision.next_state
    return _transition(authorization, event, from_state=from_state, cause=cause)


def _transition(authorization: Authorization, event: str, *, from_state: str | None, cause: Cause) -> Transition:
    authorization.version += 1
    authorization.updated_at = cause.at
    return unwatched(Transition)(
        authorization_id=authorization.id,
        sequence=authorization.version,
        event=event,
        from_state=from_state,
        to_state=authorization.state,
        cause=cause.kind,
        at=cause.at,
    )


# --- finding ---------------------------------------------------------------------------------------------------------


def find(session: Session, client_id: str, auth_state: str) -> Authorization | None:
    """Find an authorization by its authState, without locking it."""
    return session.scalars(_by_auth_state(client_id, auth_state)).one_or_none()


def find_all(session: Session, auth_state: str) -> Sequence[Authorization]:
    """Find the authorizations of every client under this authState."""
    return session.scalars(select(Authorization).where(Authorization.auth_state == auth_state)).all()


def of_tokens(session: Session, keys: Sequence[TokenKey]) -> Sequence[Authorization]:
    """Find the authorizations that these tokens are of, current or superseded."""
    theirs = select(AccessToken.authorization_id).where(
        tuple_(AccessToken.client_id, AccessToken.token_index).in_(keys)
    )
    return session.scalars(select(Authorization).where(Authorization.id.in_(theirs)).order_by(Authorization.id)).all()


def lock(session: Session, authorization_id: UUID) -> Authorization | None:
    """Lock an authorization until the transaction ends, and read it as it now is."""
    return session.get(Authorization, authorization_id, populate_existing=True, with_for_update=True)


def lock_all(states: Collection[AuthStateKey], token_keys: Collection[TokenKey]) -> Request:
    """Ask to lock the authorizations of these authStates and tokens, in one order for all, and what they then are."""
    return _LOCK(states=states, token_keys=token_keys)


def tokens_of_all(states: Collection[AuthStateKey], token_keys: Collection[TokenKey]) -> Request:
    """Ask for every token of the same authorizations, without locking them."""
    return _TOKENS(states=states, token_keys=token_keys)


def known(states: Collection[AuthStateKey]) -> list[Request]:
    """Ask which of these authStates are known."""
    return [_KNOWN(states=states)] if states else []


def save(changed: Sequence[Authorization]) -> list[Request]:
    """Ask to write what a notification can change of authorizations."""
    return [updating(changed, _CHANGED_BY_NOTIFICATION)] if changed else []


def record(moves: Sequence[Transition], fingerprints: Sequence[bytes]) -> list[Request]:
    """Ask to add moves to history, each because of the entry with this fingerprint, which is stored by then."""
    return [insertion(moves, borrowed=_NOTIFICATION_ID, keys=fingerprints)] if moves else []


def lock_or_meet(session: Session, client_id: str, auth_state: str) -> Authorization | None:
    """Lock the authorization of an authState or, while there is none, the rendezvous where its entries come by."""
    statement = _by_auth_state(client_id, auth_state).with_for_update().execution_options(populate_existing=True)
    authorization = session.scalars(statement).one_or_none()
    if authorization is None:
        place = [Place(client_id, "authState", auth_state)]
        ask(session.connection(), *rendezvous.meet(place))
        authorization = session.scalars(statement).one_or_none()
        ask(session.connection(), *rendezvous.part(place))
    return authorization


def _by_auth_state(client_id: str, auth_state: str) -> Select[Authorization]:
    return select(Authorization).where(Authorization.client_id == client_id, Authorization.auth_state == auth_state)


def _named(among: Among) -> CompoundSelect[UUID]:
    return union_all(
        among.find(select(Authorization.id), "states", Authorization.client_id, Authorization.auth_state),
        among.find(select(AccessToken.authorization_id), "token_keys", AccessToken.client_id, AccessToken.token_index),
    )


_LOCK = Lookup(
    lambda among: (
        select(Authorization).where(Authorization.id.in_(_named(among))).order_by(Authorization.id).with_for_update()
    )
)
_TOKENS = Lookup(lambda among: select(AccessToken).where(AccessToken.authorization_id.in_(_named(among))))
_KNOWN = Lookup(
    lambda among: among.find(select(Authorization.id), "states", Authorization.client_id, Authorization.auth_state)
)
_NOTIFICATION_ID = Borrowed("notification_id", of=InboxEntry.id, key=InboxEntry.fingerprint)
_CHANGED_BY_NOTIFICATION = (
    "state",
    "version",
    "updated_at",
    "sealed_auth_code",
    "auth_code_received_at",
    "user_id",
    "sealed_login_id",
)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which authorizations a listing shows; what is `None` does not matter."""

    auth_state: str | None = None
    user_ref: str | None = None
    state: str | None = None
    client_id: str | None = None


def listing(session: Session, wanted: Filter, *, limit: int, before: UUID | None = None) -> Sequence[Authorization]:
    """List authorizations, newest first, from the one that comes after `before`."""
    conditions = [
        getattr(Authorization, name) == value
        for name in ("auth_state", "user_ref", "state", "client_id")
        if (value := getattr(wanted, name)) is not None
    ]
    if before is not None:
        conditions.append(Authorization.id < before)
    return session.scalars(
        select(Authorization).where(*conditions).order_by(Authorization.id.desc()).limit(limit)
    ).all()


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
    return Secret(vault.open_text(authorization.sealed_auth_code, place=CODE_PLACE, row=authorization.id.bytes))


def keep_auth_code(vault: Vault, authorization: Authorization, code: Secret, *, at: datetime) -> None:
    """Put the auth code on record, and when it came: it lives for about a minute."""
    authorization.sealed_auth_code = vault.seal(code.reveal(), place=CODE_PLACE, row=authorization.id.bytes)
    authorization.auth_code_received_at = at


def learn_user(vault: Vault, authorization: Authorization, *, user_id: str | None, login_id: Secret | None) -> bool:
    """Keep who the user is to the wallet, the first time a notification says so, and say whether this was it."""
    learned = False
    if user_id is not None and authorization.user_id is None:
        authorization.user_id = user_id
        learned = True
    if login_id is not None and authorization.sealed_login_id is None:
        row = authorization.id.bytes
        authorization.sealed_login_id = vault.seal(login_id.reveal(), place=LOGIN_ID_PLACE, row=row)
        learned = True
    return learned


def keep_cancel_reason(vault: Vault, authorization: Authorization, reason: Secret) -> None:
    """Keep why the merchant revoked, in its own words: they may name a person."""
    row = authorization.id.bytes
    authorization.sealed_cancel_reason = vault.seal(reason.reveal(), place=CANCEL_REASON_PLACE, row=row)


def is_canceled(authorization: Authorization) -> bool:
    """Say whether the user, or the merchant, has taken the authorization back."""
    return authorization.current_state is AuthorizationState.CANCELED
