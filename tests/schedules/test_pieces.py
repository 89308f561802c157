"""What is resumed in pieces, whatever happens between two of them, ends as if it had been resumed at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, settings, strategies as st
from typing_extensions import override

from app import authorizations, unit_of_work as work
from app.resuming import Resumption
from tests.integration.stage import Stage
from tests.schedules.exploration import explore
from tests.schedules.live import Live
from tests.schedules.model import Words
from tests.schedules.schedule import Play, replayable

#: As many as a test run has time for.
SCHEDULES = {"sqlite": 20, "postgresql": 5}
EXAMPLES = {"sqlite": 60, "postgresql": 15}


@dataclass
class LiveInPieces(Live):
    """A service that goes on with what is left to be resumed only when the schedule lets it."""

    was_unfinished: bool = False

    @override
    def perform(self, step: Words) -> str:
        unfinished = self.unfinished()
        self.was_unfinished = bool(unfinished)
        match step:
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
            self.stage.receiver._resume(each)  # noqa: SLF001 -- threads would leave it to chance when

    def finish(self) -> None:
        while self.unfinished():
            self.resume_a_piece()


@pytest.fixture(params=[1, 2, 3])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many parked entries a transaction resumes. No thread resumes any: threads would leave it to chance when."""
    size: int = request.param
    monkeypatch.setattr(work, "RESUMED_AT_ONCE_MAX", size)
    monkeypatch.setattr(Resumption, "resume_later", lambda *_: None)
    return size


@pytest.mark.no_cover
@pytest.mark.usefixtures("piece")
def test_any_schedule_that_is_resumed_in_pieces_ends_as_the_model_says(stage: Stage, tmp_path: Path) -> None:
    with replayable(stage, tmp_path):
        explore(stage, schedules=SCHEDULES[stage.database.engine.dialect.name], live=LiveInPieces)


#: What names one authorization, contradictions in plenty: nothing but a consult is missing for it to be decided.
NOTIFICATIONS = st.sampled_from(
    [("AUTHCODE_CREATED", "s-0", f"code-{number}") for number in range(4)]
    + [("TOKEN_CREATED", "s-0", f"token-{number}") for number in range(3)]
    + [("TOKEN_CANCELED", f"token-{number}") for number in range(3)]
)
#: What else may happen while there is a rest, and how often a piece of it is resumed.
OTHER_STEPS = st.sampled_from(
    [
        ("piece",),
        ("piece",),
        ("piece",),
        ("consult", "s-0", "auto_debit", "u-0"),
        ("authcode", "s-0", "code-9"),
        ("token", "s-0", "token-0"),
        ("token", "s-0", "token-9", "code-0"),
        ("refresh", "s-0", "token-0", "token-8"),
        ("revoke", "s-0"),
        ("replay", "TOKEN_CREATED", "s-0", "token-0"),
    ]
)


@pytest.mark.no_cover
@pytest.mark.usefixtures("piece")
def test_a_delivery_between_two_pieces_ends_as_without_pieces(stage: Stage, tmp_path: Path) -> None:
    rests: list[int] = []

    @settings(
        max_examples=EXAMPLES[stage.database.engine.dialect.name],
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
        verbosity=Verbosity.quiet,
    )
    @given(
        st.lists(NOTIFICATIONS, min_size=4, max_size=10),
        st.sampled_from(["auto_debit", "direct"]),
        st.lists(NOTIFICATIONS | OTHER_STEPS, max_size=8),
    )
    def end_the_same(parked: list[Words], flow: str, later: list[Words]) -> None:
        live = LiveInPieces(stage)
        whole = Play(live)
        for step in [*parked, ("consult", "s-0", flow, "u-0"), *later]:
            rests.extend(1 for _ in live.unfinished())
            if step == ("piece",):
                live.resume_a_piece()
            else:
                whole.step(*step)
        whole.compare()

    with replayable(stage, tmp_path):
        end_the_same()
    assert rests
