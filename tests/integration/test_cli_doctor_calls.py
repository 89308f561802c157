"""An operator asks why no code becomes a token: the doctor looks how the latest calls to Alipay ended."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from app import create_app
from app.alipay.keyring import Keyring, fingerprint
from app.models import Authorization, Call
from app.simulator.keys import SANDBOX_CLIENT_ID
from app.vocabulary import CallKind, CallStatus, CauseKind
from tests.builders import an_environ
from tests.integration.calling_http import keyring_with_gateway
from tests.integration.shell import Shell
from tests.integration.test_cli_doctor import found

#: As the attempts leave them: status, result code, reason.
DONE = (CallStatus.DONE, "SUCCESS", None)
BADLY_SIGNED = (CallStatus.FAILED, "INVALID_SIGNATURE", "Alipay refused it (INVALID_SIGNATURE).")
SPENT = (CallStatus.FAILED, "INVALID_AUTHCODE", "Alipay refused it (INVALID_AUTHCODE).")
UNREACHED = (CallStatus.DUE, None, "Alipay could not be reached. It refused the connection.")
NOT_TRIED = (CallStatus.DUE, None, None)

Outcome = tuple[CallStatus, str | None, str | None]


@pytest.fixture
def calling(database_url: str, keyring_path: Path, tmp_path: Path) -> Iterator[Shell]:
    path = keyring_with_gateway(keyring_path, tmp_path, "http://127.0.0.1:9")
    shell = Shell(create_app(an_environ(database_url, path)), path)
    shell.consult("s-1")
    yield shell
    shell.service.database.close()


def record(shell: Shell, *outcomes: Outcome, at: datetime | None = None) -> None:
    """Put calls on record, the newest last."""
    at = at or datetime.now(UTC)

    def add(session: Session) -> None:
        authorization_id = session.scalars(select(Authorization.id)).first()
        for status, code, reason in outcomes:
            call = Call(
                id=uuid7(),
                authorization_id=authorization_id,
                client_id=SANDBOX_CLIENT_ID,
                kind=CallKind.EXCHANGE,
                status=status,
                attempts=int((status, code, reason) != NOT_TRIED),
                is_in_flight=False,
                is_uncertain=False,
                result_code=code,
                reason=reason,
                cause=CauseKind.GATEWAY,
                created_at=at,
            )
            session.add(call)

    shell.service.database.run(add)


def calls_row(shell: Shell) -> dict[str, Any] | None:
    return found(shell).get("calls")


def test_calls_that_are_refused_for_their_signature_are_named_with_the_key_that_signs(calling: Shell) -> None:
    record(calling, DONE, BADLY_SIGNED, BADLY_SIGNED, NOT_TRIED)
    row = calls_row(calling)
    assert row is not None
    assert row["status"] == "failed"
    assert "2 of the last 3 calls were answered INVALID_SIGNATURE" in row["problem"]
    key = Keyring.load(calling.keyring_path).client(SANDBOX_CLIENT_ID).merchant_private_key
    assert key is not None
    own = fingerprint(key.public_key())
    assert own in row["remedy"]
    assert f"the merchant's own {own}" in found(calling)["keys"]["found"]
    assert own in calling.ask("keys", "show")


@pytest.mark.parametrize(
    ("outcomes", "status", "said"),
    [
        ((BADLY_SIGNED, DONE), "ok", "was answered"),
        ((DONE, SPENT), "warning", "1 of the last 2 calls were answered INVALID_AUTHCODE"),
        ((UNREACHED, UNREACHED), "warning", "It refused the connection."),
    ],
    ids=["mended", "spent", "unreached"],
)
def test_the_newest_call_decides(calling: Shell, outcomes: tuple[Outcome, ...], status: str, said: str) -> None:
    record(calling, *outcomes)
    row = calls_row(calling)
    assert row is not None
    assert row["status"] == status
    assert said in (row["problem"] or row["found"])


def test_old_calls_and_those_that_were_not_tried_say_nothing(calling: Shell) -> None:
    record(calling, BADLY_SIGNED, at=datetime.now(UTC) - timedelta(days=2))
    record(calling, NOT_TRIED)
    assert calls_row(calling) is None
