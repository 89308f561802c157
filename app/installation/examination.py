"""Examine an installation, part by part. What is looked at in the database comes last, and only if that answers."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

from app.config import Settings
from app.database import Database
from app.installation.calls import examine_calls
from app.installation.database import examine_database
from app.installation.findings import Finding, Status
from app.installation.keys import examine_keyring, examine_vault
from app.installation.machine import examine_machine
from app.installation.outside import examine_endpoints, examine_gateways
from app.installation.settings import examine_settings
from app.installation.traffic import examine_traffic
from app.wiring import Service


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at every part of an installation, with connections of its own that leave the database as it is.

    Raises `DatabaseUnavailableError` where the database goes away in the middle.
    """
    service = Service(settings)
    service.database = Database(settings.database_url, is_for_looking=True)
    with closing(service.database):
        yield from _examine(service, now=datetime.now(UTC))


def _examine(service: Service, *, now: datetime) -> Iterator[Finding]:
    yield from examine_settings(service.settings)
    yield from examine_machine(service.settings)
    yield from examine_keyring(service)
    database = list(examine_database(service))
    yield from database
    is_usable = any(each.part == "migrated" and each.status is not Status.FAILED for each in database)
    yield from examine_vault(service, is_database_usable=is_usable)
    if is_usable:
        is_writable = not any(each.part == "writable" and each.status is Status.FAILED for each in database)
        yield from examine_traffic(service, now=now, is_writable=is_writable)
    yield from examine_endpoints(service, now=now, is_database_usable=is_usable)
    yield from examine_gateways(service)
    if is_usable:
        yield from examine_calls(service, now=now)
