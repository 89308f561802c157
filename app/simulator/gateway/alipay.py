"""What stands behind a pretend gateway: consents, codes and tokens, as protocol and wallets keep them.

It knows neither HTTP nor signatures. Everything happens under one lock: of two calls at once one comes first.
"""

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import urlencode, urlsplit, urlunsplit

from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from app.simulator.gateway.ledger import Decision, Ledger, Token, TokenEnd
from app.simulator.gateway.requests import ConsultRequest, ExchangeRequest, Operation, RefreshRequest, RevokeRequest
from app.simulator.gateway.wallets import User, wallet_of

CODE_LIFE = timedelta(minutes=1)
#: After this an authorization that the user did not decide about has failed.
CONSENT_LIFE = timedelta(minutes=15)


class CallRefusedError(Exception):
    """A call is answered with F: it has no effect, and the same again would have none."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ConsentStatus(StrEnum):
    """How a consent stands."""

    ASKED = "asked"
    AGREED = "agreed"
    GIVEN = "given"
    DECLINED = "declined"
    EXPIRED = "expired"
    ENDED = "ended"


@dataclass(slots=True)
class Consent:
    """What a consult opened: a page on which one user may agree, and what came of it."""

    #: Cannot be guessed: only who has the URL can decide.
    id: str
    client_id: str
    request: ConsultRequest
    asked_at: datetime
    status: ConsentStatus = ConsentStatus.ASKED
    user: User | None = None
    agreed_at: datetime | None = None
    ended_at: datetime | None = None
    reason: str | None = None
    #: The pair that is alive, or was last.
    token: Token | None = None

    @property
    def is_open(self) -> bool:
        """Whether the user may still agree, for the first time or again."""
        return self.status in {ConsentStatus.ASKED, ConsentStatus.AGREED, ConsentStatus.GIVEN}


@dataclass(slots=True)
class _Code:
    consent: Consent
    expires_at: datetime
    is_used: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """A notification to be sent."""

    client_id: str
    draft: Draft
    #: The address that the consult named for its notifications.
    url: str | None = field(default=None, kw_only=True)


class PretendAlipay:
    """Keeps consents, codes and tokens."""

    def __init__(self, ledger: Ledger, clock: Callable[[], datetime], *, token_life: timedelta | None = None) -> None:
        """Take a ledger and a clock; with a life, tokens of all wallets live that long."""
        self._ledger = ledger
        self._clock = clock
        self._token_life = token_life
        self._lock = threading.RLock()
        self._consents: dict[str, Consent] = {}
        self._newest: dict[tuple[str, str], Consent] = {}
        self._codes: dict[tuple[str, str], _Code] = {}
        self._by_access_token: dict[tuple[str, str], Consent] = {}
        self._by_refresh_token: dict[tuple[str, str], Consent] = {}

    # --- calls ---

    def consult(self, client_id: str, request: ConsultRequest) -> Consent:
        """Open a consent, or find the one that the identical request opened. Raises `CallRefusedError`."""
        with self._lock:
            known = self._newest.get((client_id, request.auth_state))
            if known is not None:
                self._let_expire(known)
                if not known.is_open:
                    message = "an authorization of this authState has ended: a new consult needs a new authState"
                    raise CallRefusedError("PARAM_ILLEGAL", message)
                if known.request == request:
                    return known
            consent = Consent(secrets.token_urlsafe(16), client_id, request, self._clock())
            self._consents[consent.id] = self._newest[client_id, request.auth_state] = consent
            return consent

    def exchange(self, client_id: str, request: ExchangeRequest, *, refreshes: bool = True) -> Token:
        """Give the tokens of a code, once. Raises `CallRefusedError`."""
        with self._lock:
            code = self._codes.get((client_id, request.code))
            if code is None or code.is_used or self._clock() >= code.expires_at or not code.consent.is_open:
                raise CallRefusedError("INVALID_AUTHCODE", "the auth code is invalid")
            consent = code.consent
            self._refuse_other_wallet(consent, request.wallet)
            code.is_used = True
            if consent.token is not None and consent.token.end is None:
                self._ledger.finish(consent.token, TokenEnd.REPLACED)
            refresh_token = _new_secret("2816") if refreshes and wallet_of(request.wallet).refreshes else None
            return self._give(consent, Operation.EXCHANGE, request.code, refresh_token)

    def refresh(self, client_id: str, request: RefreshRequest, *, rotates: bool = True) -> Token:
        """Give new tokens for a refresh token, once; with `rotates` false the refresh token stays as it is.

        Raises `CallRefusedError`.
        """
        with self._lock:
            consent = self._by_refresh_token.get((client_id, request.refresh_token))
            token = None if consent is None else consent.token
            if consent is None or token is None or not _is_refreshable(token, request.refresh_token, self._clock()):
                raise CallRefusedError("INVALID_REFRESH_TOKEN", "the refresh token is invalid")
            self._refuse_other_wallet(consent, request.wallet)
            self._ledger.finish(token, TokenEnd.REFRESHED)
            refresh_token = _new_secret("2816") if rotates else request.refresh_token
            return self._give(consent, Operation.REFRESH, request.refresh_token, refresh_token)

    def revoke(self, client_id: str, request: RevokeRequest) -> Consent:
        """End a token. Raises `CallRefusedError`."""
        with self._lock:
            consent = self._by_access_token.get((client_id, request.access_token))
            token = None if consent is None else consent.token
            if (
                consent is None
                or token is None
                or token.access_token != request.access_token
                or not token.is_alive(self._clock())
            ):
                raise CallRefusedError("INVALID_ACCESS_TOKEN", "the access token is invalid")
            self._end(consent, token, TokenEnd.REVOKED, None)
            return consent

    # --- what a user does ---

    def consent(self, consent_id: str) -> Consent | None:
        """Return a consent by the id in its URL."""
        with self._lock:
            consent = self._consents.get(consent_id)
            if consent is not None:
                self._let_expire(consent)
            return consent

    def consent_of(self, client_id: str, auth_state: str) -> Consent | None:
        """Return the newest consent of an authState."""
        with self._lock:
            consent = self._newest.get((client_id, auth_state))
            return None if consent is None else self.consent(consent.id)

    def consents(self) -> tuple[Consent, ...]:
        """Every consent, newest first."""
        with self._lock:
            for each in self._consents.values():
                self._let_expire(each)
            return tuple(reversed(self._consents.values()))

    def agree(self, consent: Consent, user: User) -> str | None:
        """Agree, and return a new code; `None` if the consent is over."""
        with self._lock:
            self._let_expire(consent)
            if not consent.is_open:
                return None
            if consent.status is ConsentStatus.ASKED:
                consent.status = ConsentStatus.AGREED
            consent.user, consent.agreed_at = user, self._clock()
            code = _new_secret("2810")
            self._codes[consent.client_id, code] = _Code(consent, self._clock() + CODE_LIFE)
            self._note("agreed", consent)
            return code

    def decline(self, consent: Consent, user: User) -> bool:
        """Decline, unless the user has agreed before: what is given is taken back in the wallet."""
        with self._lock:
            self._let_expire(consent)
            if consent.status is not ConsentStatus.ASKED:
                return False
            consent.status, consent.user, consent.ended_at = ConsentStatus.DECLINED, user, self._clock()
            self._note("declined", consent)
            return True

    def cancel(self, consent: Consent, reason: str | None) -> Token | None:
        """Take an authorization back, and return the token that is dead now; `None` if none is alive."""
        with self._lock:
            token = consent.token
            if token is None or not token.is_alive(self._clock()):
                return None
            self._end(consent, token, TokenEnd.CANCELED, reason)
            self._note("canceled", consent)
            return token

    # --- within ---

    def _give(self, consent: Consent, operation: Operation, given_for: str, refresh_token: str | None) -> Token:
        now = self._clock()
        life = self._token_life or wallet_of(consent.request.wallet).token_life
        expires_at = now + life if isinstance(life, timedelta) else life
        token = Token(
            consent_id=consent.id,
            client_id=consent.client_id,
            auth_state=consent.request.auth_state,
            access_token=_new_secret("2815"),
            refresh_token=refresh_token,
            given_for=given_for,
            operation=operation,
            given_at=now,
            expires_at=expires_at,
            refresh_expires_at=expires_at if refresh_token is not None else None,
            replaces=None if consent.token is None else consent.token.access_token,
        )
        self._ledger.give(token)
        consent.token, consent.status = token, ConsentStatus.GIVEN
        self._by_access_token[consent.client_id, token.access_token] = consent
        if refresh_token is not None:
            self._by_refresh_token[consent.client_id, refresh_token] = consent
        return token

    def _end(self, consent: Consent, token: Token, end: TokenEnd, reason: str | None) -> None:
        self._ledger.finish(token, end)
        consent.status, consent.ended_at, consent.reason = ConsentStatus.ENDED, self._clock(), reason

    def _let_expire(self, consent: Consent) -> None:
        now = self._clock()
        if consent.status is ConsentStatus.ASKED and now >= consent.asked_at + CONSENT_LIFE:
            consent.status, consent.ended_at = ConsentStatus.EXPIRED, now

    def _note(self, what: str, consent: Consent) -> None:
        user = consent.user.key if consent.user else ""
        self._ledger.note(Decision(what, consent.client_id, consent.request.auth_state, user, self._clock()))

    @staticmethod
    def _refuse_other_wallet(consent: Consent, wallet: str) -> None:
        if wallet != consent.request.wallet:
            raise CallRefusedError("PARAM_ILLEGAL", "customerBelongsTo is not the wallet that the user consented in")


def code_notice(consent: Consent, code: str) -> Notice:
    """Tell the merchant of a code."""
    return Notice(consent.client_id, authcode_created(consent.request.auth_state, code), url=consent.request.notify_url)


def token_notice(consent: Consent, token: Token) -> Notice:
    """Tell the merchant of a token."""
    draft = token_created(token.auth_state, token.access_token)
    return Notice(consent.client_id, draft, url=consent.request.notify_url)


def end_notice(consent: Consent, token: Token, reason: str | None = None) -> Notice:
    """Tell the merchant of the end of a token."""
    return Notice(consent.client_id, token_canceled(token.access_token, reason), url=consent.request.notify_url)


def return_url(consent: Consent, code: str | None) -> str:
    """Say where the user is sent: the consult's own address, with the code and the authState if there is a code."""
    if code is None:
        return consent.request.redirect_url
    address = urlsplit(consent.request.redirect_url)
    added = urlencode({"authCode": code, "authState": consent.request.auth_state}, errors="surrogatepass")
    return urlunsplit(address._replace(query=f"{address.query}&{added}" if address.query else added))


def _is_refreshable(token: Token, refresh_token: str, now: datetime) -> bool:
    is_current = token.refresh_token == refresh_token and token.end is None
    return is_current and (token.refresh_expires_at is None or now < token.refresh_expires_at)


def _new_secret(prefix: str) -> str:
    """Make a code or a token: digits as Alipay's are, too many to be guessed."""
    return f"{prefix}{secrets.randbelow(10**36):036d}"
