"""Read secrets from stdin: one line, a JSON object, or typed at a terminal and not shown.

Others can read a command line, so no secret is an argument.
"""

import json
import sys
from collections.abc import Mapping, Sequence, Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import click

from app.alipay.json_text import UnreadableJsonError, json_text
from app.alipay.notification import ACCESS_TOKEN_CHARACTERS_MAX
from app.alipay.token_answer import is_success, slip_for
from app.cli.errors import UsageProblem
from app.cli.tables import plain

#: No secret is longer.
SECRET_CHARACTERS_MAX = ACCESS_TOKEN_CHARACTERS_MAX
#: Four secrets and two times, with every character escaped, take less.
_STDIN_BYTES_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class Question:
    """A value to read: its name in JSON, and its prompt at a terminal."""

    name: str
    prompt: str
    characters_max: int = SECRET_CHARACTERS_MAX


class StdinError(UsageProblem):
    """What came from stdin is not what the command needs. Never quotes it."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where} {problem}. See --help for what is read from stdin.")


def ask(questions: Sequence[Question], also: Sequence[str] = ()) -> Mapping[str, str]:
    """Read the answers from stdin, at a terminal one by one; the first question is the one that must be answered.

    With `also`, further names that applyToken answers with, the JSON may be that answer. Raises `StdinError`.
    """
    told: Mapping[str, Any]
    if sys.stdin.isatty():
        told = {
            each.name: click.prompt(each.prompt, default="", hide_input=True, show_default=False) for each in questions
        }
    else:
        told = _read(questions[0].name)
        names = {*(each.name for each in questions), *also}
        _require_known(_without_the_rest(told, names) if also else told, names)
    told = {name: value for name, value in told.items() if isinstance(value, str) and value}
    if questions[0].name not in told:
        raise StdinError(questions[0].name, "is missing")
    for each in questions:
        if len(told.get(each.name, "")) > each.characters_max:
            raise StdinError(each.name, f"has more than {each.characters_max} characters")
    return told


def _read(first: str) -> dict[str, Any]:
    """Read one line, or a JSON object."""
    raw = sys.stdin.buffer.read(_STDIN_BYTES_MAX + 1)
    if len(raw) > _STDIN_BYTES_MAX:
        raise StdinError("Stdin", "is far longer than what was asked for")
    try:
        text = json_text(raw)
    except UnreadableJsonError as error:
        raise StdinError("Stdin", f"is {error.rule}") from None
    if not text.lstrip().startswith("{"):
        line, *more = text.splitlines() or [""]
        if any(more):
            raise StdinError("Stdin", "has several lines, and is not a JSON object")
        return {first: line}
    try:
        return dict(json.loads(text))
    except ValueError:
        raise StdinError("Stdin", "begins like a JSON object, and is not one") from None


def _without_the_rest(told: Mapping[str, Any], names: AbstractSet[str]) -> dict[str, Any]:
    """Ignore the other fields of applyToken's answer, and require that it gave a token."""
    if not is_success(told.get("result")):
        raise StdinError("result", "says that applyToken did not succeed, so there is no token to report")
    return {name: value for name, value in told.items() if name in names or slip_for(name, names) is not None}


def _require_known(told: Mapping[str, Any], names: AbstractSet[str]) -> None:
    for name, value in told.items():
        if name not in names:
            raise StdinError(plain(name), f"is none of {', '.join(sorted(names))}")
        if not isinstance(value, str | None):
            raise StdinError(name, "is not a string")
