"""A word on record is a member of its enumeration, or text where only a newer release has it, however it is read."""

from collections.abc import Iterator
from functools import partial

import pytest
from sqlalchemy import Column, Select, literal_column, select, update
from sqlalchemy.orm import DeclarativeBase, Session

from app.database.pipeline import Statement, execute, table_of
from app.models import Authorization, Base, Call, InboxEntry, Transition, Word
from app.simulator.draft import authcode_created
from tests.integration.stage import Stage

#: One row of each has words, once a code was received and a call was begun.
MODELS: tuple[type[Base], ...] = (Authorization, Transition, InboxEntry, Call)


def word_columns(model: type[DeclarativeBase]) -> list[Column[str]]:
    return [each for each in table_of(model).columns if isinstance(each.type, Word)]


def words_read(stage: Stage, model: type[Base]) -> Iterator[tuple[Column[str], object]]:
    """Every word of one row, the newest, once as the session reads it and once as a plain row has it."""
    newest_first = (each.desc() for each in table_of(model).primary_key)
    # Written out: only statements of keys take parameters in a pipeline.
    newest: Select[Base] = select(model).order_by(*newest_first).limit(literal_column("1"))

    def read(session: Session) -> list[Base]:
        (found,) = execute(session.connection(), Statement(lambda _: newest, lambda _: {}))
        return [session.scalars(newest).one(), *found.of(model)]

    rows = stage.database.run(read)
    assert len(rows) == 2
    for row in rows:
        yield from ((each, getattr(row, each.key)) for each in word_columns(model))


def a_life(stage: Stage) -> None:
    stage.begin_call(stage.consult())
    stage.notify(authcode_created("s-1", "code-1"))


def test_every_table_that_this_is_about_is_looked_at() -> None:
    assert {mapper.class_ for mapper in Base.registry.mappers if word_columns(mapper.class_)} == set(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_a_word_is_a_member_however_its_row_is_read(stage: Stage, model: type[Base]) -> None:
    a_life(stage)
    for column, word in words_read(stage, model):
        assert isinstance(column.type, Word)
        assert isinstance(word, column.type.enumeration), column


@pytest.mark.parametrize("model", MODELS)
def test_a_word_of_a_newer_release_is_text_however_its_row_is_read(stage: Stage, model: type[Base]) -> None:
    a_life(stage)
    newer = {each.key: "a_new_word" for each in word_columns(model)}
    stage.database.run(lambda session: session.execute(update(model).values(newer)))
    for column, word in words_read(stage, model):
        assert (type(word), word) == (str, "a_new_word"), column


def test_words_of_a_newer_release_are_shown(stage: Stage) -> None:
    a_life(stage)
    for model in MODELS:
        for column in word_columns(model):
            stage.database.run(
                partial(Session.execute, statement=update(model).values({column.key: f"a_new_{column.key}"}))
            )
    document = stage.document()
    shown = {**document, **document["call"], **document["history"][-1], **document["notifications"][0]}
    assert {
        name: shown[name] for name in ("state", "flow", "from", "to", "cause", "type", "outcome", "kind", "status")
    } == {
        "state": "a_new_state",
        "flow": "a_new_flow",
        "from": "a_new_from_state",
        "to": "a_new_to_state",
        "cause": "a_new_cause",
        "type": "a_new_type",
        "outcome": "a_new_outcome",
        "kind": "a_new_kind",
        "status": "a_new_status",
    }
