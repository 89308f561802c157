"""What comes and what waits: the worker, the last verified notification, refused deliveries, and what is parked."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import quarantine
from app.alipay.signature import sent_at
from app.inbox_admin import parked_by_reason
from app.installation.findings import Finding, failed, ok, warning
from app.models import InboxEntry
from app.preflight import OK
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


def examine_traffic(service: Service, *, now: datetime) -> Iterator[Finding]:
    """Look what was received, refused and parked, and whether anything is told. Raises `DatabaseUnavailableError`."""

    def look(session: Session) -> list[Finding]:
        return [
            *_last_verified(session),
            *_refused(session, now),
            *_parked(session, now),
        ]

    yield _worker(service)
    yield from service.database.run(look, read_only=True)


def _worker(service: Service) -> Finding:
    said = service.worker_check()
    return ok("worker", "one runs") if said == OK else failed("worker", said)


def _last_verified(session: Session) -> Iterator[Finding]:
    """Compare request-times with when they came: the smallest difference is nearest to that of the clocks."""
    part = "last_verified"
    newest = select(InboxEntry.client_id, InboxEntry.request_time, InboxEntry.received_at)
    rows = session.execute(newest.order_by(InboxEntry.id.desc()).limit(_LOOKED_AT)).all()
    if not rows:
        remedy = "send one with flask simulator send, or from Antom Dashboard; see that the registered URL leads here"
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


def _refused(session: Session, now: datetime) -> Iterator[Finding]:
    rows = quarantine.listing(session, limit=quarantine.KEPT_MAX, now=now)
    if not rows:
        yield ok("refused", "no delivery is kept that was refused within a day")
        return
    counts = ", ".join(f"{cause} {count}" for cause, count in Counter(row.cause for row in rows).most_common())
    said = f"deliveries were refused within a day, the last at {_at(rows[0].at)}; kept are: {counts}"
    yield warning("refused", said, f"flask doctor refused {rows[0].id} says why, and flask doctor refused lists them")


def _parked(session: Session, now: datetime) -> Iterator[Finding]:
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
