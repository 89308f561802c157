"""Which body may have been signed, where another arrived."""

import base64
import binascii
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import product

from app.alipay.delivery import BODY_BYTES_MAX
from app.alipay.diagnosis.changes import Alternative, Change, distinct, in_order
from app.alipay.diagnosis.json_forms import COMPACT, LAYOUTS, SPACED, JsonForms

#: To write JSON again costs a hundred times what a hash does, and to replace each character of some kind a tenth of
#: that, so large bodies are written fewer times. A notification has some 300 bytes, which leaves room for more ways
#: than there are. By what each comma weighs beside the characters: scalars cost more than those.
_TEXT, _JSON = 1, 8
_WRITTEN_BYTES_MAX = {_TEXT: 2 * 1024 * 1024, _JSON: 512 * 1024}
#: Two changes one after the other are tried from among as many of each.
_FIRST_CHANGES_MAX = 24

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NON_ASCII = re.compile(r"[^\x00-\x7f]")
_HTML = re.compile(r"[<>&='+]")
_ESCAPE = re.compile(r"\\(?:u(?P<code>[0-9a-fA-F]{4})|.)", re.DOTALL)
_ASCII_END = 0x80
_BASE64 = re.compile(rb"[A-Za-z0-9+/=_\s-]{16,}")
_LINE_ENDS = (b"\n", b"\r\n", b"\r")
#: zlib, gzip and raw deflate.
_WINDOW_BITS = (zlib.MAX_WBITS, zlib.MAX_WBITS | 16, -zlib.MAX_WBITS)

_Rewriting = Callable[[bytes], Iterator[bytes]]


class Bodies:
    """The bodies that may have been signed: by one change each, and by two."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._left = dict(_WRITTEN_BYTES_MAX)
        #: The likelier ones, which are combined with other changes as well.
        self.likely = self._likely(body)

    def rarer(self) -> Iterator[Alternative[bytes]]:
        """Give the bodies by one change that are tried by themselves only."""
        return distinct(self._body, self._rewritten(self._body, _RARER_REWRITINGS))

    def twice_changed(self) -> Iterator[Alternative[bytes]]:
        """Give the bodies by two changes, each of them likely. What happened last is undone first."""
        pairs = [
            (max(rank, other_rank), Alternative(first.value, in_order((*last.changes, *first.changes))))
            for rank, last in enumerate(self.likely[:_FIRST_CHANGES_MAX])
            for other_rank, first in enumerate(self._likely(last.value))
            if first.changes != last.changes
        ]
        pairs.sort(key=lambda pair: pair[0])
        seen = {self._body, *(each.value for each in self.likely)}
        for _, pair in pairs:
            if pair.value not in seen:
                seen.add(pair.value)
                yield pair

    def _likely(self, body: bytes) -> list[Alternative[bytes]]:
        """Take turns among the changes, so that the likeliest of each comes before the second of any."""
        found = list(distinct(body, self._rewritten(body, _REWRITINGS)))
        turns = Counter[tuple[Change, ...]]()
        ranked = []
        for each in found:
            ranked.append((turns[each.changes], each))
            turns[each.changes] += 1
        return [each for _, each in sorted(ranked, key=lambda pair: pair[0])]

    def _rewritten(
        self, body: bytes, rewritings: tuple[tuple[Change, int, _Rewriting], ...]
    ) -> Iterator[Alternative[bytes]]:
        for change, weight, rewriting in rewritings:
            if weight and self._left[weight] < 0:
                continue
            for each in rewriting(body):
                if weight:
                    self._left[weight] -= len(each) + weight * body.count(b",")
                    if self._left[weight] < 0:
                        break
                yield Alternative(each, (change,))


def _final_newlines(body: bytes) -> Iterator[bytes]:
    if body.endswith(b"\n"):
        yield body[:-1].removesuffix(b"\r")
        yield body[:-1]
    yield body.rstrip()
    yield body.strip()
    yield body + b"\n"
    yield body + b"\r\n"


def _line_ends(body: bytes) -> Iterator[bytes]:
    unix = body.replace(b"\r\n", b"\n")
    yield unix
    yield unix.replace(b"\n", b"\r\n")
    yield unix.replace(b"\r", b"\n")


def _byte_order_marks(body: bytes) -> Iterator[bytes]:
    yield body.removeprefix(_BYTE_ORDER_MARK)
    yield _BYTE_ORDER_MARK + body


def _charsets(body: bytes) -> Iterator[bytes]:
    """Undo a change of the charset, and a decoding in the wrong one."""
    return _recoded(body, ("utf-8", "gb18030", "latin-1"), ("utf-8", "gb18030", "latin-1", "cp1252"))


def _rarer_charsets(body: bytes) -> Iterator[bytes]:
    arrived = ("utf-8", "gb18030", "latin-1", "cp1252", "utf-16", "big5", "shift_jis")
    return _recoded(body, arrived, ("utf-8", "gbk", "utf-16-le", "utf-16-be", "utf-16", "big5", "shift_jis"))


def _recoded(body: bytes, arrived: Iterable[str], signed: Iterable[str]) -> Iterator[bytes]:
    for before, after in product(arrived, signed):
        try:
            yield body.decode(before).encode(after)
        except UnicodeError:
            continue


def _base64_bodies(body: bytes) -> Iterator[bytes]:
    if _BASE64.fullmatch(body):
        encoded = b"".join(body.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
        try:
            yield base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
        except binascii.Error:
            return
    yield base64.b64encode(body)
    yield base64.urlsafe_b64encode(body)
    yield base64.urlsafe_b64encode(body).rstrip(b"=")


def _compressed(body: bytes) -> Iterator[bytes]:
    for window_bits in _WINDOW_BITS:
        unpacking = zlib.decompressobj(window_bits)
        try:
            unpacked = unpacking.decompress(body, BODY_BYTES_MAX)
        except zlib.error:
            continue
        if unpacking.eof:
            yield unpacked


def _texts(body: bytes, *rewritings: Callable[[str], str]) -> Iterator[bytes]:
    """Rewrite the text of a body, where it is one."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return
    for rewrite in rewritings:
        try:
            yield rewrite(text).encode()
        except UnicodeError:
            # Half a character, escaped, is none that can be written out.
            continue


