"""A life in which the service makes the calls: consult, consent in a browser, code, token, refresh, revoke.

The merchant consults, leads its user to the wallet's page, and is told of the rest.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import urllib3

from app.simulator.player import Performance

#: A code is exchanged in a fraction of a second.
_ACTIVE_SECONDS_MAX = 30
_POLL_SECONDS = 0.05
_TIMEOUT = urllib3.Timeout(connect=5, read=30)


@dataclass(frozen=True, slots=True)
class LifeWithCalls:
    """The merchant, whose service has a gateway, and its user in front of a browser."""

    url: str
    api_key: str = field(repr=False)
    client_id: str
    gateway_url: str

    def live(self, auth_state: str, *, user: str) -> Iterator[Performance]:
        """Go through the life step by step, as far as it goes right."""
        consulted = self._ask(
            "POST",
            "/v1/consults",
            {
                "authState": auth_state,
                "clientId": self.client_id,
                "userRef": "u-life",
                "customerBelongsTo": "GCASH",
                "authRedirectUrl": f"{self.gateway_url}/merchant",
                "scopes": ["AGREEMENT_PAY"],
            },
        )
        yield Performance("merchant", f"asks for a consult of {auth_state} in GCASH", _said(consulted), "201 consulted")
        if consulted.status != HTTPStatus.CREATED:
            return
        page = str(consulted.json()["normalUrl"])
        yield Performance("user", f"{user} opens the wallet's page and agrees", _agree(page, user), "back with a code")
        at = f"/v1/authorizations/{consulted.json()['id']}"
        self._wait_until(lambda: self._ask("GET", at).json()["state"] == "token_active")
        active = self._ask("GET", at)
        yield Performance("merchant", "does nothing: the code is exchanged", _said(active), "200 token_active")
        refreshed = self._ask("POST", f"{at}/refresh")
        yield Performance(
            "merchant", "has the token refreshed", _last_move(refreshed), "200 token_refreshed by gateway"
        )
        revoked = self._ask("POST", f"{at}/revoke")
        # Alipay tells of the cancellation, too, and that may come before the answer: whichever is first moves it.
        yield Performance("merchant", "has it revoked", _said(revoked), "200 canceled")

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> urllib3.BaseHTTPResponse:
        headers = {"Authorization": f"Bearer {self.api_key}"}
        return urllib3.request(method, f"{self.url}{path}", json=body, headers=headers, timeout=_TIMEOUT, retries=False)

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so; what is not in time shows in the next answer."""
        deadline = time.monotonic() + _ACTIVE_SECONDS_MAX
        while not is_so() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


def _agree(page: str, user: str) -> str:
    """Open the page and press its button, as a browser does, and say where that leads."""
    opened = urllib3.request("GET", page, timeout=_TIMEOUT, retries=False)
    if opened.status != HTTPStatus.OK:
        return f"{opened.status}"
    form = urlencode({"user": user, "decision": "agree"})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    sent = urllib3.request("POST", page, body=form, headers=headers, redirect=False, timeout=_TIMEOUT, retries=False)
    brought = parse_qs(urlsplit(sent.headers.get("Location", "")).query)
    return "back with a code" if "authCode" in brought else f"{sent.status} without a code"


def _said(answer: urllib3.BaseHTTPResponse) -> str:
    document = answer.json()
    return f"{answer.status} {document.get('state') or document.get('detail')}"


def _last_move(answer: urllib3.BaseHTTPResponse) -> str:
    document = answer.json()
    if answer.status != HTTPStatus.OK:
        return _said(answer)
    move = document["history"][-1]
    return f"{answer.status} {move['event']} by {move['cause']}"
