"""Load a history of years, as retention leaves it: what is old is made up by PostgreSQL, what is recent comes by COPY.

Of what is old the secrets are noise, since nothing opens them any more. Indexes that guard nothing are made at the
end, which takes half the time and leaves them as small as they can be.
"""

import base64
import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from operator import attrgetter
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier
from sqlalchemy import Dialect, make_url
from sqlalchemy.dialects import postgresql

from app.database.pipeline import table_of
from app.index_key import INDEX_KEY_ID
from app.simulator.keys import SANDBOX_CLIENT_ID
from app.vault import INDEX_KEY_COLUMN, Sealer, Vault, new_index_key
from app.worker import RETENTION
from benchmarks.history import (
    DAYS,
    NEWEST,
    NOTIFICATIONS_KEPT,
    Writer,
    begun_at,
    numbers_after,
    oldest_kept,
)
from tests.spare_database import libpq_url

#: So many authorizations are made in one transaction: in a process, their rows take 200 MiB.
BATCH = 20_000
#: PostgreSQL makes them one by one.
OLD_BATCH = 50_000

#: The same lives as in `history`. All text is ASCII and needs no escaping.
_LIVES = """
CREATE TEMPORARY TABLE life ON COMMIT DROP AS
SELECT
    n,
    at,
    -- A UUIDv7: the milliseconds first, so that ids are in the order of time.
    (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(noise, 1, 3) || '8'
        || substr(noise, 4, 15))::uuid AS id,
    md5('authState ' || n) AS auth_state,
    CASE WHEN n %% 4 = 0 THEN 'direct' ELSE 'auto_debit' END AS flow,
    CASE WHEN n %% 20 = 0 THEN 'consulted'
         WHEN n %% 20 = 1 THEN 'authcode_issued'
         WHEN n %% 3 = 0 THEN 'canceled'
         ELSE 'token_active' END AS state
FROM generate_series(%(first)s::bigint, %(last)s) AS n,
    LATERAL (SELECT md5(n::text) AS noise,
        %(now)s::timestamptz - %(newest)s - %(span)s * (1 - n::float / %(count)s) AS at) AS made
"""
_AUTHORIZATIONS = """
INSERT INTO authorizations (id, client_id, auth_state, flow, flow_was_said, state, version, user_ref,
    customer_belongs_to, user_id, sealed_auth_code, auth_code_received_at, created_at, updated_at)
SELECT id, %(client)s, auth_state, flow, true, state,
    CASE state WHEN 'consulted' THEN 1 WHEN 'authcode_issued' THEN 2 WHEN 'token_active' THEN 3 ELSE 4 END
        - CASE WHEN flow = 'direct' AND state <> 'consulted' THEN 1 ELSE 0 END,
    'user-' || n * 4 / 5, (ARRAY['GCASH', 'GCASH', 'GCASH', 'DANA', 'KAKAOPAY'])[n %% 5 + 1],
    CASE WHEN flow = 'auto_debit' AND state IN ('token_active', 'canceled') THEN '2088' || lpad(n::text, 12, '0') END,
    CASE WHEN flow = 'auto_debit' AND state <> 'consulted' THEN decode(repeat(auth_state, 4), 'hex') END,
    CASE WHEN flow = 'auto_debit' AND state <> 'consulted' THEN at + interval '20 seconds' END,
    at,
    at + CASE state WHEN 'consulted' THEN interval '0' WHEN 'authcode_issued' THEN interval '20 seconds'
        WHEN 'token_active' THEN interval '22 seconds' ELSE interval '1 hour' END
FROM life
"""
_TOKENS = """
INSERT INTO access_tokens (client_id, token_index, authorization_id, sealed_access_token, access_token_expires_at,
    sealed_refresh_token, refresh_token_expires_at, refresh_due_at, created_at)
SELECT %(client)s, sha256(auth_state::bytea), id, decode(repeat(auth_state, 5), 'hex'), ends_at,
    CASE WHEN flow = 'auto_debit' THEN decode(repeat(auth_state, 5), 'hex') END, ends_at, ends_at - interval '10 days',
    at + interval '21 seconds'
FROM life, LATERAL (SELECT CASE WHEN flow = 'auto_debit' THEN at + interval '495 days' END AS ends_at) AS token
WHERE state IN ('token_active', 'canceled')
"""
#: They name entries that are purged.
_TRANSITIONS = """
INSERT INTO transitions (authorization_id, sequence, event, from_state, to_state, cause, by, notification_id,
    learned_at, at)
SELECT id, sequence - CASE WHEN flow = 'direct' AND sequence > 1 THEN 1 ELSE 0 END, event, from_state, to_state,
    cause, CASE cause WHEN 'api' THEN 'shop' END,
    CASE cause WHEN 'notification'
        THEN %(entry)s + count(*) FILTER (WHERE cause = 'notification') OVER (ORDER BY n, sequence) END,
    at + delay, at + delay
FROM life, LATERAL (VALUES
    (1, 'consult', NULL, 'consulted', 'api', interval '0', true),
    (2, 'authcode_created', 'consulted', 'authcode_issued', 'notification', interval '20 seconds',
        flow = 'auto_debit' AND state <> 'consulted'),
    (3, 'token_created', CASE flow WHEN 'direct' THEN 'consulted' ELSE 'authcode_issued' END, 'token_active',
        CASE flow WHEN 'direct' THEN 'notification' ELSE 'gateway' END,
        interval '22 seconds', state IN ('token_active', 'canceled')),
    (4, 'token_canceled', 'token_active', 'canceled', 'notification', interval '1 hour', state = 'canceled')
) AS possible (sequence, event, from_state, to_state, cause, delay, was_said)
WHERE was_said
ORDER BY n, sequence
"""
_OLD = (_AUTHORIZATIONS, _TOKENS, _TRANSITIONS)

