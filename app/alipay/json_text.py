"""Read the text of a JSON document from the wire: UTF-8, one byte order mark passed over, nesting bounded.

How deep a parser gets depends on the stack it is called on. The same bytes must be understood, or not, at the endpoint
and when they are processed again, so the limit is a fixed one and is counted in the text.
"""

import re
from collections.abc import Iterator
from itertools import accumulate

#: A notification nests two levels deep, an answer of Alipay's three. Every parser in use reads ten times as many, on
#: any stack that it is called on.
NESTING_MAX = 64

#: An unterminated string reaches to the end, so that the whole text is walked through once, whatever is in it.
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_NEITHER_OPENS_NOR_CLOSES = re.compile(r"[^\[\]{}]+")
#: A string, a bracket, or what is between them: together they are the whole text.
_PIECE = re.compile(rf"{_STRING.pattern}|[\[\]{{}}]|[^\"\[\]{{}}]+", re.DOTALL)
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}


class UnreadableJsonError(ValueError):
    """Bytes are not the text of a JSON document that is read here. It names the rule, and quotes nothing."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"The body is {rule}.")
        self.rule = rule


def json_text(body: bytes) -> str:
    """Decode bytes to text that any JSON parser may be given.

    A byte order mark is passed over, as RFC 8259 (section 8.1) allows. Raises `UnreadableJsonError`.
    """
    text = _decoded(body)
    if _nests_too_deeply(text):
        rule = f"nested deeper than {NESTING_MAX} levels"
        raise UnreadableJsonError(rule)
    return text


def shallow_json_text(body: bytes) -> str:
    """Decode bytes as `json_text` does, with null in the place of each value that nests deeper than that allows.

    Older releases read, and acknowledged, some hundred levels more. What a notification needs is in the first two, so
    that nothing is lost by passing over the rest; that the rest is JSON was found when it was acknowledged. Raises
    `UnreadableJsonError`.
    """
    text = _decoded(body)
    return "".join(_first_levels(text)) if _nests_too_deeply(text) else text


def _decoded(body: bytes) -> str:
    try:
        return body.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        rule = "not UTF-8"
        raise UnreadableJsonError(rule) from None


def _first_levels(text: str) -> Iterator[str]:
    depth = 0
    for piece in _PIECE.findall(text):
        step = _STEPS.get(piece, 0)
        if step > 0 and depth == NESTING_MAX:
            yield "null"
        # An opening bracket is of the level that it opens, a closing one of the level that it closes.
        if max(depth, depth + step) <= NESTING_MAX:
            yield piece
        depth += step


def _nests_too_deeply(text: str) -> bool:
    """Count how deep brackets nest, those within strings left out."""
    # Nearly every text has too few of them to be too deep, and counting is much quicker than looking.
    if text.count("{") + text.count("[") <= NESTING_MAX:
        return False
    brackets = _NEITHER_OPENS_NOR_CLOSES.sub("", _STRING.sub("", text))
    return max(accumulate(_STEPS[bracket] for bracket in brackets), default=0) > NESTING_MAX
