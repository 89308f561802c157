"""The words that are kept on record, beside those of the state machine and of the wire.

A newer release on the same database may write others. Each of those is read as plain text, which equals no member here.
"""

from enum import StrEnum
from typing import TypeVar, cast

E = TypeVar("E", bound=StrEnum)


class Outcome(StrEnum):
    """How an inbox entry ended."""

    APPLIED = "applied"
    REDUNDANT = "redundant"
    PARKED = "parked"
    REJECTED = "rejected"
    FAILED = "failed"
    #: An operator said that a parked entry is not ours. Its redeliveries leave it so.
    DISMISSED = "dismissed"
    MALFORMED = "malformed"


class Reason(StrEnum):
    """Why it ended so. Failed and malformed entries carry their own words instead, dismissed ones an operator's."""

    ALREADY_KNOWN = "already_known"
    SUPERSEDED_TOKEN = "superseded_token"  # noqa: S105 -- a reason, not a password
    UNKNOWN_AUTH_STATE = "unknown_auth_state"
    UNKNOWN_TOKEN = "unknown_token"  # noqa: S105 -- a reason, not a password
    EARLY = "early"
    UNKNOWN_TYPE = "unknown_type"
    ILLEGAL_TRANSITION = "illegal_transition"
    CONTRADICTION = "contradiction"
    UNSUCCESSFUL_RESULT = "unsuccessful_result"
    #: Its user was forgotten before it could be processed.
    ERASED = "erased"


class CauseKind(StrEnum):
    """What made an authorization move: a report by the API or in a shell, a notification, or a call of ours."""

    API = "api"
    SHELL = "shell"
    NOTIFICATION = "notification"
    GATEWAY = "gateway"


class CallKind(StrEnum):
    """What the service asks of Alipay."""

    CONSULT = "consult"
    #: applyToken with an auth code.
    EXCHANGE = "exchange"
    #: applyToken with a refresh token.
    REFRESH = "refresh"
    REVOKE = "revoke"


class CallStatus(StrEnum):
    """How a call stands."""

    #: It is to be made, is being made, or is to be repeated.
    DUE = "due"
    DONE = "done"
    #: Alipay has refused it, or it could not be made in time.
    FAILED = "failed"
    #: Alipay may have done it: no attempt had a final answer.
    UNDETERMINED = "undetermined"
    #: What it was to bring has come otherwise, or is not wanted any more.
    UNNEEDED = "unneeded"


#: These may still end otherwise: they are replayed and never purged.
OPEN_OUTCOMES = frozenset({Outcome.PARKED, Outcome.FAILED})
#: These can be processed again when they are named. What was malformed to one release may be understood by the next.
REPLAYABLE_OUTCOMES = OPEN_OUTCOMES | {Outcome.DISMISSED, Outcome.MALFORMED}


class NewerReleaseError(ValueError):
    """A word on record is one of a newer release, and this one cannot go on without knowing what it means."""

    def __init__(self, word: str) -> None:
        self.word = word
        super().__init__(f"A newer release has written {word!r}, which this one does not know.")


def known(word: E | str) -> E:
    """Take a word on record that this release has to know. Raises `NewerReleaseError`."""
    if not isinstance(word, StrEnum):
        raise NewerReleaseError(word)
    return cast("E", word)
