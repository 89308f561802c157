"""The options that several commands share, so that all name and explain them alike."""

import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from sqlalchemy.orm import Session
from typing_extensions import override

from app.alipay.token_answer import read_time
from app.cli.current_service import known_clients
from app.cli.errors import Refusal
from app.cli.tables import plain

#: The same as of a page of the API.
LIMIT_MAX = 1000
LIMIT_DEFAULT = 50

#: As many as the largest id of any database has.
_DIGITS = re.compile(r"[0-9]{1,19}")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_AGE = re.compile(r"(?P<number>[0-9]{1,5})(?P<unit>[hdw])")
#: Alipay redelivers for 24 h 22 min. A purged notification that came again would be taken for a new one.
PURGE_AGE_MIN = timedelta(days=2)
#: Enough to see the mistake.
_SHOWN_CHARACTERS_MAX = 40


class Words(click.ParamType[str]):
    """A text that is not empty, and not longer than its column."""

    name = "text"

    def __init__(self, characters_max: int) -> None:
        self.characters_max = characters_max

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text as it is: nothing is trimmed."""
        text = str(value)
        if not text:
            self.fail("it must not be empty.", param, ctx)
        if len(text) > self.characters_max:
            self.fail(f"it has {len(text)} characters, {self.characters_max} are allowed.", param, ctx)
        return text


class WholeNumber(click.ParamType[int]):
    """A whole number within bounds, with an error in one sentence."""

    name = "number"

    def __init__(self, what: str, least: int, most: int) -> None:
        self.what = what
        self.least = least
        self.most = most

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read decimal digits and nothing else."""
        text = str(value)
        # More digits than the bound has are too many, and a million of them would take long to read.
        if not _DIGITS.fullmatch(text) or not self.least <= int(text) <= self.most:
            shown = text if len(text) <= _SHOWN_CHARACTERS_MAX else f"{text[:_SHOWN_CHARACTERS_MAX]}…"
            self.fail(f"{plain(shown)} is not {self.what}.", param, ctx)
        return int(text)


class AwareTime(click.ParamType[datetime]):
    """A time with its zone, as Alipay writes it."""

    name = "time"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read ISO 8601."""
        time = read_time(str(value))
        if time is None:
            self.fail("it must be ISO 8601 with a zone, such as 2026-11-22T12:00:00+08:00.", param, ctx)
        return time


class Age(click.ParamType[timedelta]):
    """A duration such as 90d, 72h or 2w; of what is purged no less than two days."""

    name = "age"

    def __init__(self, too_young: str | None = None) -> None:
        #: Says what is kept for two days, and why.
        self.too_young = too_young

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read hours, days or weeks."""
        if isinstance(value, timedelta):
            return value
        match = _AGE.fullmatch(str(value))
        if match is None:
            self.fail("it must be a number of hours, days or weeks, such as 72h, 90d or 2w.", param, ctx)
        age = int(match["number"]) * _UNITS[match["unit"]]
        if self.too_young is not None and age < PURGE_AGE_MIN:
            self.fail(self.too_young, param, ctx)
        return age


class Moment(click.ParamType[datetime]):
    """A time with its zone, or an age such as 1d: so long before now."""

    name = "time"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read ISO 8601, or hours, days or weeks."""
        if (age := _AGE.fullmatch(str(value))) is not None:
            return datetime.now(UTC) - int(age["number"]) * _UNITS[age["unit"]]
        if (time := read_time(str(value))) is None:
            self.fail(
                "it must be ISO 8601 with a zone (2026-11-22T12:00:00+08:00), or an age in hours, days or weeks (6h).",
                param,
                ctx,
            )
        return time


class NotOnRecordError(Refusal):
    """A filter names a value that is neither known nor on record: a misspelling, most likely."""

    def __init__(self, option: str, value: str, known: Iterable[str]) -> None:
        names = ", ".join(plain(each) for each in sorted(known)) or "none"
        super().__init__(f"Nothing on record has {option} {plain(value)}. Known are: {names}.")


class NobodyToAskError(Refusal):
    """A command would destroy data, and there is no terminal at which to confirm it."""

    def __init__(self, warning: str) -> None:
        super().__init__(f"{warning} Nothing was done: there is no terminal to ask at. Add --yes to do it without.")


def require_known_client(session: Session, client_id: str | None) -> None:
    """Refuse a client that is neither in the keyring nor on record. Raises `NotOnRecordError`."""
    if client_id is not None and client_id not in (known := known_clients(session)):
        raise NotOnRecordError("--client", client_id, known)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")

limit = click.option(
    "--limit",
    metavar="N",
    type=WholeNumber(f"a number from 1 to {LIMIT_MAX}", 1, LIMIT_MAX),
    default=LIMIT_DEFAULT,
    show_default=True,
    help=f"How many to list, up to {LIMIT_MAX}.",
)

yes = click.option("--yes", is_flag=True, help="Do not ask first. Without a terminal this is needed.")

client = click.option("--client", "client_id", metavar="ID", help="Whose, where several clients have this authState.")


def tell_of_more(shown: int, last_id: object, *, option: str = "--cursor") -> None:
    """Say on stderr that a listing does not show everything, and how to go on."""
    click.echo(f"Only {shown} are shown: there are more. Go on with {option} {last_id}, or see --limit.", err=True)


def confirm(warning: str, *, yes: bool) -> None:
    """Ask before data is destroyed.

    Where nobody can answer, nothing may be destroyed by an oversight either: raises `NobodyToAskError`.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise NobodyToAskError(warning)
    click.confirm(f"{warning} Go on?", abort=True, err=True)
