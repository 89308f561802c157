"""Read the text of a JSON document from the wire: UTF-8, one byte order mark passed over, nesting bounded.

How deep a parser gets depends on the stack it is called on. The same bytes must be understood, or not, at the endpoint
and when they are processed again, so the limit is a fixed one and is counted in the text.
"""

import re
from itertools import accumulate

#: A notification nests two levels deep, an answer of Alipay's three. Every parser in use reads ten times as many, on
#: any stack that it is called on.
NESTING_MAX = 64

#: An unterminated string reaches to the end, so that the whole text is walked through once, whatever is in it.
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_NEITHER_OPENS_NOR_CLOSES = re.compile(r"[^\[\]{}]+")
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
    try:
        text = body.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        rule = "not UTF-8"
        raise UnreadableJsonError(rule) from None
    if _nests_too_deeply(text):
        rule = f"nested deeper than {NESTING_MAX} levels"
        raise UnreadableJsonError(rule)
    return text


def _nests_too_deeply(text: str) -> bool:
    """Count how deep brackets nest, those within strings left out."""
    # Nearly every text has too few of them to be too deep, and counting is much quicker than looking.
    if text.count("{") + text.count("[") <= NESTING_MAX:
        return False
    brackets = _NEITHER_OPENS_NOR_CLOSES.sub("", _STRING.sub("", text))
    return max(accumulate(_STEPS[bracket] for bracket in brackets), default=0) > NESTING_MAX
