"""Record what the merchant learned itself: a consult, a code from the redirect, a token, a refresh, a revoke.

Reports move the same machine with the same events as notifications do, and resume what waited in the same way. The same
report again changes nothing; one that contradicts what is on record is refused, and changes nothing either.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import ClassVar, Literal
from uuid import UUID

from app import authorizations, tokens
from app.alipay.keyring import Keyring, UnknownClientError
from app.authorizations import Cause
from app.models import AccessToken, Authorization
from app.processing import Done, Processed, resume_parked
from app.report_errors import (
    AlreadyCanceledError,
    AuthorizationNotFoundError,
    ClientNotInKeyringError,
    ClientNotNamedError,
    ConsultContradictedError,
    EarlyReportError,
    FlowFollowedError,
    ForeignTokenError,
    IllegalReportError,
    NothingToReplaceError,
    ReplacedOtherwiseError,
    TokenContradictedError,
)
from app.secret import Secret
from app.state_machine import AuthorizationState, Event, Flow, Verdict
from app.tokens import Grant, TokenKey
from app.unit_of_work import UnfinishedError, UnitOfWork
from app.vocabulary import CauseKind

Reporter = Literal[CauseKind.API, CauseKind.SHELL, CauseKind.GATEWAY]

#: The longest that the wire protocol takes, in characters.
CLIENT_ID_CHARACTERS_MAX = 64
WALLET_CHARACTERS_MAX = 64
REASON_CHARACTERS_MAX = 256
#: A merchant's own name for a user is an account number, an e-mail address, or a digest.
USER_REF_CHARACTERS_MAX = 256


@dataclass(frozen=True, slots=True)
class Consult:
    """The merchant's call that opens an authorization. What is `None` is unsaid."""

    auth_state: str
    client_id: str | None = None
    flow: Flow | None = None
    user_ref: str | None = None
    customer_belongs_to: str | None = None
    merchant_region: str | None = None
    name: ClassVar[str] = "consult"


@dataclass(frozen=True, slots=True)
class AuthcodeReport:
    """The auth code that the redirect brought."""

    authorization_id: UUID
    auth_code: Secret
    name: ClassVar[str] = "authcode"


@dataclass(frozen=True, slots=True)
class TokenReport:
    """The token that applyToken answered with; a refresh where it `replaces` another."""

    authorization_id: UUID
    grant: Grant
    #: The code it was exchanged for.
    auth_code: Secret | None = None
    replaces: Secret | None = None
    #: As the wallet masks it.
    user_login_id: Secret | None = None
    name: ClassVar[str] = "token"


@dataclass(frozen=True, slots=True)
class CanceledReport:
    """A revoke that succeeded."""

    authorization_id: UUID
    reason: Secret | None = None
    name: ClassVar[str] = "canceled"


@dataclass(frozen=True, slots=True)
class PaymentResult:
    """What a charge was answered: the only news there is of a wallet that cancels without a notification.

    It is about the token that it names, or the one that was current when the payment was requested.
    """

    authorization_id: UUID
    result_code: str
    result_status: str | None = None
    access_token: Secret | None = None
    requested_at: datetime | None = None
    name: ClassVar[str] = "payment-result"


AboutAuthorization = AuthcodeReport | TokenReport | CanceledReport | PaymentResult
Report = Consult | AboutAuthorization

