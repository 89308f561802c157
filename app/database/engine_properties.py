"""What the promises need of a database's engine, property by property, each with how it is tried.

Each is tried by transactions that meet, not by asking for a version or a setting: an engine that speaks the protocol of
PostgreSQL need not behave like it, and a pool or a default may change what it does.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Identity,
    Integer,
    MetaData,
    Select,
    Table,
    Text,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.database.driver import CommitNotConfirmedError
from app.database.engines import opened_with

T = TypeVar("T")

#: A transaction that has not ended by then waits for a lock.
_PAUSE_SECONDS = 0.3
#: As long as SQLite looks for its lock.
_WAIT_SECONDS_MAX = 2
#: Enough for two nodes, each with numbers of its own, to be asked in turn.
_ROUNDS = 10

#: Of several scripts, beyond the first plane of Unicode, and what SQL and formats treat in a special way.
_CHARACTERS = "a\u0301 ß \u0416 \u4e2d \U0001f600 \U0010fffd \\ ' %s"


class NotKeptError(Exception):
    """The engine did something else than the promises need."""


@dataclass(frozen=True)
class Bench:
    """The engine that is probed, with a table that is there for this one probe."""

    engine: Engine
    table: Table = field(init=False)

    def __post_init__(self) -> None:
        name = f"notifyauth_probe_{secrets.token_hex(4)}"
        number = BigInteger().with_variant(Integer, "sqlite")
        columns = (Column("id", number, Identity(), primary_key=True), Column("key", Text, unique=True))
        object.__setattr__(
            self, "table", Table(name, MetaData(), *columns, Column("number", Integer), sqlite_autoincrement=True)
        )

    @property
    def is_postgresql(self) -> bool:
        """Whether it is PostgreSQL, or speaks like it."""
        return self.engine.dialect.name == "postgresql"

    @cached_property
    def reading(self) -> Engine:
        """The engine whose transactions only read."""
        return opened_with(self.engine, read_only=True, is_hot=False)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction as the service does, but wait longer for locks."""
        with opened_with(self.engine, read_only=False, is_hot=False).begin() as connection:
            if self.is_postgresql:
                connection.execute(text(f"SET LOCAL lock_timeout = '{_WAIT_SECONDS_MAX}s'"))
            yield connection

    @contextmanager
    def connections(self, number: int) -> Iterator[list[Connection]]:
        """Several connections at once, so that none is another's."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.engine.connect()) for _ in range(number)]

    def add(self, key: str) -> int:
        """Insert a row in a transaction of its own, and give its number."""
        with self.writing() as connection:
            return self.insert(connection, key)

    def insert(self, connection: Connection, key: str) -> int:
        """Insert a row, and give its number."""
        statement = insert(self.table).values(key=key, number=1).returning(self.table.c.id)
        return int(connection.execute(statement).scalar_one())

    def insert_unless_there(self, connection: Connection, key: str) -> bool:
        """Insert a row, as a key lock is taken, and say whether it was not there yet."""
        dialect = postgresql if self.is_postgresql else sqlite
        statement = dialect.insert(self.table).values(key=key, number=1).on_conflict_do_nothing()
        return connection.execute(statement.returning(self.table.c.id)).first() is not None

    def number(self, key: str) -> Select[int]:
        """Describe the look at a row."""
        return select(self.table.c.number).where(self.table.c.key == key)

    def set_number(self, connection: Connection, key: str, number: int) -> None:
        """Change a row, and so lock it."""
        connection.execute(update(self.table).where(self.table.c.key == key).values(number=number))


def _require(*, is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise NotKeptError(otherwise)


def _after_a_wait(holding: Callable[[Connection], object], waiting: Callable[[Connection], T], bench: Bench) -> T:
    """Let one transaction hold something and another ask for it: it has to wait for the commit. Give what it got."""

    def wait() -> T:
        with bench.writing() as connection:
            return waiting(connection)

    with ThreadPoolExecutor(1) as other:
        with bench.writing() as connection:
            holding(connection)
            asked: Future[T] = other.submit(wait)
            time.sleep(_PAUSE_SECONDS)
            has_waited = not asked.done()
        # In the block above an error of the other transaction would end this one, which has nothing to do with it.
        got = asked.result()
    _require(is_so=has_waited, otherwise="the second transaction did not wait for the first")
    return got


# --- what is tried ---


def _reads_again_after_a_lock(bench: Bench) -> None:
    bench.add("lock")
    number = bench.number("lock")

    def look_twice(connection: Connection) -> tuple[int, int]:
        # On PostgreSQL this read comes before the other commit, and must not decide what the next ones see.
        connection.execute(number)
        return connection.scalars(number.with_for_update()).one(), connection.scalars(number).one()

    seen = _after_a_wait(lambda connection: bench.set_number(connection, "lock", 2), look_twice, bench)
    _require(
        is_so=seen == (2, 2), otherwise=f"the second transaction saw {seen} after the lock, not what was committed"
    )


def _waits_for_a_key(bench: Bench) -> None:
    is_new = _after_a_wait(
        lambda connection: bench.insert_unless_there(connection, "key"),
        lambda connection: bench.insert_unless_there(connection, "key"),
        bench,
    )
    _require(is_so=not is_new, otherwise="two transactions have inserted the same key")


def _is_gone_after_a_rollback(bench: Bench) -> None:
    with bench.engine.connect() as connection:
        transaction = connection.begin()
        bench.insert(connection, "undone")
        transaction.rollback()
    with bench.writing() as connection:
        is_gone = bench.insert_unless_there(connection, "undone")
    _require(is_so=is_gone, otherwise="what was rolled back is still there")


def _has_savepoints(bench: Bench) -> None:
    with bench.writing() as connection:
        bench.insert(connection, "kept")
        with suppress(IntegrityError), connection.begin_nested():
            bench.insert(connection, "lost")
            bench.insert(connection, "kept")
        bench.insert(connection, "kept too")
    with bench.reading.begin() as connection:
        keys = select(bench.table.c.key).where(bench.table.c.key.in_(("kept", "lost", "kept too")))
        found = set(connection.scalars(keys))
    _require(
        is_so=found == {"kept", "kept too"}, otherwise="a rollback to a savepoint took back too little, or too much"
    )


def _sees_what_was_committed(bench: Bench) -> None:
    for round_ in range(_ROUNDS):
        bench.add(f"seen {round_}")
        with bench.reading.begin() as one, bench.reading.begin() as other:
            for connection in (one, other):
                is_there = connection.execute(bench.number(f"seen {round_}")).first() is not None
                _require(is_so=is_there, otherwise="a read that began after a commit did not see it")


def _reads_one_snapshot(bench: Bench) -> None:
    bench.add("snapshot")
    with bench.reading.begin() as connection:
        before = connection.execute(bench.number("snapshot")).scalar_one()
        with bench.writing() as other:
            bench.set_number(other, "snapshot", 2)
        after = connection.execute(bench.number("snapshot")).scalar_one()
    _require(is_so=before == after, otherwise="a read saw a commit that came after it had begun")


def _numbers_rise(bench: Bench) -> None:
    ids = []
    with bench.connections(2) as connections:
        for round_ in range(_ROUNDS):
            for place, connection in enumerate(connections):
                with connection.begin():
                    ids += [bench.insert(connection, f"number {round_} {place} {each}") for each in range(2)]
    _require(is_so=ids == sorted(set(ids)), otherwise="a later row has been given a lower number")


def _tables_are_taken_back(bench: Bench) -> None:
    other = Table(f"{bench.table.name}_undone", MetaData(), Column("id", Integer, primary_key=True))
    with bench.engine.connect() as connection:
        transaction = connection.begin()
        other.create(connection)
        transaction.rollback()
        is_there = inspect(connection).has_table(other.name)
        connection.rollback()
        if is_there:
            with bench.writing() as cleaning:
                other.drop(cleaning)
    _require(is_so=not is_there, otherwise="a table that was made in a transaction is there after its rollback")


def _keeps_every_character(bench: Bench) -> None:
    bench.add(_CHARACTERS)
    with bench.reading.begin() as connection:
        is_there = connection.execute(bench.number(_CHARACTERS)).first() is not None
    _require(is_so=is_there, otherwise="a text came back as another")


def _advisory_locks_exclude(bench: Bench) -> None:
    key = secrets.randbits(62)
    ask = text(f"SELECT pg_try_advisory_xact_lock({key})")
    with bench.writing() as one, bench.writing() as other:
        got = [connection.execute(ask).scalar_one() for connection in (one, other)]
    with bench.writing() as connection:
        got.append(connection.execute(ask).scalar_one())
    _require(is_so=got[:2] == [True, False], otherwise="two transactions have the same advisory lock")
    _require(is_so=got[2], otherwise="an advisory lock is still held after its transaction")


def _commits_warn(bench: Bench) -> None:
    """Have a trigger warn at COMMIT: in that way PostgreSQL tells of a standby that did not confirm it."""
    name, when = f"{bench.table.name}_warned", "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
    body = "$$BEGIN RAISE WARNING 'probe'; RETURN NULL; END$$"
    made = (
        f"CREATE TABLE {name} (id int)",
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS {body}",
        f"CREATE CONSTRAINT TRIGGER warn AFTER INSERT ON {name} {when} EXECUTE FUNCTION {name}()",
        f"INSERT INTO {name} VALUES (1)",  # noqa: S608 -- a name of our own
    )
    has_warned = False
    try:
        with bench.writing() as connection:
            for statement in made:
                connection.execute(text(statement))
    except DBAPIError as error:
        has_warned = isinstance(error.orig, CommitNotConfirmedError)
        if not has_warned:
            raise
    finally:
        with bench.writing() as connection:
            connection.execute(text(f"DROP TABLE IF EXISTS {name}"))
            connection.execute(text(f"DROP FUNCTION IF EXISTS {name}()"))
    _require(is_so=has_warned, otherwise="a warning at COMMIT did not arrive")


@dataclass(frozen=True)
class Property:
    """One property: its name and what it says, and what raises `NotKeptError` where the engine lacks it."""

    name: str
    sentence: str
    run: Callable[[Bench], None]
    only_postgresql: bool = False


#: In SQLite one writer at a time has the whole file, which is lock enough, and no standby confirms a commit.
PROPERTIES = (
    Property(
        "row_locks",
        "a transaction that needs a locked row waits, and then reads what was committed",
        _reads_again_after_a_lock,
    ),
    Property(
        "unique_keys", "of two transactions that insert one key, the second waits, and finds it there", _waits_for_a_key
    ),
    Property("rollback", "what is rolled back is gone", _is_gone_after_a_rollback),
    Property("savepoints", "an error in a savepoint takes back that alone", _has_savepoints),
    Property("visibility", "a read over any connection sees what was committed before it", _sees_what_was_committed),
    Property("snapshots", "a read-only transaction sees one state of the database", _reads_one_snapshot),
    Property("identity", "a later row has a higher number, over any connection", _numbers_rise),
    Property("schema_changes", "a table that is made in a transaction goes with it", _tables_are_taken_back),
    Property("characters", "a text may hold any character", _keeps_every_character),
    Property(
        "advisory_locks",
        "an advisory lock excludes others until its transaction ends",
        _advisory_locks_exclude,
        only_postgresql=True,
    ),
    Property(
        "commit_warnings",
        "a warning at COMMIT arrives, so that no unconfirmed commit is acknowledged",
        _commits_warn,
        only_postgresql=True,
    ),
)
