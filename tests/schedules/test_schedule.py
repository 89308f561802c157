"""A schedule is a text that a person can read, write and play again."""

from functools import partial
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

import pytest
from click.testing import CliRunner
from sqlalchemy.orm import Session
from typing_extensions import override

from app.models import Authorization
from tests.integration.stage import Stage
from tests.schedules import schedule
from tests.schedules.__main__ import schedules
from tests.schedules.model import Words
from tests.schedules.pieces import LiveInPieces, resumed_in_pieces
from tests.schedules.schedule import DisagreementError, play, read, replayable, text_of

SCHEDULE = """\
consult s-1 auto_debit u-1
TOKEN_CREATED s-1 token-1
AUTHCODE_CREATED s-1 code-1
refresh s-1 token-1 → token-2
break s-1
TOKEN_CANCELED token-2
mend s-1
replay TOKEN_CANCELED token-2
"""


def test_a_schedule_is_read_as_it_is_written() -> None:
    assert text_of(read(SCHEDULE)) == SCHEDULE


def test_remarks_and_blank_lines_are_no_steps() -> None:
    assert read("# how it began\n\nrevoke s-1  # too late\n") == [("revoke", "s-1")]


def test_a_schedule_in_a_file_is_replayed_with_the_result_of_each_step(tmp_path: Path) -> None:
    file = tmp_path / "schedule.txt"
    file.write_text(SCHEDULE)
    result = CliRunner().invoke(schedules, ["replay", str(file)])
    assert result.exit_code == 0, result.output
    said = [line.split()[-1] for line in result.output.splitlines()[:8]]
    assert said == ["recorded", "parked", "applied", "recorded", "done", "failed", "done", "applied"]
    assert "s-1 is canceled, of user u-1, with code-1" in result.output


#: Three codes and a token wait for a consult.
IN_PIECES = """\
default direct
AUTHCODE_CREATED s-1 code-1
AUTHCODE_CREATED s-1 code-2
AUTHCODE_CREATED s-1 code-3
TOKEN_CREATED s-1 token-1
revoke s-9
consult s-1 auto_debit u-1
piece
TOKEN_CANCELED token-1
"""


def test_a_schedule_in_pieces_is_played_again_in_pieces(tmp_path: Path) -> None:
    file = tmp_path / "schedule.txt"
    file.write_text(IN_PIECES)
    result = CliRunner().invoke(schedules, ["replay", "--piece", "2", str(file)])
    assert result.exit_code == 0, result.output
    assert "s-1 is canceled, of user u-1" in result.output


class ForgetsItsRest(LiveInPieces):
    """A service with a bug that shows only where there is a rest, once a revoke was reported."""

    is_forgetful = False

    @override
    def perform(self, step: Words) -> str:
        self.is_forgetful |= step[0] == "revoke"
        return super().perform(step)

    @override
    def resume_a_piece(self) -> None:
        super().resume_a_piece()
        for each in self.unfinished() if self.is_forgetful else []:
            self.stage.database.run(partial(self._forget, authorization_id=each))

    def _forget(self, session: Session, authorization_id: UUID) -> None:
        session.get_one(Authorization, authorization_id).resume_after = None


def test_what_goes_wrong_only_in_pieces_is_shortened_in_pieces(stage: Stage, tmp_path: Path) -> None:
    with (
        pytest.raises(DisagreementError) as shortest,
        patch.object(schedule, "LiveInPieces", ForgetsItsRest),
        resumed_in_pieces(1),
        replayable(stage, tmp_path, piece=1),
    ):
        play(stage, read(IN_PIECES), ForgetsItsRest)
    kinds = {kind for kind, *_ in shortest.value.played}
    # A service without pieces has no need of the revoke.
    assert {"consult", "revoke"} <= kinds
    assert not {"default", "TOKEN_CANCELED"} & kinds
    assert shortest.value.__notes__[0].endswith(f"replay --piece 1 {tmp_path / 'schedule.txt'}")
