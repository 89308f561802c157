"""A service below its endpoints and commands, and what Alipay, the merchant and an operator do with it."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import Any
from unittest.mock import patch
from uuid import UUID

import psycopg
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from app import authorizations, calls, documents
from app.alipay.keyring import Client, Keyring
from app.authorizations import Cause
from app.database import Database
from app.inbox_admin import parked_by_reason
from app.models import Authorization, Call, InboxEntry, KeyLock
from app.processing import Processed
from app.receiver import Receipt, Receiver
from app.reports import AuthcodeReport, CanceledReport, Consult, Recorded, TokenReport
from app.secret import Secret
from app.simulator.draft import Draft
from app.state_machine import Flow
from app.tokens import Grant
from app.unit_of_work import UnitOfWork
from app.vault import Sealer, Vault, new_index_key
from app.vocabulary import CallKind, CauseKind
from tests.builders import CLIENT_ID, a_signed_delivery

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@dataclass
class Clock:
    """Stands still until it is moved."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **duration: float) -> None:
        self.now += timedelta(**duration)


@dataclass
class Overheard:
    """What was said to a database."""

    statements: list[tuple[str, Any]] = field(default_factory=list)
    #: In how many messages several statements went to PostgreSQL together.
    messages: int = 0


@dataclass
class Stage:
    """One service on one database. What a test does not name has a default."""

    database: Database
    vault: Vault
    alipay_key: RSAPrivateKey
    keyring: Keyring
    clock: Clock = field(default_factory=Clock)

    @property
    def receiver(self) -> Receiver:
        return Receiver(self.database, self.keyring, self.vault, clock=self.clock)

    # --- Alipay ---

    def notify(self, notification: Draft | bytes, *, client_id: str = CLIENT_ID, request_time: str = "1") -> Receipt:
        body = notification if isinstance(notification, bytes) else notification.body()
        delivery = a_signed_delivery(self.alipay_key, client_id=client_id, request_time=request_time, body=body)
        return self.receiver.receive(delivery)

    def deliver(self, notification: Draft) -> None:
        """Repeat a notification until it is acknowledged, as Alipay does: SQLite makes one of several writers wait."""
        assert any(self.notify(notification).answer.status == HTTPStatus.OK for _ in range(10))

    def notify_batch(
        self,
        bodies: Sequence[bytes],
        *,
        client_id: str = CLIENT_ID,
        apart: timedelta = timedelta(0),
        singles: int | None = 0,
    ) -> list[Receipt]:
        """Deliver bodies, `apart` from each other, while the leaders are held, so that they run as one batch.

        Asserts that so many run as `singles` afterwards, because the batch failed; `None` where a test cannot say. They
        run in the order in which they were delivered, replays after them.
        """
        receiver = self.receiver
        commit = receiver.group_commit
        with (
            ThreadPoolExecutor(1) as in_order,
            patch.object(receiver, "_replays", in_order),
            patch.object(commit._singles, "_workers", in_order),  # noqa: SLF001 -- more than one would leave the order to chance
            patch.object(commit, "run_batch", wraps=commit.run_batch) as run_batch,
            patch.object(commit, "run_single", wraps=commit.run_single) as run_single,
        ):
            receipts = []
            # Signed beforehand: what is held waits no longer than a delivery may.
            signed = [a_signed_delivery(self.alipay_key, client_id=client_id, body=body) for body in bodies]
            with commit.held():
                for delivery in signed:
                    receipts.append(receiver.receive_later(delivery))
                    self.clock.now += apart
            known = [each.result(timeout=30) for each in receipts]
        commit.close()
        assert [len(call.args[0]) for call in run_batch.call_args_list] == [len(bodies)]
        assert singles in {None, run_single.call_count}
        return known

    # --- the merchant ---

    def consult(self, auth_state: str = "s-1", **said: Any) -> UUID:  # noqa: ANN401 -- whatever a consult may say
        said = {"client_id": CLIENT_ID} | said
        if (flow := said.get("flow")) is not None:
            # As the API and the shell do: a bare text would be a flow of a newer release.
            said["flow"] = Flow(flow)
        return self.receiver.record(Consult(auth_state, **said), cause=CauseKind.API).authorization_id

    def report_authcode(self, authorization_id: UUID, code: str = "code-1") -> Recorded:
        return self.receiver.record(AuthcodeReport(authorization_id, Secret(code)), cause=CauseKind.API)

    def report_token(
        self,
        authorization_id: UUID,
        token: str = "token-1",
        *,
        auth_code: str | None = None,
        replaces: str | None = None,
        **came_with: Any,  # noqa: ANN401 -- whatever a grant may hold
    ) -> Recorded:
        report = TokenReport(
            authorization_id,
            Grant(Secret(token), **came_with),
            auth_code=None if auth_code is None else Secret(auth_code),
            replaces=None if replaces is None else Secret(replaces),
        )
        return self.receiver.record(report, cause=CauseKind.API)

    def report_canceled(self, authorization_id: UUID, reason: str | None = None) -> Recorded:
        report = CanceledReport(authorization_id, None if reason is None else Secret(reason))
        return self.receiver.record(report, cause=CauseKind.API)

    def begin_call(self, authorization_id: UUID) -> Call:
        """Put a consult call on record, with an answer, as if somebody had asked for it."""

        def begin(work: UnitOfWork) -> Call:
            key = work.auth_state_key(authorization_id)
            assert key is not None
            work.lock_and_load(states=[key])
            authorization = work.authorization_by_id(authorization_id)
            cause = Cause(CauseKind.API, at=self.clock())
            call = calls.new(
                work.vault, authorization, CallKind.CONSULT, body=b"{}", subject=None, cause=cause, deadline_at=None
            )
            calls.set_answer(work.vault, call, "{}")
            work.begin_call(call)
            return call

        return self.receiver.run_work(begin)

    # --- the operator ---

    def process(self, entry_id: int) -> list[Processed]:
        return self.receiver.replay(entry_id)

    def document(self, auth_state: str = "s-1", *, client_id: str = CLIENT_ID) -> dict[str, Any]:
        def show(session: Session) -> dict[str, Any]:
            authorization = authorizations.find(session, client_id, auth_state)
            assert authorization is not None
            return documents.authorization_document(session, authorization)

        return self.database.run(show, read_only=True)

    def auth_code(self, auth_state: str = "s-1") -> str | None:
        """The code that is given out."""

        def read(session: Session) -> str | None:
            authorization = authorizations.find_all(session, auth_state)[0]
            code = authorizations.auth_code(self.vault, authorization)
            return None if code is None else code.reveal()

        return self.database.run(read, read_only=True)

    def state(self, auth_state: str = "s-1") -> str:
        return str(self.document(auth_state)["state"])

    def moves(self, auth_state: str = "s-1") -> list[tuple[int, str, str | None, str]]:
        """The history as the promise compares it."""
        history = self.document(auth_state)["history"]
        return [(move["sequence"], move["event"], move["from"], move["to"]) for move in history]

    def entries(self) -> list[InboxEntry]:
        return self.database.run(
            lambda session: list(session.scalars(select(InboxEntry).order_by(InboxEntry.id))), read_only=True
        )

    def outcomes(self) -> list[tuple[str, str | None]]:
        """How every entry ended, in inbox sequence."""
        return [(entry.outcome, entry.reason) for entry in self.entries()]

    def key_locks(self) -> list[KeyLock]:
        return self.database.run(lambda session: list(session.scalars(select(KeyLock))), read_only=True)

    def waiting(self) -> dict[str, int]:
        waiting = self.database.run(partial(parked_by_reason, now=datetime.now(UTC)), read_only=True)
        return {each.reason: each.count for each in waiting if each.count}

    @contextmanager
    def overheard(self) -> Iterator["Overheard"]:
        """Note every statement, for a while, with its parameters: of one for many rows, those of the first.

        What begins and ends a transaction is not among them.
        """
        overheard = Overheard()
        execute, pipeline = psycopg.Cursor.execute, psycopg.Connection.pipeline

        def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:  # noqa: ANN401 -- the driver's own
            if not statement.startswith("BEGIN"):
                overheard.statements.append((statement, parameters[0] if isinstance(parameters, list) else parameters))

        def note_postgresql(cursor: Any, statement: Any, parameters: Any = None, **options: Any) -> Any:  # noqa: ANN401 -- the driver's own
            if isinstance(statement, str) and statement != "COMMIT":
                overheard.statements.append((statement, parameters))
            return execute(cursor, statement, parameters, **options)

        def note_pipeline(connection: Any) -> Any:  # noqa: ANN401 -- the driver's own
            overheard.messages += 1
            return pipeline(connection)

        if self.database.engine.dialect.name == "postgresql":
            # Several statements may go in one message, of which SQLAlchemy tells nothing.
            with (
                patch.object(psycopg.Cursor, "execute", note_postgresql),
                patch.object(psycopg.Connection, "pipeline", note_pipeline),
            ):
                yield overheard
        else:
            event.listen(self.database.engine, "before_cursor_execute", note)
            try:
                yield overheard
            finally:
                event.remove(self.database.engine, "before_cursor_execute", note)

    @contextmanager
    def broken_code(self, authorization_id: UUID) -> Iterator[None]:
        """Make every processing that looks at the auth code of an authorization fail, for a while."""
        key = self._swap_code(authorization_id, b"this opens under no key")
        try:
            yield
        finally:
            self._swap_code(authorization_id, key)

    def _swap_code(self, authorization_id: UUID, sealed: bytes | None) -> bytes | None:
        def swap(session: Session) -> bytes | None:
            authorization = session.get_one(Authorization, authorization_id)
            before = authorization.sealed_auth_code
            authorization.sealed_auth_code = sealed
            return before

        return self.database.run(swap)


def a_stage(database_url: str, alipay_key: RSAPrivateKey, *, clients: dict[str, str] | None = None) -> Stage:
    """A service on this database; `clients` gives the default flow of each."""
    clients = clients or {CLIENT_ID: "auto_debit"}
    keyring = Keyring(
        {client_id: Client(client_id, flow, {1: (alipay_key.public_key(),)}) for client_id, flow in clients.items()}
    )
    vault = Vault(Sealer([os.urandom(32)]), new_index_key())
    return Stage(Database(database_url), vault, alipay_key, keyring)
