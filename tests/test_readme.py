"""The README and the pages in `docs/` say what is so."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import notifyauth_pytest
from app.alipay.diagnosis import Change
from app.alipay.signature import CAUSES
from app.config import NAMES, SECRETS
from app.vocabulary import Outcome, Reason
from tests.conftest import ROOT
from tests.readme import ACROSS_LINES, BLOCKS, PAGES, README, anchors, block, commands, script, scripts, steps

#: More goes into a page of its own.
README_LINES_MAX = 150

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

#: Settings that are read from the environment, and those of the simulator and of the framework.
SETTINGS = {*NAMES, *(f"{name}_FILE" for name in SECRETS)}
OTHER_SETTINGS = {"FLASK_SIMULATOR_API_KEY", "FLASK_APP"}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_of(page: Path) -> list[str]:
    """What stands in a page as code: the lines of its blocks, and what is between backticks."""
    text = text_of(page)
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [*"".join(blocks).splitlines(), *re.findall(r"`([^`\n]+)`", rest)]


@pytest.mark.parametrize("name", BLOCKS)
def test_generated_parts_are_fresh(name: str) -> None:
    """If this fails: `python -m tests.readme`."""
    assert block(name) == BLOCKS[name]()


def test_the_readme_is_read_in_one_go() -> None:
    assert len(text_of(README).splitlines()) <= README_LINES_MAX


def test_the_table_of_settings_names_just_those_that_are_read() -> None:
    first_cells = re.findall(r"^\|([^|]+)\|", block("configuration"), re.MULTILINE)
    assert set(re.findall(r"`(FLASK_[A-Z_]+)`", "".join(first_cells))) == SETTINGS


TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"


@pytest.mark.parametrize("change", Change)
def test_every_change_that_the_doctor_names_can_be_looked_up(change: Change) -> None:
    assert re.search(rf"^\| [^|]*`{change}`", text_of(TROUBLESHOOTING), re.MULTILINE)


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_of_a_refusal_can_be_looked_up(cause: str) -> None:
    assert f"cause={cause}`" in text_of(TROUBLESHOOTING)


@each_page
def test_every_setting_that_a_page_names_is_one(page: Path) -> None:
    if page.name != "CHANGELOG.md":
        assert set(re.findall(r"\bFLASK_[A-Z_]+\b", text_of(page))) <= SETTINGS | OTHER_SETTINGS


@each_page
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    targets = set(re.findall(r"\]\(((?!https?:|mailto:|#)[^)\s]+)\)", text_of(page)))
    assert [target for target in targets if not (page.parent / target.partition("#")[0]).exists()] == []


@each_page
def test_every_link_to_a_heading_leads_to_one(page: Path) -> None:
    for target in set(re.findall(r"\]\(((?!https?:)[^)\s]*\.md#[^)\s]+|#[^)\s]+)\)", text_of(page))):
        path, _, anchor = target.partition("#")
        assert anchor in anchors(page.parent / path if path else page), target


def test_the_readme_leads_to_every_page() -> None:
    """The decisions have an index of their own."""
    indexes = [README, ROOT / "docs" / "decisions" / "README.md"]
    linked = {
        (index.parent / target.partition("#")[0]).resolve()
        for index in indexes
        for target in re.findall(r"\]\(([^)\s]+\.md[^)\s]*)\)", text_of(index))
    }
    assert {page.resolve() for page in PAGES} - linked == {README.resolve()}


@each_page
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    for line in code_of(page):
        for words in re.findall(r"(?<![\w/.:-])(?:flask|notifyauth)((?: [a-z][a-z-]*)+)", line):
            name, *rest = words.split()
            command = commands().get(name)
            assert command is not None, f"flask{words}"
            for word in rest:
                if not isinstance(command, click.Group):
                    break
                assert word in command.commands, f"flask{words}"
                command = command.commands[word]


def test_every_script_of_the_pages_is_run_by_a_test() -> None:
    """By `test_readme_steps` and `test_restore_log`; what is only shown is no `bash` block."""
    tested = [steps(), *("".join(f"{line}\n" for line in script(name)) for name in ("backup", "restore"))]
    shown = [each for page in PAGES for each in scripts(text_of(page))]
    assert [each for each in shown if not any(each in run for run in tested)] == []


def named_files(page: Path) -> Iterator[str]:
    return (code for code in code_of(page) if re.fullmatch(r"[\w/]+\.py", code))


def test_every_file_that_the_architecture_names_exists() -> None:
    page = ROOT / "docs" / "architecture.md"
    assert [name for name in named_files(page) if not (ROOT / "app" / name).exists()] == []


def test_every_name_that_the_architecture_looks_up_is_in_that_file() -> None:
    """A table that says where to look is worth nothing once the function is called otherwise."""
    page = text_of(ROOT / "docs" / "architecture.md")
    found = [
        (name.rpartition(".")[2], file)
        for names, file in re.findall(r"((?:`[\w.]+`(?:, | and )?)+) in `([\w/]+\.py)`", page)
        for name in re.findall(r"`([\w.]+)`", names)
    ]
    assert len(found) > 40
    defined = re.compile(r"^\s*(?:def |class )?(\w+)\b[(:=\[ ]", re.MULTILINE)
    assert [(name, file) for name, file in found if name not in defined.findall(text_of(ROOT / "app" / file))] == []


def test_every_metric_that_a_page_names_exists() -> None:
    source = "".join(text_of(path) for path in (ROOT / "app").glob("**/*.py"))
    defined = set(re.findall(r'"(notifyauth_[a-z_]+)"', source))
    named = {name for page in PAGES for name in re.findall(r"\bnotifyauth_[a-z_]+\b", text_of(page))}
    fixtures = {name for name in vars(notifyauth_pytest) if name.startswith("notifyauth_")}
    others = {"notifyauth_owner", "notifyauth_app", "notifyauth_probe_"}
    metrics = {name.removesuffix("_total") for name in named - others - fixtures}
    assert metrics <= defined


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "outcomes.md"], ids=["readme", "outcomes"])
def test_the_table_of_outcomes_has_each_of_them(page: Path) -> None:
    rows = re.findall(r"^\| `([a-z]+)` \|.*\| (?:200|400) ", text_of(page), re.MULTILINE)
    assert rows == [outcome.value for outcome in Outcome]


def test_the_page_of_outcomes_has_each_reason() -> None:
    assert {reason.value for reason in Reason} <= set(
        re.findall(r"`([a-z_]+)`", text_of(ROOT / "docs" / "outcomes.md"))
    )


def test_what_runs_before_a_commit_is_what_make_test_checks() -> None:
    recipe = re.search(r"^test: .*\n((?:\t.*\n)+)", text_of(ROOT / "Makefile"), re.MULTILINE)
    assert recipe is not None
    hooks = re.findall(r"entry: \.venv/bin/(.*)", text_of(ROOT / ".pre-commit-config.yaml"))
    before_tests = [line for line in re.findall(r"\$\(BIN\)/(.*)", recipe[1]) if not line.startswith("pytest")]
    assert {hook.removesuffix(" --force-exclude") for hook in hooks} == set(before_tests)


def test_every_message_that_is_to_be_looked_up_is_said_by_the_service() -> None:
    """An ellipsis stands for what differs from one to the next."""
    page = text_of(ROOT / "docs" / "troubleshooting.md")
    headings = "It does not start|`/readyz` is 503|The causes of a 503|The log says"
    sections = re.findall(f"^## (?:{headings})$(.*?)(?=^## )", page, ACROSS_LINES)
    assert len(sections) == headings.count("|") + 1
    # The first cell of a row, and the second where it is a message too.
    rows = re.findall(r"^\| (.*?) \|(?: (`.*?`) \|)?", "".join(sections), re.MULTILINE)
    messages = [message for row in rows for cell in row for message in re.findall(r"`([^`]+)`", cell)]
    # A long literal goes on in the next line.
    source = re.sub(r'"\s+f?"', "", "".join(text_of(path) for path in (ROOT / "app").glob("**/*.py")))
    parts = [part.strip(" ,.()") for message in messages for part in message.split("…")]
    assert [part for part in parts if part not in source] == []
