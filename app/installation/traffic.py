"""What comes and what waits: the worker, the last verified notification, refused deliveries, and what is parked."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import quarantine
from app.alipay.signature import sent_at
from app.config import SettingError
from app.inbox_admin import parked_by_reason
from app.index_key import WrongVaultKeyError
from app.installation.findings import Finding, Status, failed, ok, warning
from app.models import InboxEntry, RefusedDelivery
from app.preflight import OK, NotMigratedError, OutdatedReleaseError
from app.vault import VaultError
from app.wiring import Service

#: Some of them are redeliveries, which may carry the time of the first attempt.
_LOOKED_AT = 20
#: A request is on its way for a second or two.
_CLOCK_DIFFERENCE_MAX = timedelta(minutes=1)

#: What to do about entries that are parked, by reason.
_REMEDIES = {
    "unknown_auth_state": "their consults were not reported: POST /v1/authorizations, or flask authorizations consult",
    "unknown_token": "their tokens were not reported, and their users said stop: stop charging, then report the "
    "tokens: POST /v1/authorizations/{id}/tokens; flask inbox find-token looks for one",
    "early": "what comes before them was not reported: a code or a token, most often: flask inbox list --reason early",
    "unknown_type": "Alipay has a new type: install a newer release, then flask inbox process",
}


def examine_traffic(service: Service, *, now: datetime, is_writable: bool) -> Iterator[Finding]:
    """Look what was received, refused and parked, and whether anything is told. Raises `DatabaseUnavailableError`."""
    worker = _worker(service, is_writable=is_writable)
    yield worker
    refused = service.database.run(partial(quarantine.listing, limit=quarantine.KEPT_MAX, now=now), read_only=True)
    if service.settings.uses_only_defaults:
        yield from _service_without_settings(refused, has_worker=worker.status is Status.OK)
    yield from service.database.run(_last_verified, read_only=True)
    yield from _refused(refused)
    yield from _stale(service, refused)
    yield from service.database.run(partial(_parked, now=now), read_only=True)


def _worker(service: Service, *, is_writable: bool) -> Finding:
    said = service.worker_check()
    if said == OK:
        return ok("worker", "one runs")
    if not is_writable:
        return warning("worker", "whether one runs is not known: it leaves its sign of life in the database")
    return failed("worker", said)


def _service_without_settings(refused: Sequence[RefusedDelivery], *, has_worker: bool) -> Iterator[Finding]:
    """Say that it is the service that runs on the defaults, and not this shell alone, where something shows that."""
    signs = ["a worker runs on this database"] * has_worker + ["deliveries were refused here"] * bool(refused)
    if signs:
        yield warning(
            "environment",
            f"the service itself runs without a setting: {' and '.join(signs)}, which is the default one",
            "if it has an environment file, start it with that: EnvironmentFile=FILE of systemd, env_file of docker "
            "compose; before that, neither the keyring nor the database of here is to be mended",
        )


def _last_verified(session: Session) -> list[Finding]:
    return list(_verified(session))


def _verified(session: Session) -> Iterator[Finding]:
    """Compare request-times with when they came: the smallest difference is nearest to that of the clocks."""
    part = "last_verified"
    newest = select(InboxEntry.client_id, InboxEntry.request_time, InboxEntry.received_at)
    rows = session.execute(newest.order_by(InboxEntry.id.desc()).limit(_LOOKED_AT)).all()
    if not rows:
        remedy = (
            "send one with flask simulator send, or from Antom Dashboard; see that the registered URL leads here: the "
            "log says `notification sent to where none is received` of another path"
        )
        yield warning(part, "no notification was ever verified", remedy)
        return
    said = f"one of client {rows[0].client_id} at {_at(rows[0].received_at)}"
    delays = [row.received_at - sent for row in rows if (sent := sent_at(row.request_time)) is not None]
    if not delays:
        yield ok(part, f"{said}; its request-time is no time that is known")
        return
    delay = min(delays, key=abs)
    remedy = "set the clock of this machine right: timedatectl, chronyc tracking"
    if delay < -_CLOCK_DIFFERENCE_MAX:
        yield failed(
            "clock", f"notifications come {_seconds(-delay)} before their request-time: ours is behind", remedy
        )
    elif delay > _CLOCK_DIFFERENCE_MAX:
        why = "they were redelivered or replayed, or ours is ahead"
        yield warning(
            "clock", f"the newest notifications came {_seconds(delay)} after their request-time: {why}", remedy
        )
    else:
        yield ok("clock", f"a notification came {_seconds(delay)} after its request-time")
    yield ok(part, said)


def _refused(rows: Sequence[RefusedDelivery]) -> Iterator[Finding]:
    if not rows:
        yield ok("refused", "no delivery is kept that was refused within a day")
        return
    counts = ", ".join(f"{cause} {count}" for cause, count in Counter(row.cause for row in rows).most_common())
    said = f"deliveries were refused within a day, the last at {_at(rows[0].at)}; kept are: {counts}"
    yield warning("refused", said, f"flask doctor refused {rows[0].id} says why, and flask doctor refused lists them")


def _stale(service: Service, rows: Sequence[RefusedDelivery]) -> Iterator[Finding]:
    """Say of those that were refused for their age alone whether our clock may be what is wrong.

    They are authentic. Where one was accepted after them, the clock is right.
    """
    stale = [row for row in rows if row.cause == "stale"][:_LOOKED_AT]
    if not stale or ((newest := service.database.run(_newest_at, read_only=True)) and newest > stale[0].at):
        return
    try:
        sent = [quarantine.open_request(service.vault, row).delivery.request_time for row in stale]
    except (VaultError, SettingError, WrongVaultKeyError, NotMigratedError, OutdatedReleaseError):
        # What is wrong with the vault is said of the vault.
        return
    ages = [row.at - at for row, time in zip(stale, sent, strict=True) if (at := sent_at(time)) is not None]
    if not ages:
        return
    many = f"the {len(ages)} newest" if len(ages) > 1 else "the only one"
    if max(ages) - min(ages) > _CLOCK_DIFFERENCE_MAX:
        said = f"of those that are authentic, {many} came {_seconds(min(ages))} to {_seconds(max(ages))} late"
        yield warning("clock", f"{said}, so they were redelivered", "unset FLASK_FRESHNESS_SECONDS")
        return
    yield failed(
        "clock",
        f"{many} refused as stale came {_seconds(min(ages))} after the request-time: this machine's clock is ahead by "
        "that, or they were redelivered",
        "compare the clock with another machine's and set it right (timedatectl, chronyc tracking); if it is right, "
        "unset FLASK_FRESHNESS_SECONDS, which refuses redeliveries",
    )


def _newest_at(session: Session) -> datetime | None:
    return session.scalar(select(InboxEntry.received_at).order_by(InboxEntry.id.desc()).limit(1))


def _parked(session: Session, now: datetime) -> list[Finding]:
    return list(_waiting(session, now))


def _waiting(session: Session, now: datetime) -> Iterator[Finding]:
    waiting = [each for each in parked_by_reason(session, now=now) if each.count]
    if not waiting:
        yield ok("parked", "no notification waits for something")
    for each in waiting:
        oldest = timedelta(seconds=round(each.oldest_seconds))
        said = f"{each.count} parked for {each.reason}, the oldest for {oldest}"
        yield warning("parked", said, _REMEDIES.get(each.reason, "flask inbox list --outcome parked"))


def _at(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():.0f} s"
