"""The pictures show the machine as it is, and no text of a sender's can draw in them."""

import re
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import pytest

from app.cli.diagrams import FOLDER, pictures
from app.diagrams import graphviz, mermaid
from app.diagrams.authorization import Step, WithoutEffect, draw_authorization
from app.diagrams.lifecycle import draw_lifecycle, transition_table
from app.state_machine import AuthorizationState as State, Event, Flow

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

CONSULT = Step(1, "consult", None, State.CONSULTED, "api", NOON)
CODE = Step(2, "authcode_created", State.CONSULTED, State.AUTHCODE_ISSUED, "notification", NOON)

HOSTILE = ['"]; drop', "<b>&amp;", "end\nsubgraph x", "%%{init}%%", "a|b|c", "\\n\\", "nul \0", "\ud800", "用户", "-->"]


@pytest.mark.parametrize("name", ["lifecycle.mmd", "lifecycle.svg", "lifecycle.png", "lifecycle.md"])
def test_the_pictures_in_the_project_show_the_machine_as_it_is(name: str) -> None:
    """If this fails: `flask diagrams write`."""
    assert (FOLDER / name).read_bytes() == pictures()[name]


def test_every_state_and_event_is_in_the_picture_and_in_the_table() -> None:
    drawing = draw_lifecycle()
    for text in (mermaid.state_diagram(drawing), graphviz.dot(drawing), transition_table()):
        assert [word for word in [*State, *Event] if word not in text] == []


def test_the_table_says_which_flow_a_transition_takes() -> None:
    table = transition_table()
    assert "| `authcode_created` | `consulted` → `authcode_issued` | flow `auto_debit` |" in table
    assert "| `token_created` | `consulted` → `token_active` | flow `direct` |" in table
    assert "| `token_canceled` | `token_active` → `canceled` | |" in table


def test_the_way_taken_is_numbered_and_the_ways_not_taken_are_dotted() -> None:
    text = mermaid.flowchart(draw_authorization(State.AUTHCODE_ISSUED, Flow.AUTO_DEBIT, [CONSULT, CODE]))
    assert 'consulted -->|"2: authcode_created<br/>2026-11-22 12:00:00Z (notification)"| authcode_issued' in text
    assert 'authcode_issued -.->|"token_created"| token_active' in text
    assert "direct" not in text


def test_the_current_state_stands_out() -> None:
    text = mermaid.flowchart(draw_authorization(State.AUTHCODE_ISSUED, Flow.AUTO_DEBIT, [CONSULT, CODE]))
    assert re.findall(r"style (\w+) .*stroke-width:4px", text) == ["authcode_issued"]


def test_a_notification_without_effect_is_noted_beside_the_state_that_it_found() -> None:
    without_effect = [
        WithoutEffect("AUTHCODE_CREATED", "applied", None, NOON, state=State.CONSULTED),
        WithoutEffect("AUTHCODE_CREATED", "rejected", "illegal_transition", NOON, 3, State.AUTHCODE_ISSUED),
        WithoutEffect("TOKEN_CREATED", "parked", "early", NOON, 1, State.CONSULTED),
    ]
    text = mermaid.flowchart(
        draw_authorization(State.AUTHCODE_ISSUED, Flow.AUTO_DEBIT, [CONSULT, CODE], without_effect)
    )
    notes = re.findall(r'note\d+\["(.*)"\] -.- (\w+)', text)
    assert [(note.split("<br/>")[0], state) for note, state in notes] == [
        ("TOKEN_CREATED", "consulted"),
        ("AUTHCODE_CREATED × 3", "authcode_issued"),
    ]


@pytest.mark.parametrize("words", HOSTILE)
def test_the_type_that_a_sender_invents_stays_within_its_note(words: str) -> None:
    without_effect = [WithoutEffect(words, "parked", "unknown_type", NOON, state=State.CONSULTED)]
    drawing = draw_authorization(State.CONSULTED, Flow.DIRECT, [CONSULT], without_effect)
    plain = draw_authorization(
        State.CONSULTED, Flow.DIRECT, [CONSULT], [WithoutEffect("X", "parked", "unknown_type", NOON)]
    )
    assert mermaid.flowchart(drawing).count("\n") == mermaid.flowchart(plain).count("\n")
    (label,) = re.findall(r'note0\["(.*)"\] -.- consulted', mermaid.flowchart(drawing))
    with_a_meaning = [sign for sign in re.sub("<br/>", "", label) if sign.isascii() and not sign.isalnum()]
    assert set(with_a_meaning) <= set("(): -_")


def test_any_type_makes_a_well_formed_picture() -> None:
    without_effect = [WithoutEffect(words, "parked", "unknown_type", NOON, state=State.CONSULTED) for words in HOSTILE]
    svg = graphviz.picture(draw_authorization(State.CONSULTED, Flow.DIRECT, [CONSULT], without_effect), "svg")
    texts = [element.text or "" for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314 -- a picture of our own
    assert any("<b>&amp;" in text for text in texts)
    assert any('"]; drop' in text for text in texts)


def test_a_png_is_a_png() -> None:
    assert graphviz.picture(draw_lifecycle(), "png").startswith(b"\x89PNG")
