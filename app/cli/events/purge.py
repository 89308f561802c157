"""`flask events purge`: delete old events, and how they were told. The background worker does so after 30 days."""

from datetime import UTC, datetime, timedelta
from functools import partial

import click
from flask.cli import with_appcontext

from app.cli import options
from app.cli.current_service import look_up, the_service
from app.cli.long_running import progress_bar, run_step
from app.cli.tables import moment
from app.events import feed

_TOO_YOUNG = "events younger than two days are kept: a reader of the feed may have been away for as long."
_DEFAULT = "30d"


@click.command()
@with_appcontext
@click.option(
    "--older-than",
    metavar="AGE",
    type=options.Age(_TOO_YOUNG),
    default=_DEFAULT,
    show_default=True,
    help="Such as 90d, 72h or 2w; at least 2d.",
)
@options.yes
def purge(older_than: timedelta, *, yes: bool) -> None:
    """Delete events that were numbered longer ago than that, with their deliveries and attempts.

    The worker does so by itself after 30 days. One that is still to be told stays, and all after it; history is never
    deleted. It asks first; where there is no terminal to ask at, it does nothing without --yes.
    """
    before = datetime.now(UTC) - older_than
    options.confirm(f"This deletes for good what came into the feed before {moment(before)}.", yes=yes)
    database = the_service().database
    look_up(feed.last_position)
    deleted = 0
    with progress_bar("Purging", None) as progress:
        while purged := run_step(partial(database.run, partial(feed.purge, before=before))):
            deleted += purged
            progress.update(purged)
    click.echo(f"Purged {deleted}.")
