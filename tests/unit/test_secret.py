"""A secret is shown only on purpose."""

import logging
from typing import Any

import pytest

from app.secret import Secret


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(repr(Secret("28100103")), id="repr"),
        pytest.param(str(Secret("28100103")), id="str"),
        pytest.param(f"{Secret('28100103')}", id="f-string"),
        pytest.param(f"{Secret('28100103')!r}", id="f-string with repr"),
        pytest.param("%s" % Secret("28100103"), id="percent sign"),  # noqa: UP031 -- it is what is tested
        pytest.param(repr([Secret("28100103")]), id="inside a list"),
    ],
)
def test_secret_is_masked_however_it_is_shown(shown: str) -> None:
    assert "28100103" not in shown
    assert "Secret(***)" in shown


def test_secret_is_masked_in_a_padded_column() -> None:
    assert f"{Secret('28100103'):>13}" == "  Secret(***)"


def test_secret_is_masked_in_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger(__name__).warning("token %s", Secret("28100103"))
    assert caplog.messages == ["token Secret(***)"]


def test_secret_is_revealed_by_name() -> None:
    assert Secret("28100103").reveal() == "28100103"


def test_secrets_of_the_same_value_are_equal_and_stand_for_each_other_in_a_set() -> None:
    assert Secret("a") == Secret("a")
    assert {Secret("a"), Secret("a")} == {Secret("a")}


def test_secrets_of_different_values_differ() -> None:
    assert Secret("a") != Secret("b")


def test_secret_is_not_equal_to_its_own_text() -> None:
    assert Secret("a") != "a"


def test_secret_may_be_any_text_that_json_can_carry() -> None:
    assert Secret("\ud800\u0000é") == Secret("\ud800\u0000é")


def test_secret_cannot_be_changed() -> None:
    secret: Any = Secret("a")
    with pytest.raises(AttributeError):
        secret._value = "b"  # noqa: SLF001 -- the attempt is what is tested
