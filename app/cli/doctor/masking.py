"""Show what was signed to people, without what must not be seen: tokens, codes and login ids.

What may be shown is listed, since a field that is not known may hold a secret too.
"""

import json
import re

from app.cli.tables import MASK

_SHOWN_FIELDS = {
    *("authorizationNotifyType", "notifyType", "authState", "authClientId", "customerBelongsTo"),
    *("resultCode", "resultStatus", "resultMessage"),
}
_LITERALS = {"true", "false", "null"}
#: Fields are named so. Another text in the place of a name may be a value.
_NAME = re.compile(r'"[a-z][A-Za-z]{0,39}"')
_SCALAR = re.compile(r'(?P<scalar>"(?:[^"\\]|\\.)*+"|[^\s\[\]{},:"]+)(?P<colon>\s*:)?', re.DOTALL)
_SECRET_PARAMETER = re.compile(
    r"(?<=[?&])(?P<name>[^=&\s]*(?:token|key|secret|sign|code|pass|auth|login|user)[^=&\s]*)=[^&\s]*", re.IGNORECASE
)
_CHARACTERS_MAX = 2000


def masked_content(content: bytes, head_bytes: int) -> str:
    """Write a content that was signed: its head as it is, but for secrets in the query, and its body masked."""
    head = _SECRET_PARAMETER.sub(rf"\g<name>={MASK}", content[:head_bytes].decode("latin-1"))
    return _cut(head) + _cut(_masked_body(content[head_bytes:]))


def _masked_body(body: bytes) -> str:
    text = _text_of_object(body)
    if text is None:
        return f"({len(body)} bytes that are no JSON object in UTF-8)"
    field = ""

    def mask(match: re.Match[str]) -> str:
        nonlocal field
        scalar, colon = match["scalar"], match["colon"]
        if colon is not None:
            field = scalar.strip('"') if _NAME.fullmatch(scalar) else ""
            return (scalar if field else f'"{MASK}"') + colon
        if field in _SHOWN_FIELDS or scalar in _LITERALS:
            return scalar
        return f'"{MASK}"' if scalar.startswith('"') else MASK

    return _SCALAR.sub(mask, text)


def _text_of_object(body: bytes) -> str | None:
    try:
        text = body.decode()
        document = json.loads(text.removeprefix("\ufeff"), parse_int=float)
    except (ValueError, RecursionError):
        return None
    return text if isinstance(document, dict) else None


def _cut(text: str) -> str:
    return text if len(text) <= _CHARACTERS_MAX else f"{text[:_CHARACTERS_MAX]}…"
