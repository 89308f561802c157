"""The pages of a pretend gateway: HTML without anything from elsewhere, and without scripts.

Everything that is shown is escaped by the templates; a Content-Security-Policy allows nothing but the page's own style.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.simulator.gateway.alipay import Consent
from app.simulator.gateway.faults import Fault
from app.simulator.gateway.ledger import Ledger
from app.simulator.gateway.wallets import DEFAULT_USER, USERS, User, wallet_of

#: As many as a page shows of anything that grows.
_ROWS_MAX = 25

#: What a merchant may do with an authorization, as a user is told.
_SCOPES = {
    "AGREEMENT_PAY": "Take payments from your wallet without asking you each time",
    "BASE_USER_INFO": "Know your user id",
    "USER_INFO": "See your name and how to reach you",
    "SEND_OTP": "Send you one-time passwords",
}
#: A colour for each wallet, by its name: nobody's brand, and the same each time.
_HUES = (212, 162, 262, 24, 190, 232)


@dataclass(frozen=True, slots=True)
class Page:
    """What a browser is answered."""

    status: int
    html: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Pages:
    """Writes the pages."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._templates = Environment(
            loader=FileSystemLoader(Path(__file__).with_name("templates")),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"clock": _clock_time, "day": _day, "scope": _scope, "hue": _hue, "host": _host}
        self._templates.globals |= {"users": USERS, "wallet_of": wallet_of}

    def home(self, consents: Iterable[Consent], ledger: Ledger, faults: Iterable[Fault], *, base_url: str) -> Page:
        """Show what can be done here, and what has happened."""
        return self._page(
            "home.html",
            consents=list(consents)[:_ROWS_MAX],
            calls=ledger.calls()[: -_ROWS_MAX - 1 : -1],
            notifications=ledger.notifications()[: -_ROWS_MAX - 1 : -1],
            rejections=ledger.rejections()[: -_ROWS_MAX - 1 : -1],
            faults=list(faults),
            base_url=base_url,
        )

    def consent(self, consent: Consent, *, status: int = HTTPStatus.OK) -> Page:
        """Ask the user, or say how it ended."""
        if not consent.is_open and status == HTTPStatus.OK:
            status = HTTPStatus.GONE
        user = consent.user or USERS[DEFAULT_USER]
        return self._page("consent.html", status=status, consent=consent, user=user)

    def wallet(self, user: User, consents: Iterable[Consent]) -> Page:
        """Show what a user has given, and can take back."""
        given = [each for each in consents if each.user is user and each.agreed_at is not None]
        return self._page("wallet.html", user=user, consents=given, now=self._clock())

    def merchant(self, query: Mapping[str, str]) -> Page:
        """Stand in for the page of a merchant to which a user returns."""
        return self._page("merchant.html", auth_code=query.get("authCode"), auth_state=query.get("authState"))

    def not_found(self) -> Page:
        """Say that there is nothing here."""
        return self._page("not_found.html", status=HTTPStatus.NOT_FOUND)

    def _page(self, name: str, *, status: int = HTTPStatus.OK, **values: object) -> Page:
        nonce = secrets.token_urlsafe(12)
        html = self._templates.get_template(name).render(nonce=nonce, **values)
        policy = f"default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; frame-ancestors 'none'"
        return Page(
            status,
            html,
            {
                "Content-Security-Policy": policy,
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "same-origin",
                "Cache-Control": "no-store",
            },
        )


def _clock_time(time: datetime) -> str:
    return time.astimezone().strftime("%H:%M:%S")


def _day(time: datetime) -> str:
    return time.astimezone().strftime("%-d %b %Y")


def _scope(scope: str) -> str:
    return _SCOPES.get(scope, "Use this permission")


def _hue(name: str) -> int:
    return _HUES[sum(name.encode("utf-8", "replace")) % len(_HUES)]


def _host(url: str) -> str:
    address = urlsplit(url)
    return address.netloc.rpartition("@")[2] or url
