"""An operator at a shell of a service whose client has a gateway: calls are begun, and end as a test says."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.orm import Session

from app import call_statements, create_app
from app.alipay.call import Done, Refused, Unknown
from app.alipay.call_requests import ConsultRequest
from app.authorizations import Cause
from app.events import feed
from app.gateway import recording, requests
from app.gateway.attempts import Answer, BegunAttempt, EndedAttempt
from app.key_locks import AuthStateKey
from app.models import Call
from app.reports import Consult
from app.simulator.draft import authcode_created
from app.vocabulary import CallKind, CauseKind
from tests.builders import an_environ
from tests.gateway import TOKEN
from tests.integration.shell import Shell

#: Nobody listens there.
NO_GATEWAY = "http://127.0.0.1:9"
WALLET = "GCASH"

IN_PROCESS = Unknown("Alipay does not know yet (AUTH_IN_PROCESS): wait.", "AUTH_IN_PROCESS", 200, 34)
SILENCE = Unknown("Alipay did not answer. It took longer than 10 seconds.", None, None, 10_000)
SPENT = Refused("INVALID_AUTHCODE", "The auth code is invalid.", 200, 12)
GRANTED = Done(TOKEN, 200, 45)


@dataclass
class CallShell(Shell):
    """Runs commands, and plays the background worker and Alipay."""

    #: That of the service.
    environ: dict[str, str]

    def agree(self, auth_state: str = "s-1", *, wallet: str | None = WALLET) -> str:
        """Consult, let Alipay notify of a code, and return the id of the exchange that this begins."""
        said = () if wallet is None else ("--wallet", wallet)
        self.ask("authorizations", "consult", auth_state, *said)
        self.notify(authcode_created(auth_state, f"code of {auth_state}"))
        return self.newest_call()

    def newest_call(self) -> str:
        return str(self.json("calls", "list", "--limit", "1")[0]["id"])

    def answer(self, answer: Answer | None) -> None:
        """Let the background worker begin an attempt at each call that is due, and Alipay answer; `None` is nothing."""

        def begin(session: Session) -> list[EndedAttempt]:
            due = call_statements.lock_due(session, now=now, limit=10)
            call_statements.begin_attempts(session, due, now=now)
            keys = call_statements.auth_state_keys(session, due)
            return [
                EndedAttempt(_begun(each, keys[each.authorization_id]), answer) for each in due if answer is not None
            ]

        now = datetime.now(UTC)
        ended = self.service.database.run(begin)
        record = partial(recording.record_attempts, ended=ended, now=now, spread=lambda: 0.0)
        self.receiver.run_work(record)

    def answer_consult(self, auth_state: str, answer: Answer) -> str:
        """Ask for a consult as the API does, let Alipay answer it, and return the id of the call."""
        request = ConsultRequest(
            auth_state=auth_state,
            customer_belongs_to=WALLET,
            auth_redirect_url="https://shop.example/back",
            scopes=("AGREEMENT_PAY",),
        )
        ask = partial(
            requests.ask_consult,
            keyring=self.service.keyring,
            consult=Consult(auth_state, customer_belongs_to=WALLET),
            request=request,
            cause=Cause(CauseKind.API, at=datetime.now(UTC), by="shop"),
        )
        asked = self.receiver.run_work(ask)
        self.answer(answer)
        return str(asked.call_id)

    def change_call(self, call_id: str, **values: object) -> None:
        """Change a call, as the passing of time would."""
        change = update(Call).where(Call.id == UUID(call_id)).values(values)
        self.service.database.run(lambda session: session.execute(change))

    def number_events(self) -> None:
        number = partial(feed.number, subscribers=lambda _type: (), now=datetime.now(UTC))
        self.service.database.run(number)

    def event(self, event_type: str) -> Any:  # noqa: ANN401 -- whatever the command prints
        self.number_events()
        (event,) = self.json("events", "list", "--type", f"authorization.{event_type}")
        return event


def _begun(call: Call, key: AuthStateKey) -> BegunAttempt:
    return BegunAttempt(call.id, call.attempts, CallKind(call.kind), key, call.subject_index, b"")


@contextmanager
def a_call_shell(
    database_url: str, keyring_path: Path, folder: Path, *, gateway: str = NO_GATEWAY, **settings: str
) -> Iterator[CallShell]:
    """A shell of a service whose one client has this gateway."""
    text = keyring_path.read_text()
    for name in ("simulator.pem", "merchant.pem"):
        (folder / name).write_bytes(keyring_path.with_name(name).read_bytes())
    path = folder / "keyring.toml"
    path.write_text(text.replace("merchant_private_key", f'gateway = "{gateway}"\nmerchant_private_key'))
    environ = an_environ(database_url, path, **settings)
    shell = CallShell(create_app(environ), path, environ)
    yield shell
    shell.service.database.close()
