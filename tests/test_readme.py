"""The README says what is so."""

import re

import pytest

from tests.conftest import ROOT
from tests.readme import BLOCKS, README, block

TEXT = README.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", BLOCKS)
def test_generated_parts_are_fresh(name: str) -> None:
    """If this fails: `python -m tests.readme`."""
    assert block(TEXT, name) == BLOCKS[name]()


def test_the_table_of_settings_names_just_those_that_are_read() -> None:
    source = (ROOT / "app" / "config.py").read_text(encoding="utf-8")
    read = set(re.findall(r'"(FLASK_[A-Z_]+)"', source))
    assert set(re.findall(r"^\| `(FLASK_[A-Z_]+)`", block(TEXT, "configuration"), re.MULTILINE)) == read


def test_every_link_to_a_file_leads_somewhere() -> None:
    targets = re.findall(r"\]\(((?!https?:|#)[^)]+)\)", TEXT)
    assert targets
    assert [target for target in targets if not (ROOT / target.partition("#")[0]).exists()] == []


def test_every_link_within_the_page_leads_to_a_heading() -> None:
    headings = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors
