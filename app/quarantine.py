"""The quarantine: the last deliveries that were refused, kept sealed for a day, so that the doctor can say why.

Nothing in it is believed, and no answer waits for it. A thread of its own writes one delivery a second, and drops all
others of that second: a flood of forged deliveries costs a comparison each.
"""

import json
import logging
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from app.alipay.delivery import Delivery, HttpRequest
from app.alipay.signature import Cause, named_key_version
from app.database import Database, DatabaseUnavailableError
from app.logs import failure
from app.models import RefusedDelivery
from app.vault import Vault

_log = logging.getLogger(__name__)

HEAD_COLUMN = "refused_deliveries.sealed_head"
BODY_COLUMN = "refused_deliveries.sealed_body"

#: What is mended within a day can be looked into, and what a stranger sent is not kept for longer.
AGE_MAX = timedelta(days=1)
#: Of one client for one cause. All clients that are not in the keyring count as one.
KEPT_OF_ONE_MAX = 20
#: Of those the newest are always kept. What is older is thinned out where it came at the shortest intervals: so forged
#: deliveries in a client's name do not push out what the client was refused an hour before.
KEPT_NEWEST = 10
#: At most 26 MB of bodies and heads.
KEPT_MAX = 200
#: One write is a commit of its own, which costs SQLite a write of the disk.
PAUSE_SECONDS = 1.0
#: No client id of Alipay's, and no address, has half as many characters.
SHOWN_CHARACTERS_MAX = 128
_PATH_CHARACTERS_MAX = 256
#: What Alipay's client ids look like. Its tokens and codes have more digits in a row, and other secrets small letters.
_CLIENT_ID = re.compile(r"(SANDBOX_|T_)?[0-9A-Z]{1,24}")
_HINT_CHARACTERS = 8
#: The longest signature that is read has half as many.
_HEADER_CHARACTERS_MAX = 8192

