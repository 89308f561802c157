"""`flask authorizations diagram`: draw the way of one authorization through the machine."""

from functools import partial
from typing import BinaryIO, Literal

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app import authorizations, call_statements
from app.call_statements import CallFilter
from app.cli import options
from app.cli.authorizations.finding import find_one, name_argument
from app.cli.current_service import look_up
from app.diagrams import graphviz, mermaid
from app.diagrams.authorization import CallMade, Step, WithoutEffect, draw_authorization
from app.diagrams.drawing import Drawing
from app.inbox_admin import of_authorization
from app.state_machine import AuthorizationState
from app.vocabulary import known

#: More than a picture shows: the first and the last few of each state.
_CALLS_MAX = 1000


@click.command()
@with_appcontext
@name_argument
@options.client
@click.option("--format", "kind", type=click.Choice(["mermaid", "svg", "png"]), default="mermaid", show_default=True)
@click.option("-o", "--output", type=click.File("wb"), default="-", metavar="FILE", help="By default the terminal.")
def diagram(name: str, client_id: str | None, kind: Literal["mermaid", "svg", "png"], output: BinaryIO) -> None:
    """Draw an authorization: where it is, the way it came, its calls, and which notifications had no effect."""
    drawing = look_up(partial(_drawing, name=name, client_id=client_id))
    if kind == "png" and output.isatty():
        message = "A PNG is no text: name a file with -o."
        raise click.UsageError(message)
    output.write(mermaid.flowchart(drawing).encode() if kind == "mermaid" else graphviz.picture(drawing, kind))


def _drawing(session: Session, name: str, client_id: str | None) -> Drawing:
    authorization = find_one(session, name, client_id)
    history = [
        Step(move.sequence, move.event, _state(move.from_state), known(move.to_state), move.cause, move.at)
        for move in authorizations.history(session, authorization.id)
    ]
    without_effect = [
        WithoutEffect(
            entry.type, entry.outcome, entry.reason, entry.received_at, entry.deliveries, _state(entry.found_state)
        )
        for entry in of_authorization(session, authorization)
    ]
    made = call_statements.listing(session, CallFilter(authorization_ids=[authorization.id]), limit=_CALLS_MAX)
    calls_made = [
        CallMade(each.kind, each.status, each.result_code, each.created_at, each.attempts) for each in reversed(made)
    ]
    state, flow = authorization.current_state, authorization.current_flow
    return draw_authorization(state, flow, history, without_effect, calls_made)


def _state(state: AuthorizationState | str | None) -> AuthorizationState | None:
    return None if state is None else known(state)
