"""The commands `flask keys` and `flask simulator`, for Flask to find where the package is installed.

Flask loads these with every command of every project there. They stand outside the package `app` and import nothing of
it before they are run: many a project has an `app` of its own, and the first that is imported is the only one.
"""

from importlib import import_module
from typing import Any

import click
from typing_extensions import override


class _Imported(click.Command):
    """A group of commands that is imported when it is run."""

    @override
    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        group: click.Command = getattr(import_module(f"app.cli.{self.name}"), str(self.name))
        return group.make_context(info_name, args, parent, **extra)


keys = _Imported("keys", help="See whose signatures are believed, and change the vault key.")
simulator = _Imported(
    "simulator",
    help="A pretend Alipay: make its keys, send, sign, play, be called; and a pretend endpoint that listens.",
)
