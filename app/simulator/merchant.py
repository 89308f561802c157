"""Do the merchant's part of a scenario: consult, report and look up over the service's own HTTP interface."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urljoin

import urllib3
from typing_extensions import override

from app.secret import Secret

_TIMEOUT = urllib3.Timeout(connect=5, read=10)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the service told the merchant; `said` is empty unless it is a JSON object."""

    status: int | None
    said: Mapping[str, Any]

    @property
    def states(self) -> tuple[str, ...]:
        """The states of the history in their order; none if what came has no history."""
        history = self.said.get("history")
        if not isinstance(history, list):
            return ()
        return tuple(str(transition.get("to")) for transition in history if isinstance(transition, dict))

    @override
    def __str__(self) -> str:
        """Say what came back: the authorization's state, or the problem's title."""
        if self.status is None:
            return "no answer"
        return f"{self.status} {self.said.get('state') or self.said.get('title') or 'without an authorization'}"


class Merchant:
    """One of the merchant's own services, with its API key; it remembers what its consults were answered."""

    def __init__(self, url: str, api_key: Secret, *, client_id: str) -> None:
        self._url = urljoin(url, "/v1/authorizations")
        self._client_id = client_id
        self._consulted: dict[str, Reply] = {}
        self._http = urllib3.PoolManager(
            retries=False, timeout=_TIMEOUT, headers={"Authorization": f"Bearer {api_key.reveal()}"}
        )

    def consult(self, auth_state: str, *, flow: str, user_ref: str) -> Reply:
        """Register a consult."""
        consult = {"authState": auth_state, "clientId": self._client_id, "flow": flow, "userRef": user_ref}
        reply = self._ask("POST", self._url, consult)
        self._consulted[auth_state] = reply
        return reply

    def report(self, auth_state: str, what: str, secrets: Mapping[str, str]) -> Reply:
        """Report what happened to an authorization that was consulted before."""
        return self._ask_about(auth_state, "POST", f"/{what}", secrets)

    def look_up(self, auth_state: str) -> Reply:
        """Read an authorization that was consulted before, with its history."""
        return self._ask_about(auth_state, "GET", "", None)

    def _ask_about(self, auth_state: str, method: str, path: str, body: Mapping[str, str] | None) -> Reply:
        """Ask about an authorization; where its consult was refused there is none, and that answer is still the one."""
        consulted = self._consulted[auth_state]
        if "id" not in consulted.said:
            return consulted
        return self._ask(method, f"{self._url}/{consulted.said['id']}{path}", body)

    def _ask(self, method: str, url: str, body: Mapping[str, str] | None) -> Reply:
        try:
            response = self._http.request(method, url, json=body)
        except urllib3.exceptions.HTTPError:
            return Reply(None, {})
        try:
            said = response.json()
        except ValueError:
            said = None
        return Reply(response.status, said if isinstance(said, dict) else {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.clear()
