"""Show how an authorization came to be what it is, and prove it: `flask authorizations diagram` and `verify`."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import BinaryIO, Literal
from uuid import UUID

import click
from sqlalchemy.orm import Session

from app import authorizations as found, consistency, diagrams
from app.cli import options
from app.cli.authorizations import authorizations, find_one, which
from app.cli.errors import Refusal
from app.cli.groups import look_up, the_service
from app.cli.pace import do_piece
from app.cli.progress import bar
from app.cli.tables import plain
from app.consistency import Inconsistency
from app.database.contents import estimated_rows
from app.diagrams import Drawing, Step, WithoutEffect, graphviz, mermaid
from app.inbox.upkeep import of_authorization
from app.maintenance import record_run
from app.models import Authorization
from app.state_machine import AuthorizationState


class DriftFoundError(Refusal):
    """What is on record does not all follow from the stored notifications and reports."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} {'drift' if count == 1 else 'inconsistencies'} found.")


@authorizations.command()
@which
@options.client
@click.option("--format", "kind", type=click.Choice(["mermaid", "svg", "png"]), default="mermaid", show_default=True)
@click.option("-o", "--output", type=click.File("wb"), default="-", metavar="FILE", help="By default the terminal.")
def diagram(name: str, client_id: str | None, kind: Literal["mermaid", "svg", "png"], output: BinaryIO) -> None:
    """Draw an authorization: where it is, the way it came, and which notifications had no effect."""
    drawing = look_up(partial(_drawing, name=name, client_id=client_id))
    if kind == "png" and output.isatty():
        message = "A PNG is no text: name a file with -o."
        raise click.UsageError(message)
    output.write(mermaid.flowchart(drawing).encode() if kind == "mermaid" else graphviz.picture(drawing, kind))


def _drawing(session: Session, name: str, client_id: str | None) -> Drawing:
    authorization = find_one(session, name, client_id)
    history = [
        Step(move.sequence, move.event, _state(move.from_state), AuthorizationState(move.to_state), move.cause, move.at)
        for move in found.history(session, authorization.id)
    ]
    without_effect = [
        WithoutEffect(
            entry.type, entry.outcome, entry.reason, entry.received_at, entry.deliveries, _state(entry.found_state)
        )
        for entry in of_authorization(session, authorization)
    ]
    return diagrams.authorization(authorization.current_state, authorization.current_flow, history, without_effect)


def _state(name: str | None) -> AuthorizationState | None:
    return None if name is None else AuthorizationState(name)


@authorizations.command()
@click.argument("name", metavar="[AUTH_STATE]", required=False)
@options.client
def verify(name: str | None, client_id: str | None) -> None:
    """Fold what is stored through the machine again, and compare: one authorization, or all of them.

    Names every drift, and ends with 1 if there is one.
    """
    count = inconsistencies = 0
    for looked_at, found_drifts in _verified_one(name, client_id) if name is not None else _verified_all():
        count += looked_at
        inconsistencies += len(found_drifts)
        for drift in found_drifts:
            click.echo(f"{plain(drift.auth_state)} of {plain(drift.client_id)}: {plain(drift.what)}.")
    if inconsistencies:
        raise DriftFoundError(inconsistencies)
    if name is None:
        the_service().database.run(partial(record_run, name="verify", at=datetime.now(UTC)))
    follow = "1 authorization follows" if count == 1 else f"{count} authorizations follow"
    click.echo(f"{follow} from what is stored.")


def _verified_one(name: str, client_id: str | None) -> Iterator[tuple[int, Sequence[Inconsistency]]]:
    vault = the_service().vault
    yield 1, look_up(lambda session: consistency.verify(session, vault, [find_one(session, name, client_id)]))


def _verified_all() -> Iterator[tuple[int, Sequence[Inconsistency]]]:
    """Verify batch by batch, each in a snapshot of its own: others may work meanwhile."""
    vault = the_service().vault
    after: UUID | None = None
    with bar("Verifying", look_up(_estimate)) as progress:
        while True:
            batch = do_piece(partial(look_up, partial(consistency.verify_batch, vault=vault, after=after)))
            yield batch.count, batch.inconsistencies
            progress.update(batch.count)
            if batch.up_to is None:
                return
            after = batch.up_to


def _estimate(session: Session) -> int | None:
    return estimated_rows(session, Authorization)
