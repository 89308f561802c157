"""A service that resumes parked entries a few in a transaction, so that there is a rest between two steps.

It is compared with the same model as any other: that something is resumed in pieces must make no difference.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch
from uuid import UUID

from typing_extensions import override

from app import authorizations, unit_of_work
from app.resuming import Resumption
from tests.schedules.live import Live
from tests.schedules.model import Words


@contextmanager
def resumed_in_pieces(size: int) -> Iterator[None]:
    """Let a transaction resume so many parked entries. No thread resumes any: threads would leave it to chance when."""
    with patch.object(unit_of_work, "RESUMED_AT_ONCE_MAX", size), patch.object(Resumption, "resume_later"):
        yield


@dataclass
class LiveInPieces(Live):
    """A service that goes on with what is left to be resumed only when the schedule lets it."""

    was_unfinished: bool = False

    @override
    def perform(self, step: Words) -> str:
        unfinished = self.unfinished()
        self.was_unfinished = bool(unfinished)
        match step:
            case ("piece",):
                self.resume_a_piece()
                return "done"
            # What a schedule breaks is broken from then on.
            case (("break" | "mend"), *_):
                self.finish()
            # Of two that claim one token, whichever is processed first gets it.
            case (("TOKEN_CREATED" | "token" | "refresh"), *_) if len(unfinished) > 1:
                self.finish()
            case (("TOKEN_CREATED" | "token" | "refresh"), auth_state, *_) if unfinished:
                if self.authorization_ids.get(auth_state) not in unfinished:
                    self.finish()
            case _ if len(unfinished) > 1:
                self.resume_a_piece()
        return super().perform(step)

    @override
    def agrees(self, actual: str, expected: str) -> bool:
        """What comes while there is a rest waits behind it; a consult said again does not."""
        is_before_the_rest = actual == "parked" or (actual, expected) == ("known", "refused")
        return actual == expected or (self.was_unfinished and is_before_the_rest)

    @override
    def deliver_batch(self, notifications: Sequence[Words]) -> list[int]:
        if any(each[0] == "TOKEN_CREATED" for each in notifications):
            self.finish()
        return super().deliver_batch(notifications)

    @override
    def may_break(self) -> bool:
        # More may wait for a batch than one transaction resumes.
        return True

    @override
    def record(self) -> list[str]:
        self.finish()
        return super().record()

    def unfinished(self) -> list[UUID]:
        return list(self.stage.database.run(lambda session: authorizations.unfinished(session, limit=9)))

    def resume_a_piece(self) -> None:
        for each in self.unfinished()[:1]:
            self.stage.receiver._resume_next_piece(each)  # noqa: SLF001 -- threads would leave it to chance when

    def finish(self) -> None:
        while self.unfinished():
            self.resume_a_piece()
