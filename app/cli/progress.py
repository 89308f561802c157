"""Show how far a long command has come, to whoever watches it."""

import sys
from contextlib import AbstractContextManager

import click


def bar(label: str, length: int) -> AbstractContextManager["click._termui_impl.ProgressBar[int]"]:
    """Draw a progress bar on stderr, where that is a terminal."""
    return click.progressbar(length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty())
