"""Long-running commands let other transactions write between two batches: SQLite has one write lock."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert
from sqlalchemy.orm import Session

from app import create_app
from app.inbox import BODY_COLUMN
from app.models import InboxEntry
from app.rotation import RESEALED_BATCH_SIZE_MAX
from app.simulator.draft import authcode_created
from app.simulator.keys import SANDBOX_CLIENT_ID
from app.vocabulary import Outcome
from app.wiring import Service
from tests.builders import an_environ
from tests.integration.shell import Shell

#: How often a command is to let others in: once for each of its batches. One that did not rest would do so by chance.
BATCHES = 10


@pytest.fixture
def embedded(sqlite_url: str, keyring_path: Path) -> Iterator[Shell]:
    """An operator at a shell, where the database is SQLite."""
    shell = Shell(create_app(an_environ(sqlite_url, keyring_path)), keyring_path)
    yield shell
    shell.service.database.close()


def fill(shell: Shell, count: int, *, outcome: Outcome) -> None:
    """Put notifications into the inbox that came three days ago."""
    long_ago = datetime.now(UTC) - timedelta(days=3)

    def an_entry(number: int) -> dict[str, object]:
        fingerprint = os.urandom(32)
        body = authcode_created(f"s-{number}", "code-1").body()
        return {
            "fingerprint": fingerprint,
            "client_id": SANDBOX_CLIENT_ID,
            "sealed_body": shell.service.vault.seal(body, column=BODY_COLUMN, row_key=fingerprint),
            "uri": "/",
            "request_time": "1",
            "signature": "",
            "deliveries": 1,
            "received_at": long_ago,
            "last_received_at": long_ago,
            "outcome": outcome,
            "reason": "NotProcessed",
        }

    def put(session: Session) -> None:
        session.execute(insert(InboxEntry), [an_entry(number) for number in range(count)])

    shell.service.database.run(put)


def with_a_new_key_first(shell: Shell) -> Shell:
    settings = shell.service.settings
    rotated = replace(settings, vault_keys=(os.urandom(32), *settings.vault_keys))
    shell.service.database.close()
    shell.app.extensions["notifyauth"] = Service(rotated)
    return shell


@dataclass
class Other:
    """Somebody else who writes, again and again, and how often they were let in."""

    turns: int = 0


@contextmanager
def another_writer(shell: Shell) -> Iterator[Other]:
    other, stopped = Other(), threading.Event()

    def write() -> None:
        path = shell.service.database.engine.url.database or ""
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
            while not stopped.is_set():
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
                other.turns += 1
                # So long that nobody is let in twice while the command rests.
                stopped.wait(0.05)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield other
    finally:
        stopped.set()
        thread.join()


def test_resealing_lets_others_write(embedded: Shell) -> None:
    fill(embedded, BATCHES * RESEALED_BATCH_SIZE_MAX, outcome=Outcome.REDUNDANT)
    shell = with_a_new_key_first(embedded)
    with another_writer(shell) as other:
        assert f"Sealed {BATCHES * RESEALED_BATCH_SIZE_MAX + 1} again" in shell.ask("keys", "reseal")
        turns = other.turns
    assert turns >= BATCHES


def test_processing_again_lets_others_write(embedded: Shell) -> None:
    fill(embedded, 100, outcome=Outcome.FAILED)
    with another_writer(embedded) as other:
        assert "Processed 100: " in embedded.ask("inbox", "process")
        turns = other.turns
    assert turns >= BATCHES
