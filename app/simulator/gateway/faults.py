"""Faults on request: what a pretend gateway does wrong, for which operations and how many times."""

import random
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum, auto
from typing import Any, NamedTuple, Self

from app.simulator.gateway.requests import Operation

_EXAMPLE = 'is an object such as {"fault": "cut-after", "operation": "exchange", "times": 1}'
#: How long "slow" and "notify-after" take, unless the fault says otherwise.
_SECONDS = 3.0
#: No caller waits longer, and no thread should.
SECONDS_MAX = 300.0
_TIMES_MAX = 1_000_000_000
_CODE_CHARACTERS_MAX = 64

#: What the operation may be called beside its own name.
_APPLY_TOKEN = "applyToken"  # noqa: S105 -- the name of an operation


class Phase(Enum):
    """What a fault is about. Of each phase a call suffers one fault at most, of the result any number."""

    BEFORE = auto()
    RESULT = auto()
    ANSWER = auto()
    NOTIFICATION = auto()


class _Kind(NamedTuple):
    phase: Phase
    story: str


#: Every fault by its name.
KINDS: Mapping[str, _Kind] = {
    "unknown": _Kind(Phase.BEFORE, "U UNKNOWN_EXCEPTION, or another code; nothing was done"),
    "in-process": _Kind(Phase.BEFORE, "U AUTH_IN_PROCESS; nothing was done"),
    "refused": _Kind(Phase.BEFORE, "F PROCESS_FAIL, or another code; nothing was done"),
    "refused-unsigned": _Kind(Phase.BEFORE, "the same without a signature, as when the caller is rejected"),
    "silent": _Kind(Phase.BEFORE, "no answer; nothing was done"),
    "cut-before": _Kind(Phase.BEFORE, "the connection is cut; nothing was done"),
    "error-500": _Kind(Phase.BEFORE, "500 with HTML; nothing was done"),
    "unknown-done": _Kind(Phase.ANSWER, "the work is done, and the answer is U UNKNOWN_EXCEPTION"),
    "silent-done": _Kind(Phase.ANSWER, "the work is done, and there is no answer"),
    "cut-after": _Kind(Phase.ANSWER, "the work is done, and the connection is cut"),
    "unsigned": _Kind(Phase.ANSWER, "the answer has neither signature nor response-time"),
    "half-signed": _Kind(Phase.ANSWER, "the answer has a response-time and no signature"),
    "bad-signature": _Kind(Phase.ANSWER, "the answer is signed with another key"),
    "replayed-signature": _Kind(Phase.ANSWER, "the answer carries the signature of another call's"),
    "other-client": _Kind(Phase.ANSWER, "the answer is for another client-id, and signed"),
    "slow": _Kind(Phase.ANSWER, "the answer comes seconds later"),
    "huge": _Kind(Phase.ANSWER, "the answer has a megabyte, and is signed"),
    "endless": _Kind(Phase.ANSWER, "the answer never ends"),
    "drip": _Kind(Phase.ANSWER, "the answer comes byte by byte, three a second"),
    "html": _Kind(Phase.ANSWER, "200 with HTML"),
    "not-json": _Kind(Phase.ANSWER, "200 with half of the JSON, signed"),
    "redirect": _Kind(Phase.ANSWER, "302 to the same address"),
    "no-refresh-token": _Kind(Phase.RESULT, "no refreshToken in the answer: of a refresh, the old one stays"),
    "no-expiry": _Kind(Phase.RESULT, "no expiry times in the answer"),
    "lost-notification": _Kind(Phase.NOTIFICATION, "the notification that belongs to it is never sent"),
    "notify-before": _Kind(Phase.NOTIFICATION, "the notification comes before the answer"),
    "notify-after": _Kind(Phase.NOTIFICATION, "the notification comes seconds after the answer"),
}

#: The operations that a fault can be restricted to.
OPERATIONS = (*(each.value for each in Operation), _APPLY_TOKEN)


