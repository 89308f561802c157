"""When each kind of maintenance (purge, reseal, verify) last succeeded, so that an alert can tell when one stops.

Commands run them and servers show the times in /metrics, so the times are stored in the database.
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
