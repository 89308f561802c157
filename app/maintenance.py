"""When each kind of maintenance (purge, reseal, verify) last succeeded, so that an alert can tell when one stops.

Commands run them and servers show the times in /metrics, so the times are stored in the database.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.database.bulk import insertion, update_of
from app.database.pipeline import execute, plain
from app.models import MaintenanceRun

Name = Literal["purge", "reseal", "verify"]


def record_run(session: Session, name: Name, at: datetime) -> None:
    """Record that this maintenance has succeeded."""
    row = [plain(MaintenanceRun)(name=name, at=at)]
    execute(
        session.connection(),
        insertion(MaintenanceRun, row, on_conflict="lock"),
        update_of(MaintenanceRun, row, ["at"]),
    )


def last_runs(session: Session) -> Mapping[str, datetime | None]:
    """Say for every maintenance when it last succeeded; `None` where it never has."""
    known: dict[str, datetime] = {run.name: run.at for run in session.scalars(select(MaintenanceRun))}
    return {name: known.get(name) for name in get_args(Name)}
