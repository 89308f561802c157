"""What is changed in a unit of work is written, and nothing else writes history."""

import ast
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Column, TypeDecorator, inspect, select

import app
from app import tokens
from app.models import AccessToken, Authorization, Base, Call, InboxEntry
from app.secret import Secret
from app.simulator.draft import token_created
from app.unit_of_work import UnitOfWork
from app.vocabulary import CallKind
from tests.builders import CLIENT_ID
from tests.integration.stage import Stage

TOKEN = "token-1"
MAKES_A_TRANSITION = {"Transition", "plain(Transition)"}


def authorization_of(work: UnitOfWork) -> Authorization:
    found = work.authorization(CLIENT_ID, "s-1")
    assert found is not None
    return found


def token_of(work: UnitOfWork) -> AccessToken:
    found = work.token(CLIENT_ID, tokens.index(work.vault, CLIENT_ID, Secret(TOKEN)))
    assert found is not None
    return found


def entry_of(work: UnitOfWork) -> InboxEntry:
    found = work.lock_entry(1)
    assert found is not None
    return found


def call_of(work: UnitOfWork) -> Call:
    found = work.newest_call(authorization_of(work), CallKind.CONSULT)
    assert found is not None
    return found


LOADED: dict[type[Base], Callable[[UnitOfWork], Base]] = {
    Authorization: authorization_of,
    AccessToken: token_of,
    InboxEntry: entry_of,
    Call: call_of,
}
CASES = [
    pytest.param(model, column.key, id=f"{model.__tablename__}.{column.key}")
    for model in LOADED
    for column in inspect(model).columns
    if not column.primary_key
]


#: What a column of a type may hold, and does not here.
OTHERS = {int: 7, str: "more", bytes: b"more", datetime: datetime(2030, 1, 1, tzinfo=UTC)}


def another(column: Column[Any], before: object, *, authorization_id: UUID) -> object:
    if column.foreign_keys:
        return authorization_id
    if isinstance(before, bool):
        return not before
    of_type = column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type
    return OTHERS[of_type.python_type]


@pytest.mark.parametrize(("model", "name"), CASES)
def test_every_column_of_a_loaded_row_that_is_changed_is_written(stage: Stage, model: type[Base], name: str) -> None:
    stage.begin_call(stage.consult("s-1", flow="direct"))
    stage.notify(token_created("s-1", TOKEN))
    other = stage.consult("s-2")
    column = inspect(model).columns[name]
    with stage.database.engine.begin() as connection:
        work = UnitOfWork(connection, stage.vault)
        token_index = tokens.index(stage.vault, CLIENT_ID, Secret(TOKEN))
        work.lock_and_load(states=[(CLIENT_ID, "s-1")], token_keys=[(CLIENT_ID, token_index)])
        row = LOADED[model](work)
        before = dict(vars(row))
        setattr(row, name, changed := another(column, before[name], authorization_id=other))
        work.close()
        key = [each == before[str(each.key)] for each in inspect(model).primary_key]
        after = connection.execute(select(*inspect(model).columns).where(*key)).one()._mapping  # noqa: SLF001 -- its public name
    assert changed != before[name]
    assert dict(after) == before | {name: changed}


def test_only_the_unit_of_work_appends_to_history() -> None:
    root = Path(app.__path__[0])
    makers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).removeprefix("models.") in MAKES_A_TRANSITION
    }
    assert makers == {"unit_of_work.py"}
