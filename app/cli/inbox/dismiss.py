"""`flask inbox dismiss`: say of parked notifications that they are not ours."""

import logging
from functools import partial

import click
from flask.cli import with_appcontext

from app.cli.current_service import operating_user, the_service
from app.cli.errors import REFUSED
from app.cli.inbox.entries import entry_id_type
from app.cli.long_running import run_step
from app.cli.options import Words
from app.inbox_admin import DISMISSAL_REASON_CHARACTERS_MAX, NotParkedError, dismiss as dismiss_entry

_log = logging.getLogger(__name__)


@click.command()
@with_appcontext
@click.argument("entry_ids", metavar="ID...", type=entry_id_type, nargs=-1, required=True)
@click.option(
    "--reason",
    metavar="TEXT",
    type=Words(DISMISSAL_REASON_CHARACTERS_MAX),
    required=True,
    help="Why it is not ours, in your words. It is stored in the clear: name nobody.",
)
def dismiss(entry_ids: tuple[int, ...], reason: str) -> None:
    """Dismiss parked notifications that are not ours, such as a test from the dashboard.

    They stay stored, wait for nothing, and can be purged; `flask inbox process ID` processes one again. Ends with
    1 if one of them is not parked.
    """
    if not reason.strip():
        message = "--reason must say why: it is all that is left to judge the dismissal by."
        raise click.UsageError(message)
    # Checks that the database is migrated and opens under the vault keys, before anything is written.
    _ = the_service().vault
    dismissed, refused = 0, list[NotParkedError]()
    ids = dict.fromkeys(entry_ids)
    for entry_id in ids:
        work = partial(dismiss_entry, entry_id=entry_id, reason=reason)
        try:
            run_step(partial(the_service().database.run, work))
        except NotParkedError as error:
            refused.append(error)
            continue
        dismissed += 1
        _log.warning("notification dismissed", extra={"entry": entry_id, "by": operating_user()})
    click.echo(f"Dismissed {dismissed}.")
    for each in refused:
        click.echo(f"Error: {each}", err=True)
    if refused:
        raise click.exceptions.Exit(REFUSED)
