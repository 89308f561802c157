"""Erasure: forget one user, and keep what proves that and how the authorization moved.

Gone are the names of the user, codes, tokens, bodies, reasons, and what was asked of Alipay and answered. What stays
names nobody: the history, the client id and the authState, times, outcomes, fingerprints, and the blind indexes of the
tokens, so that a cancellation that comes later still finds its authorization and does not wait for ever.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from app import authorizations, calls, inbox, tokens
from app.models import Authorization
from app.state_machine import AuthorizationState
from app.unit_of_work import UnfinishedError, UnitOfWork
from app.vocabulary import CallStatus

#: The bodies of so many notifications are taken out in one transaction.
ENTRIES_AT_ONCE_MAX = 500
#: Alipay sends a notification for 24 h 22 min: until then a code or a token may come for a user who has just consented.
MAY_GO_ON_FOR = timedelta(days=2)
#: What an operator says of it is a sentence, and no place for what is to be forgotten.
ERASURE_REASON_CHARACTERS_MAX = 256

#: The action of its line in the audit.
ACTION = "erase"


@dataclass(frozen=True, slots=True)
class Erasure:
    """Who has the user of which authorization forgotten, and why."""

    authorization_id: UUID
    by: str | None = None
    reason: str | None = None
    #: Whether also while the authorization may still be used.
    is_forced: bool = False


@dataclass(frozen=True, slots=True)
class Erased:
    """What one transaction has taken out."""

    entries: int
    #: The last entry that was looked at; `None` once all is done.
    up_to: int | None


class ErasureRefusedError(Exception):
    """A user cannot be forgotten now, and nothing was changed."""

    def __init__(self, authorization_id: UUID, why: str) -> None:
        self.authorization_id = authorization_id
        super().__init__(f"Authorization {authorization_id} is not erased: {why}.")


def erase_next_piece(work: UnitOfWork, erasure: Erasure, *, after: int, now: datetime) -> Erased:
    """Take out the bodies of the next notifications of an authorization; with the last ones, all the rest.

    That is last, so that an erasure which was broken off is found by the user again. Raises `ErasureRefusedError`.
    """
    key = work.auth_state_key(erasure.authorization_id)
    authorization = None if key is None else work.lock_whole(key)
    if authorization is None:
        raise ErasureRefusedError(erasure.authorization_id, "there is none with this id")
    if authorization.resume_after is not None:
        raise UnfinishedError(authorization.id)
    why = why_not(authorization, now=now, is_forced=erasure.is_forced)
    if why is None and any(each.status == CallStatus.DUE for each in work.calls_of(authorization)):
        why = "a call to Alipay is not final yet; flask authorizations show names it"
    if why is not None:
        raise ErasureRefusedError(authorization.id, why)
    entries = work.lock_entries_about(authorization, after=after, limit=ENTRIES_AT_ONCE_MAX)
    for entry in entries:
        inbox.forget(work.vault, entry)
    if len(entries) == ENTRIES_AT_ONCE_MAX:
        return Erased(len(entries), entries[-1].id)
    for token in work.tokens_of(authorization):
        tokens.forget(work.vault, token)
    for call in work.calls_of(authorization):
        calls.forget(call)
    authorizations.forget_user(authorization, at=now)
    work.note(ACTION, subject=str(authorization.id), who=erasure.by, reason=erasure.reason, at=now)
    return Erased(len(entries), None)


def why_not(authorization: Authorization, *, now: datetime, is_forced: bool) -> str | None:
    """Say why the user of an authorization is not to be forgotten yet, or `None`."""
    if is_forced or authorization.state == AuthorizationState.CANCELED:
        return None
    if authorization.current_state == AuthorizationState.TOKEN_ACTIVE:
        return "its token is active: revoke it first, or nobody here can charge or revoke it any more"
    if authorization.created_at > now - MAY_GO_ON_FOR:
        return f"it is {authorization.state} and not two days old, so a token may still come for it"
    return None
