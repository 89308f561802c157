"""Attempts as values: one request to Alipay, first as it is begun, then with its answer.

An attempt is on record before its request goes out, so a begun one names the row that its end is written to.
"""

from dataclasses import dataclass, field
from uuid import UUID

from app.alipay.call import Done, Refused, Unknown
from app.call_statements import AttemptKey
from app.key_locks import AuthStateKey
from app.vocabulary import CallKind

Answer = Done | Refused | Unknown


@dataclass(frozen=True, slots=True)
class BegunAttempt:
    """An attempt that is on record, without its end."""

    call_id: UUID
    number: int
    kind: CallKind
    #: By which its authorization is known.
    auth_state_key: AuthStateKey
    #: The blind index of the code or token that the request names.
    subject_index: bytes | None
    body: bytes = field(repr=False)

    @property
    def key(self) -> AttemptKey:
        """What names it on record."""
        return self.call_id, self.number


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt, and how Alipay answered it."""

    attempt: BegunAttempt
    answer: Answer
