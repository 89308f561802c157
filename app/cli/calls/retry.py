"""`flask calls retry`: make a call once more that ended without bringing what it was to bring."""

from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app.authorizations import Cause
from app.cli.calls.explanations import explain
from app.cli.calls.finding import find_call, id_argument
from app.cli.current_service import look_up, operating_user, the_service
from app.database.clock import database_now
from app.gateway import requests
from app.vocabulary import CauseKind


@click.command()
@with_appcontext
@id_argument
def retry(call_id: UUID) -> None:
    """Make a call once more, now, as the identical request: one that failed, is undetermined, or is to be repeated.

    Where Alipay has answered and only the record of it failed, nothing is asked again: its answer is recorded.
    """
    call = look_up(partial(find_call, call_id=call_id))
    receiver = the_service().receiver
    cause = Cause(CauseKind.SHELL, at=datetime.now(UTC), by=operating_user())
    again = partial(requests.retry, call_id=call_id, authorization_id=call.authorization_id, cause=cause)
    receiver.note_resumed(receiver.run_work(again))
    click.echo(f"Call {call_id} is {look_up(partial(_explained, call_id=call_id))}")


def _explained(session: Session, call_id: UUID) -> str:
    return explain(find_call(session, call_id), now=database_now(session))
