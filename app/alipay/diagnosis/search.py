"""Search for the content that was signed: candidates by the number of changes, the fewest first, within a bound."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from app.alipay.diagnosis.bodies import Bodies
from app.alipay.diagnosis.changes import Alternative, Change, in_order
from app.alipay.diagnosis.stamps import Stamp

CANDIDATES_MAX = 20_000
#: A hash of so many bytes takes 40 ms.
HASHED_BYTES_MAX = 48 * 1024 * 1024

#: How many of the likeliest are combined with one other change, and with several.
_LINES_WITH_ONE, _LINES_WITH_MORE = 60, 16
_STAMPS_WITH_ONE, _STAMPS_WITH_MORE = 40, 10
_BODIES_WITH_MORE = 24
_PAIRS_WITH_MORE = 100

Line = tuple[str, str]
Candidate = tuple[Alternative[Line], Alternative[Stamp], Alternative[bytes]]


@dataclass(frozen=True, slots=True)
class Found:
    """The content that was signed."""

    content: bytes
    line: Line
    stamp: Stamp
    body: bytes
    changes: tuple[Change, ...]


@dataclass(slots=True)
class Search:
    """The changes that are tried, and how many candidates there were."""

    line: Line
    lines: Sequence[Alternative[Line]]
    stamp: Stamp
    stamps: Sequence[Alternative[Stamp]]
    bodies: Bodies
    body: bytes
    tried: int = 0

    def find(self, fits: Callable[[bytes], bool]) -> Found | None:
        """Try candidates until one fits or the bound is reached."""
        hashed = 0
        for line, stamp, body in islice(self._candidates(), CANDIDATES_MAX):
            content = content_of(line.value, stamp.value, body.value)
            hashed += len(content)
            if hashed > HASHED_BYTES_MAX:
                return None
            self.tried += 1
            if fits(content):
                changes = in_order((*line.changes, *stamp.changes, *body.changes))
                return Found(content, line.value, stamp.value, body.value, changes)
        return None

    def _candidates(self) -> Iterator[Candidate]:
        line, stamp, body = Alternative(self.line), Alternative(self.stamp), Alternative(self.body)
        bodies = self.bodies.likely
        yield line, stamp, body
        # One change.
        yield from ((each, stamp, body) for each in self.lines)
        yield from ((line, each, body) for each in self.stamps)
        yield from ((line, stamp, each) for each in bodies)
        yield from ((line, stamp, each) for each in self.bodies.rarer())
        # Two.
        lines, stamps = self.lines[:_LINES_WITH_ONE], self.stamps[:_STAMPS_WITH_ONE]
        yield from ((one, two, body) for one in lines for two in stamps)
        yield from ((one, stamp, two) for one in lines for two in bodies)
        yield from ((line, one, two) for one in stamps for two in bodies)
        pairs = []
        for pair in self.bodies.twice_changed():
            pairs.append(pair)
            yield line, stamp, pair
        # Three and four.
        lines, stamps = self.lines[:_LINES_WITH_MORE], self.stamps[:_STAMPS_WITH_MORE]
        bodies, pairs = bodies[:_BODIES_WITH_MORE], pairs[:_PAIRS_WITH_MORE]
        yield from ((one, two, three) for one in lines for two in stamps for three in bodies)
        yield from ((one, stamp, two) for one in lines for two in pairs)
        yield from ((line, one, two) for one in stamps for two in pairs)
        yield from ((one, two, three) for one in lines for two in stamps for three in pairs)


def content_of(line: Line, stamp: Stamp, body: bytes) -> bytes:
    """Put together what is signed, as `signature.py` does, of any texts."""
    method, uri = line
    client_id, time = stamp
    return f"{method} {uri}\n{client_id}.{time}.".encode("latin-1", "replace") + body
