"""What the bench of growth loads is what the service would have written: its own judge agrees with every row."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import func, inspect, select, text
from sqlalchemy.orm import Session

from app.consistency import verify_batch
from app.database import Database
from app.events import feed
from app.index_key import find_sealed, unseal
from app.models import Authorization, Base, Call, FeedEvent, InboxEntry, Transition
from app.vault import Sealer, Vault
from benchmarks.bulk_loading import load
from benchmarks.databases import Secrets

#: A day has four: most are old, a few hundred have their notifications, and a hundred their events and calls.
COUNT = 2000


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    return Secrets.make(tmp_path)


@pytest.fixture
def loaded(postgresql_url: str, secrets: Secrets) -> Iterator[Database]:
    """A database with years on record."""
    before = indexes_of(postgresql_url)
    load(postgresql_url, COUNT, vault_key=secrets.vault_key, tell=lambda _: None)
    assert indexes_of(postgresql_url) == before
    database = Database(postgresql_url)
    yield database
    database.close()


def indexes_of(url: str) -> set[str]:
    database = Database(url)
    with database.engine.connect() as connection:
        found = set(connection.scalars(text("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'")))
    database.close()
    return found


def test_every_row_that_is_loaded_follows_from_the_rest(loaded: Database, secrets: Secrets) -> None:
    sealer = Sealer([secrets.vault_key_bytes])
    vault = Vault(sealer, unseal(sealer, loaded.run(find_sealed, read_only=True) or b""))
    after, verified = None, 0
    while True:
        batch = loaded.run(partial(verify_batch, vault=vault, after=after), read_only=True)
        assert batch.inconsistencies == []
        verified += batch.count
        if batch.up_to is None:
            break
        after = batch.up_to
    assert verified == COUNT


def test_what_is_loaded_names_only_what_is_there(loaded: Database) -> None:
    """Foreign keys are not looked up while rows are loaded."""
    with loaded.engine.connect() as connection:
        keys = [
            (table, key)
            for table in Base.metadata.sorted_tables
            for key in inspect(connection).get_foreign_keys(table.name)
        ]
        assert len(keys) > 5
        for table, key in keys:
            (column,), (other,) = key["constrained_columns"], key["referred_columns"]
            missing = text(
                f"SELECT count(*) FROM {table.name} a LEFT JOIN {key['referred_table']} b ON a.{column} = b.{other} "  # noqa: S608 -- names of our own tables
                f"WHERE a.{column} IS NOT NULL AND b.{other} IS NULL"
            )
            assert connection.scalar(missing) == 0, (table.name, column)


def test_what_is_loaded_is_as_retention_leaves_it(loaded: Database) -> None:
    def look(session: Session) -> None:
        events = session.scalar(select(func.count(FeedEvent.position)))
        assert session.scalar(select(func.count(Authorization.id))) == COUNT
        # Of ninety days out of five hundred two of each authorization, of thirty three; most codes were exchanged.
        assert session.scalar(select(func.count(InboxEntry.id))) == pytest.approx(COUNT * 0.18 * 2, rel=0.1)
        assert events == pytest.approx(COUNT * 0.06 * 3, rel=0.1)
        assert session.scalar(select(func.count(Call.id))) == pytest.approx(COUNT * 0.06 * 0.75, rel=0.1)
        page = feed.page(session, after=None, types=None, limit=1000)
        assert len(page.events) == events
        assert not page.has_more

    loaded.run(look, read_only=True)


def test_what_the_database_numbers_goes_on_after_what_is_loaded(loaded: Database) -> None:
    def look(session: Session) -> None:
        last = session.scalar(select(func.max(InboxEntry.id))) or 0
        named = session.scalar(select(func.max(Transition.notification_id))) or 0
        next_id = session.scalar(text("SELECT nextval(pg_get_serial_sequence('inbox', 'id'))")) or 0
        assert next_id > max(last, named)
        assert feed.last_position(session) == session.scalar(select(func.max(FeedEvent.position)))

    loaded.run(look)
