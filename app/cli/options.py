"""Declare the options that several commands share, so that they are named and explained alike."""

from typing import Any

import click
from typing_extensions import override

#: What one page of the API shows at most, too.
LIMIT_MAX = 1000
LIMIT_DEFAULT = 50


class Words(click.ParamType[str]):
    """A text that is not empty, and not longer than what is stored of its kind."""

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


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")

limit = click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, LIMIT_MAX),
    default=LIMIT_DEFAULT,
    show_default=True,
    help=f"How many to list, up to {LIMIT_MAX}; the newest come first.",
)

client = click.option("--client", "client_id", metavar="ID", help="Whose, where several clients have this authState.")


def tell_of_more(shown: int) -> None:
    """Say, where no program reads it, that a listing does not show everything."""
    click.echo(f"Only the newest {shown} are shown: there are more, see --limit.", err=True)
