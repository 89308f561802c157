"""An error in a pipeline is raised as it would be without one, whatever statements were sent after it."""

import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Executable, Integer, literal_column, select
from sqlalchemy.exc import DBAPIError

from app.database import Database, is_transient
from app.database.pipeline import Statement, execute

GOOD = select(literal_column("1", Integer).label("one"))
BAD = select(literal_column("1 / (CASE WHEN now() IS NULL THEN 1 ELSE 0 END)", Integer).label("one"))


@pytest.fixture
def database(postgresql_url: str) -> Iterator[Database]:
    database = Database(postgresql_url)
    yield database
    database.close()


@pytest.fixture(params=[None, 0, 1, 2, 3])
def slow_thread(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is held up before it leaves the pipeline, or before it sends one of four statements.

    By then, answers have come in.
    """
    execute, leave, sent = psycopg.Cursor.execute, psycopg.Pipeline.__exit__, [0]

    def execute_late(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 -- the driver's own
        if sent[0] == request.param:
            time.sleep(0.01)
        sent[0] += 1
        return execute(*arguments, **options)

    def leave_late(*arguments: Any) -> None:  # noqa: ANN401 -- the driver's own
        time.sleep(0.01)
        leave(*arguments)

    monkeypatch.setattr(psycopg.Cursor, "execute", execute_late)
    if request.param is None:
        monkeypatch.setattr(psycopg.Pipeline, "__exit__", leave_late)


@pytest.mark.usefixtures("slow_thread")
@pytest.mark.parametrize("place", [0, 1, 3])
def test_the_error_is_that_of_the_statement_that_broke_not_of_those_skipped_after_it(
    database: Database, place: int
) -> None:
    statements = [GOOD] * 4
    statements[place] = BAD
    with database.engine.connect() as connection, pytest.raises(DBAPIError) as told:
        execute(connection, *[a_request(each) for each in statements])
    assert type(told.value.orig).__name__ == "DivisionByZero"
    assert not is_transient(told.value)


def test_a_connection_can_be_used_after_a_pipeline_that_broke(database: Database) -> None:
    for _ in range(3):
        with database.engine.connect() as connection:
            with pytest.raises(DBAPIError):
                execute(connection, a_request(GOOD), a_request(BAD), a_request(GOOD))
            connection.rollback()
            assert [answer.rows for answer in execute(connection, a_request(GOOD), a_request(GOOD))] == [[(1,)], [(1,)]]


def a_request(statement: Executable) -> Statement:
    return Statement(lambda _: statement, lambda _: {})
