"""Words on record: members of an enumeration, and text where a newer release, or a stranger, has others."""

import pytest
from sqlalchemy.engine import Dialect, make_url

from app.database.bulk import insertion
from app.database.pipeline import plain
from app.models import Authorization, Word
from app.state_machine import AuthorizationState
from app.vocabulary import NewerReleaseError, Outcome, known

DIALECTS: list[Dialect] = [make_url(f"{name}://").get_dialect()() for name in ("sqlite", "postgresql+psycopg")]

each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


@each_dialect
@pytest.mark.parametrize("outcome", Outcome)
def test_a_member_is_stored_as_its_text_and_read_as_the_member(dialect: Dialect, outcome: Outcome) -> None:
    word = Word(Outcome)
    stored = word.process_bind_param(outcome, dialect)
    assert stored == outcome.value
    assert word.process_result_value(outcome.value, dialect) is outcome


@each_dialect
@pytest.mark.parametrize("text", ["deferred", "APPLIED", "", "half \ud800", "back\\slash", "nul \x00"])
def test_a_word_that_is_no_member_comes_back_as_the_same_plain_text(dialect: Dialect, text: str) -> None:
    word = Word(Outcome)
    stored = word.process_bind_param(text, dialect)
    assert stored is not None
    assert "\x00" not in stored
    read = word.process_result_value(stored, dialect)
    assert (type(read), read) == (str, text)
    assert read not in set(Outcome)


@each_dialect
def test_no_word_is_none(dialect: Dialect) -> None:
    word = Word(Outcome)
    assert (word.process_bind_param(None, dialect), word.process_result_value(None, dialect)) == (None, None)


def test_two_enumerations_make_two_types_to_the_cache_of_statements() -> None:
    assert Word(Outcome)._static_cache_key != Word(AuthorizationState)._static_cache_key  # noqa: SLF001 -- SQLAlchemy's own
    assert Word(Outcome)._static_cache_key == Word(Outcome)._static_cache_key  # noqa: SLF001 -- as above


@each_dialect
@pytest.mark.parametrize("state", [AuthorizationState.CANCELED, "suspended"])
def test_a_plain_row_is_written_with_the_text_of_its_words(dialect: Dialect, state: AuthorizationState | str) -> None:
    written = insertion(Authorization, [plain(Authorization)(state=state)]).parameters(dialect)
    if dialect.name == "postgresql":
        assert written == {"rows": f'[{{"state": "{state}"}}]'}
    else:
        (row,) = written
        assert row["given_state"] == state


def test_a_word_that_has_to_be_known_is_refused_by_name() -> None:
    assert known(Outcome.APPLIED) is Outcome.APPLIED
    with pytest.raises(NewerReleaseError, match="'deferred'"):
        known("deferred")
