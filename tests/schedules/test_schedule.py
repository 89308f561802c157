"""A schedule is a text that a person can read, write and play again."""

from pathlib import Path

from click.testing import CliRunner

from tests.schedules.__main__ import schedules
from tests.schedules.schedule import read, text_of

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
