"""Show how far a long command has come, to whoever watches it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def bar(label: str, length: int | None) -> Iterator["click._termui_impl.ProgressBar[int]"]:
    """Draw a progress bar on stderr, where that is a terminal. The length may be an estimate, or unknown."""
    # Without a length click wants something to iterate over that has none, and shows how much is done, not a share.
    iterable = (each for each in range(0)) if length is None else None
    hidden = not sys.stderr.isatty()
    with click.progressbar(iterable, length=length, label=label, file=sys.stderr, hidden=hidden) as progress:
        yield progress
        # Of an estimate something may be left, and yet all is done.
        progress.update(max(0, (length or 0) - progress.pos))
