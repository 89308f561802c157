"""Begin a call to Alipay, as the API does, wait a while for its end, and say how it stands.

The background worker makes it. What has not ended by then goes on without the command.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import click
from sqlalchemy.orm import Session

from app import calls
from app.authorizations import Cause
from app.cli.calls.explanations import explain, what_to_do
from app.cli.calls.finding import find_call
from app.cli.current_service import look_up, operating_user, the_service
from app.cli.errors import REFUSED
from app.cli.options import WholeNumber
from app.cli.tables import plain
from app.models import Authorization, Call
from app.unit_of_work import UnitOfWork
from app.vocabulary import CallKind, CallStatus, CauseKind

#: A call of ten minutes is better looked up later.
_WAIT_SECONDS_MAX = 600
#: One request takes ten seconds at most.
_WAIT_SECONDS_DEFAULT = 12
_LOOK_SECONDS = 0.1

wait = click.option(
    "--wait",
    "seconds",
    metavar="SECONDS",
    type=WholeNumber(f"a number of seconds from 0 to {_WAIT_SECONDS_MAX}", 0, _WAIT_SECONDS_MAX),
    default=_WAIT_SECONDS_DEFAULT,
    show_default=True,
    help="How long to wait for its end.",
)


def shell_cause() -> Cause:
    """Name the user who runs the command as who asks for the call."""
    return Cause(CauseKind.SHELL, at=datetime.now(UTC), by=operating_user())


def begin(ask: Callable[[UnitOfWork], UUID | None]) -> UUID | None:
    """Begin a call, or find the one that is under way, and return its id; `None` if there is nothing to ask for.

    Raises `ReportRefusedError`.
    """
    return the_service().receiver.run_work(ask)


def wait_and_print(call_id: UUID, auth_state: str, *, seconds: int) -> None:
    """Wait for the end of a call, and print how it and its authorization stand. One that ended badly exits with 1."""
    until = time.monotonic() + seconds
    while (call := look_up(partial(find_call, call_id=call_id))).status == CallStatus.DUE:
        left = until - time.monotonic()
        if left <= 0:
            break
        time.sleep(min(_LOOK_SECONDS, left))
    print_state(call.authorization_id, auth_state)
    _print_call(call)
    if not _is_well(call):
        raise click.exceptions.Exit(REFUSED)


def _is_well(call: Call) -> bool:
    """Say whether a call has brought what it was to bring, or what it was to bring came otherwise, or may still."""
    if call.status == CallStatus.UNNEEDED:
        return (call.kind, call.reason) in {
            (CallKind.REFRESH, calls.REFRESHED_OTHERWISE),
            (CallKind.REVOKE, calls.CANCELED_OTHERWISE),
        }
    return call.status in {CallStatus.DUE, CallStatus.DONE}


def print_state(authorization_id: UUID, auth_state: str) -> None:
    """Print in which state an authorization is."""

    def state(session: Session) -> str:
        return session.get_one(Authorization, authorization_id).state

    click.echo(f"{plain(auth_state)} is {look_up(state)}.")


def _print_call(call: Call) -> None:
    click.echo(f"Call {call.id} is {explain(call, now=datetime.now(UTC))}")
    to_do = what_to_do(call)
    if to_do is not None and to_do not in (call.reason or ""):
        click.echo(to_do)
    if call.status == CallStatus.DUE:
        click.echo(f"It goes on in the background: flask calls show {call.id}")