_DIALECT: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call] # SQLAlchemy gives no types

#: Those that no constraint needs.
_INDEXES = """
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid)
FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
WHERE relnamespace = 'public'::regnamespace AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
ORDER BY indexrelid
"""
#: What the database itself numbers goes on after what was loaded.
_GO_ON = (
    "SELECT setval(pg_get_serial_sequence('inbox', 'id'), greatest(%(entry)s, 1))",
    "UPDATE feed SET last_position = %(position)s, purged_through = %(purged_through)s",
)


@dataclass(frozen=True, slots=True)
class _Batch:
    first: int
    last: int
    #: Whether its notifications are purged.
    is_old: bool


@dataclass(frozen=True, slots=True)
class _Load:
    """What each process has to know."""

    url: str
    vault_key: bytes
    index_key: bytes
    count: int
    now: datetime


def load(url: str, count: int, *, vault_key: str, tell: Callable[[str], None]) -> None:
    """Load so many authorizations into a migrated, empty database, with all that is on record of them."""
    plain_url = libpq_url(make_url(url))
    loading = _Load(plain_url, base64.b64decode(vault_key), new_index_key(), count, datetime.now(UTC))
    batches = list(_batches(count, loading.now))
    with psycopg.connect(plain_url, autocommit=True) as connection:
        _keep_index_key(connection, loading)
        with _without_indexes(connection, tell), _pool() as pool:
            for batch in pool.map(_write, [loading] * len(batches), batches):
                tell(f"loaded {batch.last} of {count}")
        ends = _ends(count, loading.now)
        for statement in _GO_ON:
            connection.execute(statement, ends)
        tell("vacuuming")
        connection.execute("VACUUM (ANALYZE, FREEZE)")


def _ends(count: int, now: datetime) -> Mapping[str, int]:
    last, purged = numbers_after(count), numbers_after(oldest_kept(count, now, RETENTION) - 1)
    return {"entry": last.entry, "position": last.position, "purged_through": purged.position}


def _keep_index_key(connection: psycopg.Connection, loading: _Load) -> None:
    sealed = Sealer([loading.vault_key]).seal(
        loading.index_key, column=INDEX_KEY_COLUMN, row_key=INDEX_KEY_ID.to_bytes()
    )
    connection.execute("INSERT INTO index_key (id, sealed_key) VALUES (%s, %s)", [INDEX_KEY_ID, sealed])


def _batches(count: int, now: datetime) -> Iterator[_Batch]:
    """Divide the work."""
    recent = oldest_kept(count, now, NOTIFICATIONS_KEPT)
    for first in range(1, recent, OLD_BATCH):
        yield _Batch(first, min(first + OLD_BATCH, recent) - 1, is_old=True)
    for first in range(recent, count + 1, BATCH):
        yield _Batch(first, min(first + BATCH - 1, count), is_old=False)


@contextmanager
def _without_indexes(connection: psycopg.Connection, tell: Callable[[str], None]) -> Iterator[None]:
    indexes = connection.execute(_INDEXES).fetchall()
    for name, _ in indexes:
        connection.execute(SQL("DROP INDEX {}").format(Identifier(name)))
    yield
    connection.execute("SET maintenance_work_mem = '512MB'")
    for name, definition in indexes:
        tell(f"making {name}")
        connection.execute(definition)


def _pool() -> ProcessPoolExecutor:
    # An interrupt of the bench reaches these too.
    return ProcessPoolExecutor(
        os.cpu_count(),
        mp_context=get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )


def _write(loading: _Load, batch: _Batch) -> _Batch:
    """Make the rows of a part, and write them in one transaction."""
    rows = [] if batch.is_old else _made(loading, batch)
    with psycopg.connect(loading.url) as connection:
        (is_superuser,) = connection.execute("SHOW is_superuser").fetchone() or ("off",)
        if is_superuser == "on":
            # What a foreign key would look up was written just before.
            connection.execute("SET session_replication_role = replica")
        if batch.is_old:
            _make_up(connection, loading, batch)
        for each in rows:
            _copy(connection, each)
    return batch


def _make_up(connection: psycopg.Connection, loading: _Load, batch: _Batch) -> None:
    values = {
        "first": batch.first,
        "last": batch.last,
        "count": loading.count,
        "now": loading.now,
        "newest": NEWEST,
        "span": timedelta(days=DAYS) - NEWEST,
        "entry": numbers_after(batch.first - 1).entry,
        "client": SANDBOX_CLIENT_ID,
    }
    for statement in (_LIVES, *_OLD):
        connection.execute(statement, values)


def _made(loading: _Load, batch: _Batch) -> Sequence[Sequence[Any]]:
    random.seed(batch.first)
    writer = Writer(Vault(Sealer([loading.vault_key]), loading.index_key), now=loading.now)
    for number in range(batch.first, batch.last + 1):
        writer.write(number, begun_at(number, loading.count, loading.now))
    return writer.rows.tables()


def _copy(connection: psycopg.Connection, rows: Sequence[Any]) -> None:
    if not rows:
        return
    table = table_of(rows[0])
    names = [column.key for column in table.columns]
    types = [column.type.compile(_DIALECT).lower() for column in table.columns]
    statement = SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        Identifier(table.name), SQL(", ").join(map(Identifier, names))
    )
    values_of = attrgetter(*names)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types([_NAMES.get(each, each) for each in types])
        for row in rows:
            copy.write_row(values_of(row))


#: As the driver calls them.
_NAMES = {"timestamp with time zone": "timestamptz", "bigint": "int8", "boolean": "bool"}
