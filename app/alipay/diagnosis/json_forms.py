"""Write a JSON text again in other forms, every string and number exactly as it is written."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any, NamedTuple

from app.alipay.json_text import UnreadableJsonError, json_text

#: A value of two to four fields is tried in every order; of more, in those that libraries make.
_PERMUTED_MAX = 4
#: Fields that are left out one by one.
_FIELDS_MAX = 24

_SCALAR = re.compile(r'"(?:[^"\\]|\\.)*+"|[^\s\[\]{},:"]+', re.DOTALL)
_PLACEHOLDER = re.compile(r'"([0-9]+)"')


class Layout(NamedTuple):
    """Where a serializer puts blanks and lines."""

    indent: int | str | None
    item_separator: str
    key_separator: str


COMPACT = Layout(None, ",", ":")
SPACED = Layout(None, ", ", ": ")
#: JSON.stringify and Gson, Jackson, Python, tabs, and rarer ones.
LAYOUTS = (
    COMPACT,
    SPACED,
    Layout(2, ",", ": "),
    Layout(4, ",", ": "),
    Layout("\t", ",", ": "),
    Layout(2, ",", " : "),
    Layout(None, ",", ": "),
    Layout(None, ", ", ":"),
    Layout(None, ", ", " : "),
    Layout(0, ",", ": "),
)

#: The order of the fields in Alipay's samples.
_SAMPLE_ORDER = (
    *("authorizationNotifyType", "authClientId", "accessToken", "authState", "authCode", "reason", "userLoginId"),
    *("userId", "result", "resultCode", "resultMessage", "resultStatus", "passThroughInfo"),
)


class JsonForms:
    """A JSON object, to be written in other layouts and orders, or without one of its fields."""

    def __init__(self, text: str, tree: dict[str, Any], scalars: Sequence[str]) -> None:
        self._text = text
        # What is around the document stays as it is: to change that is another change.
        self._before, self._after = text[: text.index("{")], text[text.rindex("}") + 1 :]
        #: The document with a number in the place of each key and scalar, which leads to how it is written.
        self._tree = tree
        self._scalars = scalars

    @classmethod
    def read(cls, body: bytes) -> "JsonForms | None":
        """Read a JSON object; `None` of anything else."""
        try:
            text = json_text(body)
            json.loads(text, parse_int=float)
        except (UnreadableJsonError, ValueError):
            return None
        scalars: list[str] = []

        def placeholder(scalar: re.Match[str]) -> str:
            scalars.append(scalar[0])
            return f'"{len(scalars) - 1}"'

        tree = json.loads(_SCALAR.sub(placeholder, text))
        return cls(body.decode(), tree, scalars) if isinstance(tree, dict) else None

    def in_layout(self, layout: Layout) -> str:
        """Write it in another layout, in the order that it has."""
        return self._written(self._tree, layout)

    def reordered(self, layouts: Sequence[Layout]) -> Iterator[str]:
        """Write it with the keys of each object in other orders: sorted, as in Alipay's samples, or any."""
        by_name: Callable[[str], object] = self._name
        sample: Callable[[str], object] = self._place_in_samples
        uniform = [self._in_order(self._tree, key) for key in (by_name, sample)]
        for tree in (*uniform, *self._permuted()):
            yield from (self._written(tree, layout) for layout in layouts)

    def without_a_field(self, layouts: Sequence[Layout]) -> Iterator[str]:
        """Write it without one field, of its own or of an object in it: laid out as it is, where that is known."""
        own = [layout for layout in LAYOUTS if self._written(self._tree, layout) == self._text]
        for tree in self._pruned():
            yield from (self._written(tree, layout) for layout in own or layouts)

    def _pruned(self) -> Iterator[dict[str, Any]]:
        left = _FIELDS_MAX
        for key, value in reversed(self._tree.items()):
            if left == 0:
                return
            left -= 1
            yield {name: each for name, each in self._tree.items() if name != key}
            if not isinstance(value, dict):
                continue
            for inner in list(value)[:left]:
                left -= 1
                yield {**self._tree, key: {name: each for name, each in value.items() if name != inner}}

    def _permuted(self) -> Iterator[dict[str, Any]]:
        """Change the order of its own fields, and that of those of the one object in it: a result has three."""
        inner = [key for key, value in self._tree.items() if isinstance(value, dict)]
        outers = list(permutations(self._tree.items())) if len(self._tree) <= _PERMUTED_MAX else self._rotated()
        for outer in outers:
            tree = dict(outer)
            if len(inner) == 1 and len(tree[inner[0]]) <= _PERMUTED_MAX:
                for fields in permutations(tree[inner[0]].items()):
                    yield {**tree, inner[0]: dict(fields)}
            else:
                yield tree

    def _rotated(self) -> list[tuple[tuple[str, Any], ...]]:
        """Give the orders in which one field was moved to the front or to the end, and the reverse."""
        items = tuple(self._tree.items())[:_FIELDS_MAX]
        rest = tuple(self._tree.items())[_FIELDS_MAX:]
        moved = [
            order
            for index in range(len(items))
            for order in (
                (items[index], *items[:index], *items[index + 1 :], *rest),
                (*items[:index], *items[index + 1 :], *rest, items[index]),
            )
        ]
        return [(*items, *rest), (*items, *rest)[::-1], *moved]

    def _in_order(self, value: Any, key: Callable[[str], Any]) -> Any:  # noqa: ANN401 -- JSON
        if isinstance(value, dict):
            return {name: self._in_order(value[name], key) for name in sorted(value, key=key)}
        if isinstance(value, list):
            return [self._in_order(each, key) for each in value]
        return value

    def _name(self, placeholder: str) -> str:
        return str(json.loads(self._scalars[int(placeholder)]))

    def _place_in_samples(self, placeholder: str) -> tuple[int, str]:
        name = self._name(placeholder)
        return (_SAMPLE_ORDER.index(name) if name in _SAMPLE_ORDER else len(_SAMPLE_ORDER), name)

    def _written(self, tree: Mapping[str, Any], layout: Layout) -> str:
        dumped = json.dumps(tree, indent=layout.indent, separators=(layout.item_separator, layout.key_separator))
        written = _PLACEHOLDER.sub(lambda placeholder: self._scalars[int(placeholder[1])], dumped)
        return self._before + written + self._after