#: The one answer to a payment that says that its token is dead; others are about the user's account.
DEAD_TOKEN = "INVALID_ACCESS_TOKEN"  # noqa: S105 -- a result code
#: A payment that succeeded, and one whose outcome is not known: neither was refused.
_NO_REFUSAL = frozenset({"S", "U"})
_DEAD_TOKEN_REASON = "INVALID_ACCESS_TOKEN in a payment's result"  # noqa: S105 -- a reason


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a report led to."""

    authorization_id: UUID
    #: Whether it said anything new.
    changed: bool
    #: Whether it opened the authorization.
    created: bool = False
    #: Whether the authorization has had several codes.
    has_other_codes: bool = False
    resumed: list[Processed] = field(default_factory=list)
    #: Authorizations for which more parked entries wait than one transaction resumes.
    unfinished: list[UUID] = field(default_factory=list)


def record(work: UnitOfWork, keyring: Keyring, report: Report, *, cause: Cause) -> Recorded:
    """Record a report, and resume what waited for it.

    Raises `ReportRefusedError`, `KnownMeanwhileError`, and `UnfinishedError` where parked entries came first and must
    be resumed first. The caller then rolls the transaction back.
    """
    if isinstance(report, Consult):
        return _record_consult(work, keyring, report, cause)
    key = work.auth_state_key(report.authorization_id)
    if key is None:
        raise AuthorizationNotFoundError(report.authorization_id)
    work.lock_and_load(states=[key], token_keys=named_tokens(work, key[0], report))
    authorization = work.authorization(*key)
    if authorization is None:
        raise AuthorizationNotFoundError(report.authorization_id)
    return apply(work, authorization, report, cause=cause)


def apply(work: UnitOfWork, authorization: Authorization, report: AboutAuthorization, *, cause: Cause) -> Recorded:
    """Record a report about an authorization that is loaded with the tokens that the report names.

    Raises as `record` does.
    """
    if authorization.resume_after is not None:
        raise UnfinishedError(authorization.id)
    changed = False
    match report:
        case AuthcodeReport():
            changed = _record_authcode(work, authorization, report.auth_code, cause)
        case TokenReport(replaces=None):
            changed = _record_token(work, authorization, report, cause)
        case TokenReport():
            changed = _record_refresh(work, authorization, report, cause)
        case CanceledReport():
            changed = _record_canceled(work, authorization, report.reason, cause)
        case PaymentResult():
            changed = _record_payment_result(work, authorization, report, cause)
    if isinstance(report, TokenReport):
        changed |= authorizations.learn_user(work.vault, authorization, user_id=None, login_id=report.user_login_id)
    has_other_codes = authorizations.has_other_codes(authorization)
    done = resume_parked(work, authorization, now=cause.at) if changed else Done()
    return Recorded(
        authorization.id,
        changed,
        has_other_codes=has_other_codes,
        resumed=done.processed,
        unfinished=done.unfinished,
    )


def named_tokens(work: UnitOfWork, client_id: str, report: Report) -> list[TokenKey]:
    """Return the keys of the tokens that a report names: the granted one, and the one that it replaces."""
    match report:
        case TokenReport():
            named = [report.grant.access_token, report.replaces]
        case PaymentResult():
            named = [report.access_token]
        case _:
            named = []
    return [(client_id, tokens.index(work.vault, client_id, token)) for token in named if token is not None]


def _record_consult(work: UnitOfWork, keyring: Keyring, consult: Consult, cause: Cause) -> Recorded:
    client_id, flow = _client_and_flow(keyring, consult)
    work.lock_and_load(states=[(client_id, consult.auth_state)])
    authorization = work.authorization(client_id, consult.auth_state)
    if authorization is not None:
        return _record_consult_again(work, authorization, consult, cause)
    authorization = authorizations.new(
        client_id=client_id,
        auth_state=consult.auth_state,
        flow=flow,
        flow_was_said=consult.flow is not None,
        user_ref=consult.user_ref,
        customer_belongs_to=consult.customer_belongs_to,
        at=cause.at,
    )
    authorization.merchant_region = consult.merchant_region
    work.open_authorization(authorization, cause=cause)
    done = resume_parked(work, authorization, now=cause.at)
    return Recorded(authorization.id, changed=True, created=True, resumed=done.processed, unfinished=done.unfinished)


def _client_and_flow(keyring: Keyring, consult: Consult) -> tuple[str, Flow]:
    if consult.client_id is None and len(keyring.clients) != 1:
        raise ClientNotNamedError
    client_id = consult.client_id if consult.client_id is not None else next(iter(keyring.clients))
    try:
        client = keyring.client(client_id)
    except UnknownClientError:
        raise ClientNotInKeyringError(client_id, keyring.clients) from None
    return client_id, consult.flow or Flow(client.default_flow)


def _record_consult_again(work: UnitOfWork, authorization: Authorization, consult: Consult, cause: Cause) -> Recorded:
    if authorizations.is_canceled(authorization):
        raise AlreadyCanceledError
    says_flow = consult.flow is not None and not authorization.flow_was_said
    has_wallet = authorization.customer_belongs_to is not None
    authorization.merchant_region = authorization.merchant_region or consult.merchant_region
    changed = _complete_consult(authorization, consult, cause)
    if not has_wallet and consult.customer_belongs_to and authorization.state == AuthorizationState.AUTHCODE_ISSUED:
        # Without the wallet its code could not be exchanged.
        work.begin_exchange(authorization, at=cause.at)
    if (changed or says_flow) and authorization.resume_after is not None:
        raise UnfinishedError(authorization.id)
    if consult.flow is None or not says_flow:
        return Recorded(authorization.id, changed)
    authorization.flow_was_said = True
    if consult.flow == authorization.flow:
        return Recorded(authorization.id, changed)
    # One that only a newer release knows is not ours to correct: that this raises takes all back.
    reason = f"flow corrected from {authorization.current_flow} to {consult.flow}"
    authorization.flow = consult.flow
    work.advance(authorization, authorizations.CONSULT, cause=cause, reason=reason)
    # What was illegal in the flow that it never had may be legal in the one that it has.
    work.park_illegal(authorization)
    done = resume_parked(work, authorization, now=cause.at)
    return Recorded(authorization.id, changed=True, resumed=done.processed, unfinished=done.unfinished)


def _complete_consult(authorization: Authorization, consult: Consult, cause: Cause) -> bool:
    """Take a consult again: add what was unsaid before, refuse what contradicts."""
    if consult.flow not in {None, authorization.flow}:
        if authorization.flow_was_said:
            raise ConsultContradictedError("flow")
        if not authorizations.can_correct_flow(authorization):
            raise FlowFollowedError(authorization.flow, authorization.state)
    changed = False
    for name in ("user_ref", "customer_belongs_to"):
        said, on_record = getattr(consult, name), getattr(authorization, name)
        if said is None or said == on_record:
            continue
        if on_record is not None:
            raise ConsultContradictedError(_WIRE_NAMES[name])
        setattr(authorization, name, said)
        authorization.updated_at = cause.at
        changed = True
    return changed


_WIRE_NAMES = {"user_ref": "userRef", "customer_belongs_to": "customerBelongsTo"}


def _record_authcode(work: UnitOfWork, authorization: Authorization, code: Secret, cause: Cause) -> bool:
    if authorizations.knows_code(work.vault, authorization, code):
        return False
    _require_legal(authorization, Event.AUTHCODE_CREATED)
    _advance_to_code(work, authorization, code, cause)
    return True


def _advance_to_code(work: UnitOfWork, authorization: Authorization, code: Secret, cause: Cause) -> None:
    reason = authorizations.store_auth_code(work.vault, authorization, code, received_at=cause.at, now=cause.at)
    work.advance(authorization, Event.AUTHCODE_CREATED, cause=cause, reason=reason)


def _record_code_of_token(work: UnitOfWork, authorization: Authorization, code: Secret, cause: Cause) -> bool:
    """Record the code that a reported token was exchanged for; a granted token is never refused for its code."""
    if authorizations.knows_code(work.vault, authorization, code):
        return False
    if authorizations.decide(authorization, Event.AUTHCODE_CREATED).verdict is Verdict.LEGAL:
        _advance_to_code(work, authorization, code, cause)
        return True
    if authorization.sealed_auth_code is None:
        # The direct flow has no code.
        return False
    authorizations.remember_code(work.vault, authorization, code)
    authorization.updated_at = cause.at
    return True


def _record_token(work: UnitOfWork, authorization: Authorization, report: TokenReport, cause: Cause) -> bool:
    changed = False
    if report.auth_code is not None:
        changed = _record_code_of_token(work, authorization, report.auth_code, cause)
    token = _own_token(work, authorization, report.grant.access_token)
    if token is not None:
        return _complete_token(work, token, report.grant) or changed
    _require_legal(authorization, Event.TOKEN_CREATED)
    _require_unknown(work, authorization, report.grant)
    work.make_known(authorization, report.grant, at=cause.at)
    code = authorizations.auth_code(work.vault, authorization)
    reason = authorizations.OTHER_CODE if code and report.auth_code and report.auth_code != code else None
    work.advance(authorization, Event.TOKEN_CREATED, cause=cause, reason=reason)
    return True


def _record_refresh(work: UnitOfWork, authorization: Authorization, report: TokenReport, cause: Cause) -> bool:
    """Replace the current token. A wallet may also prolong a token and leave it as it is."""
    replaced = _own_token(work, authorization, report.replaces) if report.replaces else None
    if replaced is None:
        raise NothingToReplaceError
    token = _own_token(work, authorization, report.grant.access_token)
    if token is replaced and token.superseded_at is None and tokens.differs(work.vault, token, report.grant):
        _require_legal(authorization, Event.TOKEN_REFRESHED)
        tokens.complete(work.vault, token, report.grant)
    elif token is not None:
        if token is not replaced and replaced.superseded_at is None:
            raise ReplacedOtherwiseError
        return _complete_token(work, token, report.grant)
    else:
        if replaced.superseded_at is not None:
            raise ReplacedOtherwiseError
        _require_legal(authorization, Event.TOKEN_REFRESHED)
        _require_unknown(work, authorization, report.grant)
        grant = _with_kept_refresh_token(work, report.grant, replaced)
        work.make_known(authorization, grant, at=cause.at, replaces=replaced)
    work.advance(authorization, Event.TOKEN_REFRESHED, cause=cause)
    return True


def _with_kept_refresh_token(work: UnitOfWork, grant: Grant, replaced: AccessToken) -> Grant:
    """Complete a refresh that brought no refresh token: the old one goes on being valid."""
    if grant.refresh_token is not None:
        return grant
    return replace(
        grant,
        refresh_token=tokens.reveal_refresh_token(work.vault, replaced),
        refresh_token_expires_at=grant.refresh_token_expires_at or replaced.refresh_token_expires_at,
    )


def _record_canceled(work: UnitOfWork, authorization: Authorization, reason: Secret | None, cause: Cause) -> bool:
    if authorizations.is_canceled(authorization):
        return False
    _require_legal(authorization, Event.TOKEN_CANCELED)
    if reason is not None:
        authorizations.store_cancel_reason(work.vault, authorization, reason)
    work.advance(authorization, Event.TOKEN_CANCELED, cause=cause)
    return True


def _record_payment_result(work: UnitOfWork, authorization: Authorization, result: PaymentResult, cause: Cause) -> bool:
    """Close an authorization whose current token a payment was refused for. Everything else says nothing of it.

    A result may come late, of a payment that was requested with an older token.
    """
    current = work.current_token(authorization)
    if result.result_code != DEAD_TOKEN or result.result_status in _NO_REFUSAL:
        return False
    if current is None or authorizations.is_canceled(authorization):
        return False
    if result.access_token is not None:
        is_about_it = _own_token(work, authorization, result.access_token) is current
    else:
        is_about_it = result.requested_at is not None and result.requested_at >= current.created_at
    if not is_about_it:
        return False
    _require_legal(authorization, Event.TOKEN_CANCELED)
    work.advance(authorization, Event.TOKEN_CANCELED, cause=cause, reason=_DEAD_TOKEN_REASON)
    return True


def _own_token(work: UnitOfWork, authorization: Authorization, access_token: Secret) -> AccessToken | None:
    token = _known_token(work, authorization, access_token)
    return token if token is not None and token.authorization_id == authorization.id else None


def _known_token(work: UnitOfWork, authorization: Authorization, access_token: Secret) -> AccessToken | None:
    client_id = authorization.client_id
    return work.token(client_id, tokens.index(work.vault, client_id, access_token))


def _complete_token(work: UnitOfWork, token: AccessToken, grant: Grant) -> bool:
    """Record a known token again: add what was unsaid before, refuse what contradicts."""
    if tokens.differs(work.vault, token, grant):
        raise TokenContradictedError
    return tokens.complete(work.vault, token, grant)


def _require_unknown(work: UnitOfWork, authorization: Authorization, grant: Grant) -> None:
    if _known_token(work, authorization, grant.access_token) is not None:
        raise ForeignTokenError


def _require_legal(authorization: Authorization, event: Event) -> None:
    match authorizations.decide(authorization, event).verdict:
        case Verdict.LEGAL:
            return
        case Verdict.EARLY:
            raise EarlyReportError(event, authorization.state)
        case Verdict.ILLEGAL:
            raise IllegalReportError(event, authorization.state)