def _slashes(body: bytes) -> Iterator[bytes]:
    return _texts(
        body,
        lambda text: _ESCAPE.sub(lambda escape: "/" if escape[0] == "\\/" else escape[0], text),
        lambda text: re.sub(r"(?<!\\)/", r"\\/", text),
    )


def _escapes(body: bytes) -> Iterator[bytes]:
    return _texts(
        body,
        lambda text: _escaped(_NON_ASCII, text, "04x"),
        lambda text: _escaped(_NON_ASCII, text, "04X"),
        lambda text: _unescaped(text, lambda code: code >= _ASCII_END),
        lambda text: _unescaped(text, lambda _: True),
        lambda text: _unescaped(text, lambda code: code < _ASCII_END),
        lambda text: _escaped(_HTML, text, "04x"),
        lambda text: _ESCAPE.sub(lambda escape: escape[0].lower() if escape["code"] else escape[0], text),
        lambda text: _ESCAPE.sub(lambda escape: f"\\u{escape['code'].upper()}" if escape["code"] else escape[0], text),
    )


def _escaped(characters: re.Pattern[str], text: str, form: str) -> str:
    def escape(character: str) -> str:
        units = character.encode("utf-16-be")
        return "".join(f"\\u{int.from_bytes(units[at : at + 2]):{form}}" for at in range(0, len(units), 2))

    return text.translate({ord(each): escape(each) for each in set(characters.findall(text))})


def _unescaped(text: str, wanted: Callable[[int], bool]) -> str:
    def unescape(escape: re.Match[str]) -> str:
        code = int(escape["code"], 16) if escape["code"] else 0
        # A quote, a backslash and a control character must stay escaped.
        return chr(code) if code >= ord(" ") and chr(code) not in '"\\' and wanted(code) else escape[0]

    # Two halves of a character become one.
    return _ESCAPE.sub(unescape, text).encode("utf-16", "surrogatepass").decode("utf-16")


def _layouts(body: bytes) -> Iterator[bytes]:
    forms = JsonForms.read(body)
    if forms is not None:
        yield from (forms.in_layout(layout).encode() for layout in LAYOUTS)


def _orders(body: bytes) -> Iterator[bytes]:
    forms = JsonForms.read(body)
    if forms is not None:
        yield from (each.encode() for each in forms.reordered((COMPACT, SPACED, LAYOUTS[2])))


def _without_a_field(body: bytes) -> Iterator[bytes]:
    forms = JsonForms.read(body)
    if forms is not None:
        yield from (each.encode() for each in forms.without_a_field((COMPACT, SPACED)))


def _empty(_body: bytes) -> Iterator[bytes]:
    yield b""


#: What each change does, undone, and what each comma weighs where text or JSON is written. Where two give the same
#: body, the first is named.
_REWRITINGS: tuple[tuple[Change, int, _Rewriting], ...] = (
    (Change.FINAL_NEWLINE, 0, _final_newlines),
    (Change.LINE_ENDS, 0, _line_ends),
    (Change.BYTE_ORDER_MARK, 0, _byte_order_marks),
    (Change.COMPRESSED, 0, _compressed),
    (Change.EMPTY_BODY, 0, _empty),
    (Change.SLASH_ESCAPED, _TEXT, _slashes),
    (Change.NON_ASCII_ESCAPED, _TEXT, _escapes),
    (Change.JSON_REWRITTEN, _JSON, _layouts),
    (Change.BASE64_BODY, 0, _base64_bodies),
    (Change.CHARSET, 0, _charsets),
    (Change.FIELD_ADDED, _JSON, _without_a_field),
)
_RARER_REWRITINGS: tuple[tuple[Change, int, _Rewriting], ...] = (
    (Change.CHARSET, 0, _rarer_charsets),
    (Change.JSON_REWRITTEN, _JSON, _orders),
)
