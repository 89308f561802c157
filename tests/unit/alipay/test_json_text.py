"""What may be parsed is decided by the bytes alone, never by where they are parsed."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from app.alipay.json_text import NESTING_MAX, UnreadableJsonError, json_text, shallow_json_text
from app.alipay.notification import MalformedNotificationError, parse
from tests.builders import a_body

#: Nearly all the stack that Python allows by default.
FRAMES = 850


def nested(depth: int) -> bytes:
    """A cancellation that nests so deep, in a field that nobody reads."""
    levels = depth - 1
    return a_body()[:-1] + b', "extra": ' + b"[" * levels + b"]" * levels + b"}"


def far_down(frames: int, work: Callable[[], bool]) -> bool:
    return work() if frames == 0 else far_down(frames - 1, work)


def test_body_may_nest_as_deep_as_the_limit_and_no_deeper() -> None:
    assert parse(nested(NESTING_MAX)) == parse(a_body())
    with pytest.raises(MalformedNotificationError) as refusal:
        parse(nested(NESTING_MAX + 1))
    assert (refusal.value.field, refusal.value.rule) == ("body", "nested deeper than 64 levels")


def is_understood(body: bytes) -> bool:
    try:
        parse(body)
    except MalformedNotificationError:
        return False
    return True


@pytest.mark.parametrize("depth", [2, NESTING_MAX, NESTING_MAX + 1, 100, 500, 900, 972, 5_000])
def test_how_deep_a_body_may_nest_does_not_depend_on_where_it_is_parsed(depth: int) -> None:
    body = nested(depth)
    assert far_down(FRAMES, lambda: is_understood(body)) == is_understood(body) == (depth <= NESTING_MAX)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps("[" * 1_000),
        json.dumps({"a": r"\"[{" * 1_000}),
        json.dumps({"[" * 1_000: "]" * 1_000}),
        json.dumps([{}] * 1_000),
    ],
)
def test_brackets_within_strings_or_side_by_side_do_not_nest(text: str) -> None:
    assert json_text(text.encode()) == text


@pytest.mark.parametrize("body", [b'"' + b"[" * 1_000, b'"\\', b"]" * 1_000, b'"\\"' + b"[" * 65])
def test_a_body_that_is_not_json_breaks_nothing(body: bytes) -> None:
    assert json_text(body) == body.decode()


@pytest.mark.parametrize("body", [b'"' * 998 + b"[" * 65, b"]" * 99 + b"[" * 999, b"\\" + b"[" * 65])
def test_a_body_that_nests_too_deeply_is_refused_before_it_is_parsed(body: bytes) -> None:
    with pytest.raises(UnreadableJsonError, match="nested deeper than 64 levels"):
        json_text(body)


JSON = st.recursive(
    st.none() | st.text(alphabet='[]{}"\\ab'),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(alphabet='[]{}"\\'), children, max_size=3)
    ),
    max_leaves=40,
)


def depth_of(value: object) -> int:
    match value:
        case dict():
            return 1 + max(map(depth_of, value.values()), default=0)
        case list():
            return 1 + max(map(depth_of, value), default=0)
        case _:
            return 0


@given(value=JSON, wrapped=st.integers(50, 70))
def test_depth_is_counted_as_a_parser_finds_it(value: object, wrapped: int) -> None:
    for _ in range(wrapped):
        value = [value]
    try:
        json_text(json.dumps(value).encode())
    except UnreadableJsonError:
        assert depth_of(value) > NESTING_MAX
    else:
        assert depth_of(value) <= NESTING_MAX


# --- what was acknowledged before there was a limit ---


@pytest.mark.parametrize("depth", [2, NESTING_MAX, NESTING_MAX + 1, 900, 20_000])
def test_a_body_of_an_older_release_is_read_however_deep_it_nests_on_any_stack(depth: int) -> None:
    body = nested(depth)
    assert parse(body, nesting_bounded=False) == parse(a_body())
    assert far_down(FRAMES, lambda: parse(body, nesting_bounded=False) == parse(a_body()))


def pruned(value: object, depth: int = 0) -> object:
    """The value without what nests deeper than the limit."""
    if not isinstance(value, dict | list):
        return value
    if depth == NESTING_MAX:
        return None
    if isinstance(value, list):
        return [pruned(each, depth + 1) for each in value]
    return {name: pruned(each, depth + 1) for name, each in value.items()}


@given(
    st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)), st.data()
)
def test_only_values_that_nest_too_deeply_are_passed_over(value: object, data: st.DataObject) -> None:
    for kind in data.draw(st.lists(st.booleans(), min_size=55, max_size=75)):
        value = [value, "]}"] if kind else {'"[': value, "after": []}
    assert json.loads(shallow_json_text(json.dumps(value).encode())) == pruned(value)


def test_no_text_breaks_the_passing_over() -> None:
    for text in ("]" * 70 + "[" * 70, "[" * 70 + '"', '{"a":' * 70, "[" * 70 + "}" * 200):
        with pytest.raises(ValueError, match=r"Expecting|Unterminated|Extra"):
            json.loads(shallow_json_text(text.encode()))
