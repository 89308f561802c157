"""A token, a code or a login id that cannot be shown by accident."""

import hmac
from dataclasses import dataclass

from typing_extensions import override


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Secret:
    """Wrap a text whose `repr`, `str` and formatting are masked; only `reveal` gives it away.

    Logs, tracebacks, test reports and f-strings all go through those three, so a leak has to be written on purpose and
    every place that does it can be found by searching for `reveal`.
    """

    _value: str

    def reveal(self) -> str:
        """Return the text itself."""
        return self._value

    @override
    def __repr__(self) -> str:
        return "Secret(***)"

    @override
    def __format__(self, format_spec: str) -> str:
        return format(repr(self), format_spec)

    @override
    def __eq__(self, other: object) -> bool:
        """Compare by value, in a time that does not tell how much of a guess was right."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_octets(self._value), _octets(other._value))

    @override
    def __hash__(self) -> int:
        return hash(self._value)


def _octets(value: str) -> bytes:
    # JSON may carry lone surrogates, which plain UTF-8 refuses to encode.
    return value.encode("utf-8", "surrogatepass")
