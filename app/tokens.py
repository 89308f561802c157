"""Access tokens: sealed, found by their blind index, and replaced by refreshes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Row, func, or_, select
from sqlalchemy.orm import Session

from app.database.bulk import KeyedStatement, insertion
from app.database.pipeline import Statement, plain
from app.models import AccessToken, Authorization
from app.secret import Secret
from app.state_machine import AuthorizationState
from app.vault import Vault

ACCESS_TOKEN_COLUMN = "access_tokens.sealed_access_token"  # noqa: S105 -- a column, not a password
REFRESH_TOKEN_COLUMN = "access_tokens.sealed_refresh_token"  # noqa: S105 -- a column, not a password


#: Alipay asks to refresh a token at least so long before it ends.
REFRESH_LEAD = timedelta(days=10)
#: Of a token that lives shorter than a hundred days: this share of its life before its end.
REFRESH_LEAD_SHARE = 0.1
#: By up to this share of that time earlier, so that tokens that were given out together are not refreshed together.
REFRESH_SPREAD = 0.1

#: A refresh is due that long before it counts as left out: it is tried for a while, or the merchant does it.
_REFRESH_GRACE = timedelta(hours=1)
#: Users need days to authorize again.
_ENDING_WITHIN = {"1d": timedelta(days=1), "3d": timedelta(days=3), "7d": timedelta(days=7)}
#: Gauges count no further, so that a scrape costs milliseconds however many tokens end.
_COUNTED_MAX = 10_000

#: What finds a token: client id and blind index.
TokenKey = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Grant:
    """A token and what came with it. A notification carries the token alone."""

    access_token: Secret
    access_token_expires_at: datetime | None = None
    refresh_token: Secret | None = None
    refresh_token_expires_at: datetime | None = None


def index(vault: Vault, client_id: str, access_token: Secret) -> bytes:
    """Make the blind index that finds a token."""
    return vault.blind_index("token", client_id, access_token.reveal())


def known_tokens_query(keys: Collection[TokenKey]) -> Statement:
    """Find those of these tokens that are known, without locking them."""
    return _KNOWN(keys=keys)


_KNOWN = KeyedStatement(
    lambda keys_in: keys_in.find(select(AccessToken), "keys", AccessToken.client_id, AccessToken.token_index)
)


def current(session: Session, authorization: Authorization) -> AccessToken | None:
    """Find the token of an authorization that no refresh has replaced."""
    return session.scalars(
        select(AccessToken).where(AccessToken.authorization_id == authorization.id, AccessToken.superseded_at.is_(None))
    ).one_or_none()


def current_expiries(session: Session, authorization_ids: Collection[UUID]) -> dict[UUID, datetime | None]:
    """Say when the current token of each of these authorizations ends, of those that have one."""
    rows = session.execute(
        select(AccessToken.authorization_id, AccessToken.access_token_expires_at).where(
            AccessToken.authorization_id.in_(authorization_ids), AccessToken.superseded_at.is_(None)
        )
    )
    return {row.authorization_id: row.access_token_expires_at for row in rows}


def new(vault: Vault, authorization: Authorization, grant: Grant, *, at: datetime) -> AccessToken:
    """Make the row of a token, which is not stored yet."""
    token_index = index(vault, authorization.client_id, grant.access_token)
    token = plain(AccessToken)(
        client_id=authorization.client_id,
        token_index=token_index,
        authorization_id=authorization.id,
        sealed_access_token=vault.seal(grant.access_token.reveal(), column=ACCESS_TOKEN_COLUMN, row_key=token_index),
        created_at=at,
    )
    complete(vault, token, grant)
    return token


def token_insertion(made_known: Sequence[AccessToken]) -> Statement:
    """Insert tokens."""
    return insertion(AccessToken, made_known)


def complete(vault: Vault, token: AccessToken, grant: Grant) -> bool:
    """Write down what a grant says beyond the token itself, and say whether that was new; what it leaves unsaid stays.

    Raises `VaultError` where the refresh token on record does not open.
    """
    changed = False
    for name in ("access_token_expires_at", "refresh_token_expires_at"):
        said = getattr(grant, name)
        if said is not None and said != getattr(token, name):
            setattr(token, name, said)
            changed = True
    if grant.refresh_token is not None and grant.refresh_token != reveal_refresh_token(vault, token):
        plain = grant.refresh_token.reveal()
        token.sealed_refresh_token = vault.seal(plain, column=REFRESH_TOKEN_COLUMN, row_key=token.token_index)
        changed = True
    if changed:
        token.refresh_due_at, token.refresh_asked_at = _refresh_due_at(token), None
    return changed


def _refresh_due_at(token: AccessToken) -> datetime | None:
    """Say when the service is to refresh a token: in time before it or its refresh token ends; `None` if it cannot."""
    if token.sealed_refresh_token is None or token.access_token_expires_at is None:
        return None
    ends_at = min(token.access_token_expires_at, token.refresh_token_expires_at or token.access_token_expires_at)
    lead = min(REFRESH_LEAD, max(ends_at - token.created_at, timedelta(0)) * REFRESH_LEAD_SHARE)
    # The end of a UUIDv7 is random.
    spread = int.from_bytes(token.authorization_id.bytes[-4:]) / 2**32
    return ends_at - lead * (1 + REFRESH_SPREAD * spread)


def refreshes_due(session: Session, client_ids: Collection[str], *, now: datetime, limit: int) -> Sequence[UUID]:
    """List authorizations of these clients whose token is to be refreshed, and is not yet, the most urgent first."""
    found: list[Row[UUID, datetime]] = []
    for client_id in client_ids:
        found += session.execute(
            select(AccessToken.authorization_id, AccessToken.refresh_due_at)
            .where(
                AccessToken.client_id == client_id,
                AccessToken.refresh_due_at <= now,
                AccessToken.refresh_asked_at.is_(None),
                AccessToken.superseded_at.is_(None),
            )
            .order_by(AccessToken.refresh_due_at)
            .limit(limit)
        )
    return [row.authorization_id for row in sorted(found, key=lambda row: row.refresh_due_at)[:limit]]


def ending_unrefreshed(session: Session, *, now: datetime) -> Mapping[str, int]:
    """Count the tokens in force that end soon and were not refreshed, of the first 10,000 that end.

    Those that can be refreshed count once that is due for an hour, the others as soon as they end within the time.
    """
    first = (
        select(AccessToken.authorization_id, AccessToken.access_token_expires_at, AccessToken.refresh_due_at)
        .where(
            AccessToken.superseded_at.is_(None),
            AccessToken.access_token_expires_at > now,
            AccessToken.access_token_expires_at <= now + max(_ENDING_WITHIN.values()),
        )
        .order_by(AccessToken.access_token_expires_at)
        .limit(_COUNTED_MAX)
        .subquery()
    )
    counts = (
        func.count().filter(first.c.access_token_expires_at <= now + within) for within in _ENDING_WITHIN.values()
    )
    found = session.execute(
        select(*counts)
        .select_from(first)
        .join(Authorization, Authorization.id == first.c.authorization_id)
        .where(
            Authorization.state == AuthorizationState.TOKEN_ACTIVE,
            or_(first.c.refresh_due_at.is_(None), first.c.refresh_due_at <= now - _REFRESH_GRACE),
        )
    ).one()
    return dict(zip(_ENDING_WITHIN, found, strict=True))


def plan_refreshes(session: Session, client_ids: Collection[str], *, limit: int) -> int:
    """Say of tokens that an older release wrote when they are to be refreshed, and return how many they were."""
    planned = 0
    for client_id in client_ids:
        found = session.scalars(
            select(AccessToken)
            .where(
                AccessToken.client_id == client_id,
                AccessToken.refresh_due_at.is_(None),
                AccessToken.superseded_at.is_(None),
                AccessToken.sealed_refresh_token.is_not(None),
                AccessToken.access_token_expires_at.is_not(None),
            )
            .order_by(AccessToken.token_index)
            .limit(limit)
            .with_for_update(skip_locked=True)
        ).all()
        for each in found:
            each.refresh_due_at = _refresh_due_at(each)
        planned += len(found)
    return planned


def all_tokens_query(authorization_ids: Collection[UUID]) -> Statement:
    """Find the tokens of locked authorizations, current and superseded."""
    return _OF_AUTHORIZATION(authorizations=[(each,) for each in authorization_ids])


_OF_AUTHORIZATION = KeyedStatement(
    lambda keys_in: keys_in.find(select(AccessToken), "authorizations", AccessToken.authorization_id)
)


def forget(vault: Vault, token: AccessToken) -> None:
    """Take out a token and what refreshes it. Its blind index stays: a cancellation finds its authorization by that."""
    token.sealed_access_token = vault.seal("", column=ACCESS_TOKEN_COLUMN, row_key=token.token_index)
    token.sealed_refresh_token = token.refresh_due_at = None


def is_forgotten(vault: Vault, token: AccessToken) -> bool:
    """Say whether the token was taken out since its user was erased. Raises `VaultError` where it does not open."""
    return not reveal(vault, token).reveal()


def differs(vault: Vault, token: AccessToken, grant: Grant) -> bool:
    """Say whether a grant of this token says otherwise than what is on record; what either leaves unsaid agrees.

    Raises `VaultError` where the refresh token on record does not open.
    """
    on_record = (token.access_token_expires_at, reveal_refresh_token(vault, token), token.refresh_token_expires_at)
    said = (grant.access_token_expires_at, grant.refresh_token, grant.refresh_token_expires_at)
    return any(a is not None and b is not None and a != b for a, b in zip(on_record, said, strict=True))


def reveal(vault: Vault, token: AccessToken) -> Secret:
    """Open a token.

    Raises `VaultError` where it does not open.
    """
    return Secret(vault.open_text(token.sealed_access_token, column=ACCESS_TOKEN_COLUMN, row_key=token.token_index))


def reveal_refresh_token(vault: Vault, token: AccessToken) -> Secret | None:
    """Open what refreshes a token, where the wallet gave it.

    Raises `VaultError` where it does not open.
    """
    if token.sealed_refresh_token is None:
        return None
    return Secret(vault.open_text(token.sealed_refresh_token, column=REFRESH_TOKEN_COLUMN, row_key=token.token_index))