#: The headers that the doctor looks at, beside those that are signed, and what tells one sender from another. A test
#: compares them with what the doctor reads. WSGI cannot tell a header with an underscore from one with a hyphen.
KEPT_HEADERS = (
    *("host", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-for"),
    *("x-original-uri", "x-original-url", "x-forwarded-uri", "x-rewrite-url", "x-envoy-original-path"),
    *("x-replaced-path", "x-forwarded-path", "x-forwarded-prefix", "x-script-name", "x-envoy-original-prefix"),
    *("response-time", "x-request-time", "date", "content-type", "content-encoding", "user-agent", "via"),
)

#: A client of the keyring, or None for all others together, and a cause.
Bucket = tuple[str | None, str]


@dataclass(frozen=True, slots=True)
class Refused:
    """A delivery that was refused, and why."""

    delivery: Delivery
    cause: Cause
    is_known_client: bool
    #: Some of the other headers, by lower-case name.
    headers: Mapping[str, str]
    at: datetime

    @property
    def bucket(self) -> Bucket:
        """What it shares its room with."""
        return (self.delivery.client_id if self.is_known_client else None, self.cause)

    def log_fields(self) -> dict[str, object]:
        """Say which delivery it is as the fields of a log line. A sender may have written any of it: it is bounded."""
        return {
            "client_id": shown_client_id(self.delivery.client_id, is_known=self.is_known_client),
            "cause": self.cause,
            "key_version": named_key_version(self.delivery.signature),
            "path": shown_path(self.delivery.uri),
        }


def shown_client_id(client_id: str, *, is_known: bool) -> str:
    """Write a client id as it was sent; of what does not look like one only a hint, for it may be a secret."""
    if is_known or _CLIENT_ID.fullmatch(client_id) or len(client_id) <= _HINT_CHARACTERS:
        return client_id[:SHOWN_CHARACTERS_MAX]
    return f"{client_id[:_HINT_CHARACTERS]}... ({len(client_id)} characters)"


def shown_path(uri: str) -> str:
    """Write the path that was verified, and only hint at a query: its values may be secret."""
    path, mark, _ = uri.partition("?")
    return path[:_PATH_CHARACTERS_MAX] + ("?..." if mark else "")


class Quarantine:
    """Keeps refused deliveries in the background, for one process."""

    def __init__(self, database: Database, vault: Vault, *, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._database = database
        self._vault = vault
        self._pause_seconds = pause_seconds
        self._pending: Refused | None = None
        self._has_pending = threading.Event()
        #: When the last one of a bucket was taken to be written; there are no more buckets than clients and causes.
        self._taken_at: dict[Bucket, float] = {}
        self._thread: threading.Thread | None = None
        self._closing = False
        self._has_warned = False

    def offer(self, refused: Refused) -> None:
        """Take a refused delivery to be kept, or drop it. Never waits and never raises: an answer comes next.

        There is room for one. It is kept for the bucket of which nothing was written for the longest time, so that a
        flood of one client's or of strangers' cannot keep out the one delivery that somebody will ask about.
        """
        with suppress(Exception):
            pending = self._pending
            if pending is not None and self._last_of(refused) >= self._last_of(pending):
                return
            self._pending = refused
            self._has_pending.set()
            if self._thread is None:
                self._start()

    def _last_of(self, refused: Refused) -> float:
        return self._taken_at.get(refused.bucket, 0.0)

    def _start(self) -> None:
        thread = threading.Thread(target=self._write_for_ever, name="quarantine", daemon=True)
        self._thread = thread
        thread.start()

    def close(self) -> None:
        """End the thread after the delivery that is being written, if there is one; that takes a second at most."""
        self._closing = True
        self._has_pending.set()
        if self._thread is not None:
            self._thread.join(self._pause_seconds + 1)

    def _write_for_ever(self) -> None:
        while True:
            self._has_pending.wait()
            self._has_pending.clear()
            refused, self._pending = self._pending, None
            if refused is not None:
                self._taken_at[refused.bucket] = time.monotonic()
                self._write(refused)
            if self._closing:
                return
            time.sleep(self._pause_seconds)

    def _write(self, refused: Refused) -> None:
        try:
            row = sealed_row(self._vault, refused)
            self._database.run_unawaited(partial(keep, row=row, now=refused.at))
        except DatabaseUnavailableError:
            # What is wrong with the database is said elsewhere.
            return
        except Exception as error:  # noqa: BLE001 -- whatever it is, the next one may be kept
            if not self._has_warned:
                _log.warning("refused deliveries are not kept", extra=failure(error))
            self._has_warned = True


def sealed_row(vault: Vault, refused: Refused) -> dict[str, object]:
    """Seal a delivery, as a row that is not written yet. Every text has a bound, since a sender chose it."""
    delivery, row_id = refused.delivery, uuid7()
    signed = {
        "client-id": delivery.client_id,
        "request-time": delivery.request_time,
        "signature": delivery.signature,
    }
    # An absent one stays absent: that may be the reason.
    headers = {name: refused.headers[name] for name in KEPT_HEADERS if name in refused.headers} | {
        name: value for name, value in signed.items() if value
    }
    head = {
        "method": delivery.method[:SHOWN_CHARACTERS_MAX],
        "uri": delivery.uri[:_HEADER_CHARACTERS_MAX],
        "headers": {name: value[:_HEADER_CHARACTERS_MAX] for name, value in headers.items()},
    }
    return {
        "id": row_id,
        "client_id": shown_client_id(delivery.client_id, is_known=refused.is_known_client),
        "is_known_client": refused.is_known_client,
        "cause": refused.cause,
        "key_version": named_key_version(delivery.signature),
        "path": shown_path(delivery.uri),
        "address": delivery.origin.address[:SHOWN_CHARACTERS_MAX],
        "request_id": delivery.origin.request_id[:SHOWN_CHARACTERS_MAX],
        "at": refused.at,
        "sealed_head": vault.seal(json.dumps(head), column=HEAD_COLUMN, row_key=row_id.bytes),
        "sealed_body": vault.seal(delivery.body, column=BODY_COLUMN, row_key=row_id.bytes),
    }


# --- in the database -------------------------------------------------------------------------------------------------


def keep(session: Session, row: Mapping[str, object], *, now: datetime) -> None:
    """Insert a row, and delete what there is no room for any more."""
    session.execute(insert(RefusedDelivery), [dict(row)])
    columns = (RefusedDelivery.id, RefusedDelivery.client_id, RefusedDelivery.is_known_client, RefusedDelivery.cause)
    rows = session.execute(select(*columns, RefusedDelivery.at).order_by(RefusedDelivery.id.desc())).all()
    superfluous = [each.id for each in rows if each.at < now - AGE_MAX]
    buckets: defaultdict[Bucket, list[tuple[datetime, UUID]]] = defaultdict(list)
    for each in rows:
        if each.at >= now - AGE_MAX:
            buckets[each.client_id if each.is_known_client else None, each.cause].append((each.at, each.id))
    superfluous += _beyond_the_bounds(list(buckets.values()))
    if superfluous:
        session.execute(delete(RefusedDelivery).where(RefusedDelivery.id.in_(superfluous)))


def _beyond_the_bounds(buckets: Sequence[list[tuple[datetime, UUID]]]) -> Iterator[UUID]:
    """Take out of these, all newest first, what there is no room for: of the fullest, so that none fills it all."""
    while buckets:
        fullest = max(filter(None, reversed(buckets)), key=len)
        if len(fullest) <= KEPT_OF_ONE_MAX and sum(map(len, buckets)) <= KEPT_MAX:
            return
        yield fullest.pop(_least_missed(fullest))[1]


def _least_missed(bucket: Sequence[tuple[datetime, UUID]]) -> int:
    """Say which of them is to go: behind the newest ones that which came closest before the next."""
    if len(bucket) <= KEPT_NEWEST:
        return len(bucket) - 1
    return min(range(KEPT_NEWEST, len(bucket)), key=lambda at: bucket[at - 1][0] - bucket[at][0])


def purge(session: Session, *, now: datetime) -> int:
    """Delete what is older than a day, also where nothing new is kept, and return how many that were."""
    old = delete(RefusedDelivery).where(RefusedDelivery.at < now - AGE_MAX).returning(RefusedDelivery.id)
    return len(session.execute(old).all())


def erase(session: Session) -> int:
    """Delete all of it, and return how many that were.

    Nobody has verified whose they are, and a user's data may be in any of them.
    """
    return len(session.execute(delete(RefusedDelivery).returning(RefusedDelivery.id)).all())


def listing(session: Session, *, limit: int, now: datetime) -> Sequence[RefusedDelivery]:
    """List what is kept, newest first."""
    newest = select(RefusedDelivery).where(RefusedDelivery.at >= now - AGE_MAX).order_by(RefusedDelivery.id.desc())
    return session.scalars(newest.limit(limit)).all()


def find(session: Session, refused_id: UUID) -> RefusedDelivery | None:
    """Find one by its id."""
    return session.get(RefusedDelivery, refused_id)


def open_request(vault: Vault, row: RefusedDelivery) -> HttpRequest:
    """Open one as the HTTP request that was verified, with the headers that were kept. Raises `VaultError`."""
    head = json.loads(vault.open_text(row.sealed_head, column=HEAD_COLUMN, row_key=row.id.bytes))
    body = vault.open_bytes(row.sealed_body, column=BODY_COLUMN, row_key=row.id.bytes)
    return HttpRequest(head["method"], head["uri"], head["headers"], body)
