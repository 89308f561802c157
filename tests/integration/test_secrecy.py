"""No token, code or login id in the clear: not in the database, not in a log, an error or a document."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from app import inbox
from app.logs import FieldFormatter
from app.report_errors import ReportRefusedError
from app.secret import Secret
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from tests.integration.stage import Stage

#: Each so odd that it cannot turn up by chance.
CODE, OTHER_CODE = "code-5d1f0c7a", "code-77aa20be"
TOKEN, NEXT_TOKEN, FOREIGN_TOKEN = "token-e02b9d44", "token-9c31f6aa", "token-1f4e8b70"
REFRESH_TOKEN = "refresh-b7c2d1e9"
LOGIN_ID = "someone-0f3c@example.com"
WORDS = "the user wrote: leave me alone 8ee1"
SECRETS = (CODE, OTHER_CODE, TOKEN, NEXT_TOKEN, FOREIGN_TOKEN, REFRESH_TOKEN, LOGIN_ID, WORDS)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that the service logs, at every level."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(FieldFormatter())
    loggers = [logging.getLogger("app"), logging.getLogger("sqlalchemy")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield stream
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


def play_everything(stage: Stage) -> None:
    """Bring every secret in by every way: applied, parked, rejected, malformed, failed, refused, replayed."""
    authorization_id = stage.consult(user_ref="u-1")
    body = json.loads(authcode_created("s-1", CODE).body()) | {"userLoginId": LOGIN_ID, "userId": "2188"}
    with stage.broken_code(authorization_id):
        stage.notify(json.dumps(body).encode())
    for entry in stage.entries():
        stage.process(entry.id)
    stage.notify(authcode_created("s-1", OTHER_CODE))
    stage.notify(token_canceled(NEXT_TOKEN, reason=WORDS))
    stage.notify(token_created("s-1", TOKEN))
    stage.report_token(authorization_id, TOKEN, refresh_token=Secret(REFRESH_TOKEN))
    stage.notify(Draft("TOKEN_CREATED", access_token=FOREIGN_TOKEN))
    stage.notify(Draft("NEWS", access_token=FOREIGN_TOKEN, auth_code=OTHER_CODE))
    with pytest.raises(ReportRefusedError) as refused:
        stage.report_token(authorization_id, FOREIGN_TOKEN, replaces=OTHER_CODE)
    assert not any(secret in repr(refused.value) for secret in SECRETS)
    stage.report_token(authorization_id, NEXT_TOKEN, replaces=TOKEN)
    stage.report_canceled(authorization_id, WORDS)
    assert stage.state() == "canceled"


def everything_in(stage: Stage) -> bytes:
    """Read every column of every row, and, of SQLite, every byte of its files: freed pages and the write-ahead log."""
    found = b""
    with stage.database.engine.connect() as connection:
        for table in ("authorizations", "access_tokens", "inbox", "transitions", "rendezvous", "index_key"):
            for row in connection.execute(text(f"SELECT * FROM {table}")):  # noqa: S608 -- names of ours
                found += b"\n".join(value if isinstance(value, bytes) else str(value).encode() for value in row)
    database = stage.database.engine.url.database
    if stage.database.engine.dialect.name == "sqlite" and database is not None:
        for file in Path(database).parent.glob(Path(database).name + "*"):
            found += file.read_bytes()
    return found


def test_no_secret_lies_in_the_database_or_in_a_log(stage: Stage, log: io.StringIO) -> None:
    play_everything(stage)
    stored = everything_in(stage)
    assert b"s-1" in stored
    assert [secret for secret in SECRETS if secret.encode() in stored] == []
    assert "processing failed" in log.getvalue()
    assert [secret for secret in SECRETS if secret in log.getvalue()] == []


def test_no_secret_is_in_a_document(stage: Stage) -> None:
    play_everything(stage)
    assert [secret for secret in SECRETS if secret in json.dumps(stage.document())] == []


def test_no_secret_is_in_the_repr_of_what_is_handled(stage: Stage) -> None:
    play_everything(stage)
    bodies = [inbox.open_body(stage.vault, entry) for entry in stage.entries()]
    readings = [repr(inbox.read(body)) for body in bodies]
    assert any(TOKEN.encode() in body for body in bodies)
    assert [secret for secret in SECRETS if any(secret in reading for reading in readings)] == []
