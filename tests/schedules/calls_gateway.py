"""The pretend Alipay in memory: what the simulator's gateway does with a call, without its sockets and threads.

Requests and answers are signed and verified as on the wire. A schedule decides what reaches it, and what comes back.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from urllib3 import HTTPHeaderDict

from app.alipay.call_requests import ConsultRequest, consult_body
from app.alipay.delivery import Delivery
from app.alipay.keyring import Client, Keyring
from app.bounded_http import HttpResult
from app.simulator.gateway.alipay import CallRefusedError, Consent, Notice, PretendAlipay, code_notice, end_notice
from app.simulator.gateway.answers import Sending
from app.simulator.gateway.calls import Calls as AnsweringCalls
from app.simulator.gateway.faults import Fault, Faults
from app.simulator.gateway.keys import client_keys
from app.simulator.gateway.ledger import Ledger, Token
from app.simulator.gateway.requests import ExchangeRequest, RefreshRequest, read_request
from app.simulator.gateway.wallets import DEFAULT_USER, USERS
from tests.builders import CLIENT_ID
from tests.integration.calling import WALLET
from tests.integration.stage import Stage

#: A token that lives so long is refreshed after some nine tenths of it.
TOKEN_LIFE = timedelta(seconds=1000)


def a_consult(auth_state: str) -> ConsultRequest:
    """What the service asks for a user."""
    return ConsultRequest(
        auth_state=auth_state,
        customer_belongs_to=WALLET,
        auth_redirect_url="https://shop.example/back",
        scopes=("AGREEMENT_PAY",),
    )


@dataclass
class InMemoryGateway:
    """Consents, codes and tokens, and the notifications that are still to be sent."""

    stage: Stage
    client: Client
    ledger: Ledger = field(init=False)
    alipay: PretendAlipay = field(init=False)
    faults: Faults = field(init=False)
    #: What Alipay has not notified of yet, and what it has, which it may send again.
    pending: list[Notice] = field(default_factory=list)
    sent: list[Notice] = field(default_factory=list)
    #: The codes of each authState, oldest first.
    codes: dict[str, list[str]] = field(default_factory=dict)
    _calls: AnsweringCalls = field(init=False)

    def __post_init__(self) -> None:
        clock = self.stage.clock
        keys = client_keys(Keyring({CLIENT_ID: self.client}), self.stage.alipay_key)
        self.ledger = Ledger(clock)
        self.alipay = PretendAlipay(self.ledger, clock, token_life=TOKEN_LIFE)
        self.faults = Faults()
        self._calls = AnsweringCalls(keys, self.alipay, self.ledger, self.faults, clock, token_created=True)

    @contextmanager
    def reached_by(self, manner: str) -> Iterator[None]:
        """Let requests that are sent meanwhile come here, and have one go wrong in this manner."""
        # What only some wallets notify of, the end of the old token, is notified of always.
        self.faults.add([Fault("notify-after"), *([] if manner == "well" else [Fault(manner, times=1)])])
        try:
            with patch("app.alipay.call.post", self._post):
                yield
        finally:
            self.faults.clear()

    def has_done(self, operation: str, body: bytes) -> bool:
        """Say whether the work of a request was done before: nothing else is refused for it then."""
        request = read_request(operation, body)
        match request:
            case ExchangeRequest() | RefreshRequest():
                return any(each.given_for == request.subject for each in self.ledger.tokens())
            case _:
                return any(
                    each.subject == request.subject and each.result_status == "S" for each in self.ledger.calls()
                )

    # --- the user, and the merchant who calls itself ---

    def consult(self, auth_state: str) -> None:
        """Open a consent as a merchant does who consults itself."""
        request = read_request("consult", consult_body(a_consult(auth_state)))
        self.alipay.consult(CLIENT_ID, request)  # type: ignore[arg-type] # a consult is read as one

    def consent(self, auth_state: str) -> Consent | None:
        """Give the consent of an authState, if there is one."""
        return self.alipay.consent_of(CLIENT_ID, auth_state)

    def agree(self, auth_state: str) -> None:
        """Let the user agree, or agree again."""
        consent = self.consent(auth_state)
        code = None if consent is None else self.alipay.agree(consent, USERS[DEFAULT_USER])
        if consent is not None and code is not None:
            self.codes.setdefault(auth_state, []).append(code)
            self.pending.append(code_notice(consent, code))

    def cancel(self, auth_state: str) -> None:
        """Let the user cancel in the wallet."""
        consent = self.consent(auth_state)
        token = None if consent is None else self.alipay.cancel(consent, None)
        if consent is not None and token is not None:
            self.pending.append(end_notice(consent, token))

    def exchange(self, code: str) -> Token | None:
        """Exchange a code as a merchant does that does not leave it to the service; `None` if Alipay refuses."""
        try:
            return self.alipay.exchange(CLIENT_ID, ExchangeRequest(WALLET, code))
        except CallRefusedError:
            return None

    def refresh(self, refresh_token: str) -> Token | None:
        """Refresh as such a merchant does."""
        try:
            return self.alipay.refresh(CLIENT_ID, RefreshRequest(WALLET, refresh_token))
        except CallRefusedError:
            return None

    # --- the wire ---

    def _post(self, _pool: object, target: str, body: bytes, headers: Mapping[str, str], **_: Any) -> HttpResult:  # noqa: ANN401 -- those of post
        delivery = Delivery(
            method="POST",
            uri=target,
            client_id=headers["client-id"],
            request_time=headers["request-time"],
            signature=headers["signature"],
            body=body,
        )
        answer = self._calls.answer(delivery, content_type=headers["Content-Type"], base_url="http://127.0.0.1")
        self.pending += answer.notify_before
        self.pending += [notice for notice, _ in answer.notify_after]
        if answer.sending is not Sending.WHOLE:
            return no_answer(is_sent=True)
        return HttpResult(
            answer.status,
            is_sent=True,
            headers=HTTPHeaderDict(answer.headers),
            body=answer.body,
            error=None,
            milliseconds=1,
        )


def no_answer(*, is_sent: bool) -> HttpResult:
    """What comes back where nothing does."""
    return HttpResult(None, is_sent=is_sent, headers=HTTPHeaderDict(), body=b"", error="It was cut.", milliseconds=1)
