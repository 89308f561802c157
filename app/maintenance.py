"""Keep when each kind of maintenance last succeeded, so that its absence can be alerted on.

It is run from a shell, and the figures are asked of a server: what both see is the database.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.database import insert
from app.models import MaintenanceRun

Name = Literal["purge", "reseal", "verify"]


def record_run(session: Session, name: Name, at: datetime) -> None:
    """Record that this maintenance has succeeded."""
    statement = insert(session, MaintenanceRun).values(name=name, at=at)
    session.execute(statement.on_conflict_do_update(index_elements=[MaintenanceRun.name], set_={"at": at}))


def last_runs(session: Session) -> Mapping[str, datetime | None]:
    """Say for every maintenance when it last succeeded; `None` where it never has."""
    known: dict[str, datetime] = {run.name: run.at for run in session.scalars(select(MaintenanceRun))}
    return {name: known.get(name) for name in get_args(Name)}
