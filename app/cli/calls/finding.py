"""Find the call that a command is about."""

from uuid import UUID

import click
from sqlalchemy.orm import Session

from app import call_statements
from app.cli.errors import Refusal
from app.models import Call

id_argument = click.argument("call_id", metavar="ID", type=click.UUID)


class NoCallError(Refusal):
    """There is no call with this id."""

    def __init__(self, call_id: UUID) -> None:
        super().__init__(f"There is no call {call_id}.")


def find_call(session: Session, call_id: UUID) -> Call:
    """Find a call. Raises `NoCallError`."""
    call = call_statements.find(session, call_id)
    if call is None:
        raise NoCallError(call_id)
    return call