class BadFaultError(ValueError):
    """A fault is not one that the gateway knows. It names the field and the rule."""

    def __init__(self, name: str, rule: str) -> None:
        super().__init__(f"{name} {rule}.")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is to go wrong, when, and how often."""

    fault: str
    #: `None` for every operation.
    operation: str | None = None
    #: How many times; `None` for ever.
    times: int | None = None
    #: Whether the times are counted for each code, token or authState by itself.
    each: bool = False
    #: The part of the calls that suffer it, by chance.
    share: float = 1.0
    code: str | None = None
    seconds: float = _SECONDS

    @classmethod
    def read(cls, document: object) -> Self:
        """Read a fault from JSON. Raises `BadFaultError`."""
        if not isinstance(document, dict) or "fault" not in document:
            raise BadFaultError("fault", _EXAMPLE)
        unknown = sorted(set(map(str, document)) - set(cls.__slots__))
        if unknown:
            raise BadFaultError(", ".join(unknown), f"is none of {', '.join(cls.__slots__)}")
        fault = cls(**document)
        fault.check()
        return fault

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a fault from the shell: NAME, NAME:OPERATION or NAME:OPERATION:times=2,code=X.

        Raises `BadFaultError`.
        """
        name, _, rest = text.partition(":")
        operation, _, settings = rest.partition(":")
        document: dict[str, Any] = {"fault": name, "operation": operation or None}
        for setting in filter(None, settings.split(",")):
            key, equals, value = setting.partition("=")
            document[key] = _VALUES[key](value) if equals and key in _VALUES else True
        return cls.read(document)

    def as_json(self) -> dict[str, Any]:
        """Write the fault as it is read."""
        return asdict(self)

    @property
    def phase(self) -> Phase:
        """What the fault is about."""
        return KINDS[self.fault].phase

    def concerns(self, operation: Operation) -> bool:
        """Say whether calls of an operation can suffer it."""
        if self.operation == _APPLY_TOKEN:
            return operation in {Operation.EXCHANGE, Operation.REFRESH}
        return self.operation in {None, operation.value}

    def check(self) -> None:
        """Raise `BadFaultError` unless every field is one that a fault can have."""
        if self.fault not in tuple(KINDS):
            raise BadFaultError("fault", f"is one of {', '.join(KINDS)}")
        if self.operation is not None and self.operation not in OPERATIONS:
            raise BadFaultError("operation", f"is one of {', '.join(OPERATIONS)}")
        if self.times is not None and not (_is_number(self.times, int) and 0 < self.times <= _TIMES_MAX):
            raise BadFaultError("times", "is a whole number from 1")
        if not isinstance(self.each, bool):
            raise BadFaultError("each", "is true or false")
        if not (_is_number(self.share, int | float) and 0 < self.share <= 1):
            raise BadFaultError("share", "is a number above 0 and up to 1")
        if not (_is_number(self.seconds, int | float) and 0 <= self.seconds <= SECONDS_MAX):
            raise BadFaultError("seconds", f"is a number up to {SECONDS_MAX:g}")
        if self.code is not None and not _is_code(self.code):
            raise BadFaultError("code", f"is a text of at most {_CODE_CHARACTERS_MAX} characters")


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


_VALUES: Mapping[str, Any] = {
    "times": lambda text: int(text) if text.isdecimal() and len(text) < 10 else text,  # noqa: PLR2004 -- see _TIMES_MAX
    "share": _number,
    "seconds": _number,
    "code": str,
    "each": {"true": True, "false": False}.get,
}


def _is_code(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _CODE_CHARACTERS_MAX


def _is_number(value: object, kind: Any) -> bool:  # noqa: ANN401 -- a type or a union of types
    return isinstance(value, kind) and not isinstance(value, bool)


class Faults:
    """The faults that were asked for and have not been used up. One that was asked for earlier comes first."""

    def __init__(self, faults: Iterable[Fault] = (), *, seed: int | None = None) -> None:
        """Take what goes wrong from the start; with a seed, chance can be repeated."""
        self._lock = threading.Lock()
        self._chance = random.Random(seed)  # noqa: S311 -- no secret
        self._asked: list[tuple[Fault, dict[str, int]]] = []
        self.add(faults)

    def add(self, faults: Iterable[Fault]) -> None:
        """Ask for more."""
        with self._lock:
            self._asked += [(each, {}) for each in faults]

    def clear(self) -> None:
        """Let everything go right."""
        with self._lock:
            self._asked.clear()

    def left(self) -> tuple[Fault, ...]:
        """Say what can still go wrong, with the times that are left."""
        with self._lock:
            return tuple(
                fault
                if fault.times is None or fault.each
                else Fault(**{**asdict(fault), "times": fault.times - used.get("", 0)})
                for fault, used in self._asked
            )

    def take(self, operation: Operation, subject: str) -> tuple[Fault, ...]:
        """Say what goes wrong with this call, and count it."""
        taken: list[Fault] = []
        with self._lock:
            for fault, used in self._asked:
                is_full = fault.phase is not Phase.RESULT and any(_exclude(fault.phase, each.phase) for each in taken)
                counted_as = subject if fault.each else ""
                is_used_up = fault.times is not None and used.get(counted_as, 0) >= fault.times
                if is_full or is_used_up or not fault.concerns(operation) or self._chance.random() >= fault.share:
                    continue
                used[counted_as] = used.get(counted_as, 0) + 1
                taken.append(fault)
            self._asked = [
                (fault, used)
                for fault, used in self._asked
                if fault.times is None or fault.each or used.get("", 0) < fault.times
            ]
        return tuple(taken)


def _exclude(phase: Phase, other: Phase) -> bool:
    """Say whether faults of two phases exclude each other: a call has one answer, with or without the work."""
    answers = {Phase.BEFORE, Phase.ANSWER}
    return phase is other or {phase, other} <= answers
