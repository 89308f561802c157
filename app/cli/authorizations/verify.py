"""`flask authorizations verify`: check that what is on record follows from the stored notifications and reports."""

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app import consistency
from app.cli import options
from app.cli.authorizations.finding import find_one
from app.cli.current_service import look_up, the_service
from app.cli.errors import Refusal
from app.cli.long_running import progress_bar, run_step
from app.cli.tables import plain
from app.consistency import Inconsistency
from app.database import DatabaseUnavailableError
from app.database.contents import estimated_rows
from app.maintenance import record_run
from app.models import Authorization

_log = logging.getLogger(__name__)


class InconsistenciesFoundError(Refusal):
    """What is on record does not all follow from the stored notifications and reports."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} {'inconsistency' if count == 1 else 'inconsistencies'} found.")


@click.command()
@with_appcontext
@click.argument("name", metavar="[AUTH_STATE]", required=False)
@options.client
def verify(name: str | None, client_id: str | None) -> None:
    """Fold what is stored through the machine again, and compare: one authorization, or all of them.

    Names every inconsistency, and ends with 1 if there is one.
    """
    count = inconsistencies = 0
    for looked_at, found in _verified_one(name, client_id) if name is not None else _verified_all():
        count += looked_at
        inconsistencies += len(found)
        for each in found:
            click.echo(f"{plain(each.auth_state)} of {plain(each.client_id)}: {plain(each.what)}.")
    if inconsistencies:
        raise InconsistenciesFoundError(inconsistencies)
    click.echo(f"{count} {'authorization' if count == 1 else 'authorizations'} checked: everything agrees.")
    if name is None:
        _record_success()


def _record_success() -> None:
    try:
        the_service().database.run(partial(record_run, name="verify", at=datetime.now(UTC)))
    except DatabaseUnavailableError as error:
        # A standby and a frozen database are read as any other, and take nothing.
        _log.warning("the metrics will not show this run", extra={"error": error.cause})


def _verified_one(name: str, client_id: str | None) -> Iterator[tuple[int, Sequence[Inconsistency]]]:
    vault = the_service().vault
    yield 1, look_up(lambda session: consistency.verify(session, vault, [find_one(session, name, client_id)]))


def _verified_all() -> Iterator[tuple[int, Sequence[Inconsistency]]]:
    """Verify a batch at a time, each in a snapshot of its own, so that the service can go on working."""
    vault = the_service().vault
    after: UUID | None = None
    with progress_bar("Verifying", look_up(_estimate)) as progress:
        while True:
            batch = run_step(partial(look_up, partial(consistency.verify_batch, vault=vault, after=after)))
            yield batch.count, batch.inconsistencies
            progress.update(batch.count)
            if batch.up_to is None:
                return
            after = batch.up_to


def _estimate(session: Session) -> int | None:
    return estimated_rows(session, Authorization)
