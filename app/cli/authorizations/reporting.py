"""Record a report, as the API does, and print what it led to."""

import click
from sqlalchemy.orm import Session

from app.cli.current_service import look_up, operating_user, the_service
from app.cli.tables import plain
from app.models import Authorization
from app.reports import Consult, Report
from app.vocabulary import CauseKind


def record_and_print(report: Consult | Report, auth_state: str) -> None:
    """Record a report in the name of the user who runs the command, and print the state and what it resumed."""
    recorded = the_service().receiver.record(report, cause=CauseKind.SHELL, by=operating_user())

    def state(session: Session) -> str:
        return session.get_one(Authorization, recorded.authorization_id).state

    news = "Recorded" if recorded.changed else "Nothing new"
    click.echo(f"{news}: {plain(auth_state)} is {look_up(state)}.")
    if recorded.has_other_codes:
        click.echo("There was another auth code too: the user agreed more than once.")
    for done in recorded.resumed:
        click.echo(f"Notification {done.entry_id} waited for this, and was {done.outcome}.")
