"""A service that makes its own calls, and the pretend gateway that it calls."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import call_statements, tokens
from app.alipay.call_requests import ConsultRequest
from app.alipay.keyring import Gateway, Keyring
from app.authorizations import Cause
from app.database import Database, DatabaseUnavailableError
from app.gateway import requests
from app.gateway.runner import CallRunner
from app.models import AccessToken, Authorization, Call, CallAttempt, OutboxEvent
from app.receiver import Receiver
from app.reports import Consult, PaymentResult
from app.secret import Secret
from app.simulator.draft import authcode_created
from app.simulator.gateway.faults import Fault
from app.simulator.gateway.gateway import GatewayOptions, PretendGateway
from app.simulator.gateway.keys import client_keys
from app.simulator.gateway.ledger import ReceivedCall
from app.unit_of_work import UnitOfWork
from app.vault import Vault
from app.vocabulary import CauseKind
from tests.builders import CLIENT_ID
from tests.integration.stage import Stage

WALLET = "GCASH"


@dataclass
class CallingStage:
    """A stage whose client has a gateway. What a test does not name has a default."""

    stage: Stage
    gateway: PretendGateway

    # --- what a call runner needs ---

    @property
    def database(self) -> Database:
        return self.stage.database

    @property
    def keyring(self) -> Keyring:
        return self.stage.keyring

    @property
    def vault(self) -> Vault:
        return self.stage.vault

    @property
    def receiver(self) -> Receiver:
        return self.stage.receiver

    # --- what happens ---

    def consult(self, auth_state: str = "s-1", **said: Any) -> UUID:  # noqa: ANN401 -- whatever a consult may say
        """Ask the service to consult."""
        request = ConsultRequest(
            auth_state=auth_state,
            customer_belongs_to=WALLET,
            auth_redirect_url="https://shop.example/back",
            scopes=("AGREEMENT_PAY",),
        )
        consult = Consult(auth_state, client_id=CLIENT_ID, customer_belongs_to=WALLET)
        request = replace(request, **said)
        asked = self.receiver.run_work(
            lambda work: requests.ask_consult(
                work, self.keyring, consult, request, cause=Cause(CauseKind.API, at=self.stage.clock(), by="shop")
            )
        )
        return asked.recorded.authorization_id

    def agree(self, auth_state: str = "s-1") -> str:
        """Let the user agree, and give the code that the browser is sent back with."""
        url = self.gateway.agree(CLIENT_ID, auth_state)
        return parse_qs(urlsplit(url).query)["authCode"][0]

    def notify_code(self, auth_state: str = "s-1") -> str:
        """Let the user agree, and Alipay tell of it."""
        code = self.agree(auth_state)
        assert self.stage.notify(authcode_created(auth_state, code)).outcome == "applied"
        return code

    def activate(self, auth_state: str = "s-1") -> UUID:
        """Consult, agree and exchange."""
        with self.running():
            authorization_id = self.consult(auth_state)
            self.wait_for(lambda: self.calls()[-1].status == "done")
            self.notify_code(auth_state)
            self.wait_for(lambda: self.stage.state(auth_state) == "token_active")
        return authorization_id

    def ask_refresh(self, auth_state: str = "s-1") -> None:
        self._run(partial(requests.ask_refresh, authorization_id=self._id(auth_state), cause=self._cause()))

    def ask_revoke(self, auth_state: str = "s-1") -> None:
        self._run(partial(requests.ask_revoke, authorization_id=self._id(auth_state), cause=self._cause()))

    def retry(self, call: Call) -> None:
        self._run(partial(requests.retry, call_id=call.id, authorization_id=call.authorization_id, cause=self._cause()))

    def payment_result(self, authorization_id: UUID, code: str, **about: Any) -> None:  # noqa: ANN401 -- a token or a time
        token = about.pop("access_token", None)
        result = PaymentResult(authorization_id, code, access_token=token and Secret(token), **about)
        self.receiver.record(result, cause=CauseKind.API)

    def use_gateway(self, *, exchange: bool = True, refresh: bool = True) -> None:
        """Change the settings of the gateway, as a reload of the keyring does."""
        client = self.keyring.client(CLIENT_ID)
        assert client.gateway is not None
        client = replace(client, gateway=replace(client.gateway, exchange=exchange, refresh=refresh))
        self.stage.keyring = Keyring({CLIENT_ID: client})

    @contextmanager
    def database_away(self) -> Iterator[None]:
        """Let no transaction begin, for a while."""
        with patch.object(self.database, "run", side_effect=DatabaseUnavailableError("TestError")):
            yield

    def _run(self, do: Callable[[UnitOfWork], object]) -> None:
        self.receiver.run_work(do)

    def _cause(self) -> Cause:
        return Cause(CauseKind.API, at=self.stage.clock(), by="shop")

    def _id(self, auth_state: str = "s-1") -> UUID:
        return UUID(self.stage.document(auth_state)["id"])

    def fail(self, fault: str, operation: str | None = None, *, times: int | None = 1, **said: Any) -> None:  # noqa: ANN401 -- what a fault takes
        """Ask the gateway to go wrong."""
        self.gateway.faults.add([Fault(fault, operation, times=times, **said)])

    @contextmanager
    def running(self, **said: Any) -> Iterator[CallRunner]:  # noqa: ANN401 -- what a runner takes
        """Let a background worker make what is due, for a while."""
        stop = threading.Event()
        runner = CallRunner(self, **{"clock": self.stage.clock} | said)
        thread = threading.Thread(target=runner.run_until, args=(stop,))
        thread.start()
        try:
            yield runner
        finally:
            stop.set()
            thread.join(timeout=30)
            assert not thread.is_alive()

    # --- what there is to see ---

    def current_token(self, auth_state: str = "s-1") -> str:
        """The token that would be given out."""
        return tokens.reveal(self.vault, self._token(auth_state)).reveal()

    def refresh_token(self, auth_state: str = "s-1") -> str | None:
        """What refreshes it."""
        secret = tokens.reveal_refresh_token(self.vault, self._token(auth_state))
        return None if secret is None else secret.reveal()

    def _token(self, auth_state: str) -> AccessToken:
        def find(session: Session) -> AccessToken:
            token = tokens.current(session, session.get_one(Authorization, self._id(auth_state)))
            assert token is not None
            return token

        return self.database.run(find, read_only=True)

    def calls(self) -> Sequence[Call]:
        return self.database.run(lambda session: session.scalars(select(Call).order_by(Call.id)).all(), read_only=True)

    def newest_call(self, authorization_id: UUID) -> Call:
        return self.database.run(partial(call_statements.newest, authorization_ids=[authorization_id]), read_only=True)[
            authorization_id
        ]

    def newest_is(self, authorization_id: UUID, kind: str, status: str) -> bool:
        """Whether the newest call of an authorization is one of this kind, and stands so."""
        call = self.newest_call(authorization_id)
        return (call.kind, call.status, call.is_in_flight) == (kind, status, False)

    def attempts(self) -> Sequence[CallAttempt]:
        order = select(CallAttempt).order_by(CallAttempt.call_id, CallAttempt.number)
        return self.database.run(lambda session: session.scalars(order).all(), read_only=True)

    def statuses(self) -> list[tuple[str, str]]:
        return [(each.kind, each.status) for each in self.calls()]

    def events(self) -> list[str]:
        order = select(OutboxEvent).order_by(OutboxEvent.id)
        rows = self.database.run(lambda session: session.scalars(order).all(), read_only=True)
        return [each.type.removeprefix("authorization.") for each in rows]

    def received(self, operation: str) -> list[ReceivedCall]:
        return [each for each in self.gateway.ledger.calls() if each.operation == operation]

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not is_so():
            assert time.monotonic() < deadline, [
                (each.kind, each.status, each.attempts, each.reason) for each in self.calls()
            ]
            time.sleep(0.02)

    def forward_until(
        self, is_so: Callable[[], bool], *, step: timedelta = timedelta(seconds=1), pause: float = 0.12
    ) -> None:
        """Let time pass, until something is so, with a pause in which a worker looks."""
        deadline = time.monotonic() + 60
        while not is_so():
            assert time.monotonic() < deadline, self.statuses()
            self.stage.clock.now += step
            time.sleep(pause)


def a_calling_stage(stage: Stage, merchant_key: RSAPrivateKey) -> Iterator[CallingStage]:
    """Give a stage a gateway to call."""
    (client,) = stage.keyring.clients.values()
    with_key = replace(client, merchant_private_key=merchant_key)
    keys = client_keys(Keyring({client.client_id: with_key}), stage.alipay_key)
    options = GatewayOptions(token_life=timedelta(days=365))
    with PretendGateway(keys, notify=None, clock=stage.clock, options=options) as pretend:
        whole = replace(with_key, gateway=Gateway(pretend.url, exchange=True, refresh=True))
        stage.keyring = Keyring({client.client_id: whole})
        yield CallingStage(stage, pretend)
