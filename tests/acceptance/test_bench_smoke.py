"""The bench's parts do what its figures rest on. Nothing here says how fast anything is."""

import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
import urllib3
from click import ClickException
from click.testing import CliRunner
from sqlalchemy import create_engine, delete, func, inspect, select, update
from typing_extensions import override

from app.alipay.acknowledgement import ACKNOWLEDGEMENT
from app.alipay.delivery import parse_request
from app.alipay.keyring import Keyring
from app.alipay.signature import verify
from app.models import Authorization, InboxEntry
from benchmarks.__main__ import compare_contestants
from benchmarks.audit import NotOnRecordError, audit
from benchmarks.contestants import NOTIFYAUTH_SQLITE, Size
from benchmarks.databases import (
    HERE,
    OneDatabase,
    Secrets,
    WorkTree,
    consult,
    running_postgresql,
    sqlite_databases,
)
from benchmarks.load import LoadClient, Script
from benchmarks.mix import EARLY_SHARE, REPEATED_SHARE, Mix, make_mix, sign_mix
from benchmarks.receiver import Received, WebhookReceiver
from benchmarks.report import table, write_between
from benchmarks.rounds import Course, Plan, measure
from benchmarks.wire import Traffic, tapped

#: The servers of test_server and test_server_workers run the same lines, and are measured.
pytestmark = pytest.mark.no_cover

PLAN = Plan(Size(workers=1, threads=2), connections=4, seconds=1, most_per_second=200)


def first_places(mix: Mix) -> dict[int, tuple[int, int]]:
    """On which connection, and as which request of it, each notification is sent first."""
    places: dict[int, tuple[int, int]] = {}
    for lane, numbers in enumerate(mix.lanes):
        for place, number in enumerate(numbers):
            places.setdefault(number, (lane, place))
    return places


def test_a_tenth_of_the_mix_is_repeated() -> None:
    mix = make_mix(4000, connections=8)
    sent = [number for lane in mix.lanes for number in lane]
    assert len(sent) == 4000
    assert len(sent) - len(set(sent)) == pytest.approx(len(sent) * REPEATED_SHARE, abs=8)


def test_a_twentieth_of_the_mix_arrives_before_its_predecessor() -> None:
    mix = make_mix(4000, connections=8)
    order = ["AUTHCODE_CREATED", "TOKEN_CREATED", "TOKEN_CANCELED"]
    early = 0
    for life in mix.lives:
        places = [order.index(notification.type) for notification in life.notifications]
        early += sum(later < earlier for earlier, later in pairwise(places))
    assert early == pytest.approx(len(mix.notifications) * EARLY_SHARE, abs=1)


def test_every_kind_is_in_the_mix_and_a_life_stays_on_its_connection() -> None:
    mix = make_mix(4000, connections=8)
    kinds = Counter(mix.notifications[number].type for lane in mix.lanes for number in lane)
    assert all(kinds[kind] > 600 for kind in ("AUTHCODE_CREATED", "TOKEN_CREATED", "TOKEN_CANCELED"))
    lanes = {(mix.life_of[number], lane) for number, (lane, _) in first_places(mix).items()}
    assert len({life for life, _ in lanes}) == len(lanes)


def test_an_acknowledgement_without_a_row_fails_the_bench(sqlite_url: str, tmp_path: Path) -> None:
    secrets = Secrets.make(tmp_path)
    signed = sign_mix(make_mix(PLAN.prepared, connections=PLAN.connections), secrets.keyring)
    for request in signed.requests[:10]:
        verify(parse_request(request), Keyring.load(secrets.keyring))
    consult(sqlite_url, signed.mix.lives)
    course = Course.prepared(tmp_path, PLAN, secrets, signed, {("sqlite", HERE): OneDatabase(sqlite_url, None)})
    measured = measure(NOTIFYAUTH_SQLITE, course)
    assert measured.per_second > 0
    assert not measured.refused
    assert (measured.server_cpu_ms or 0) > 0
    assert measured.wal_bytes is None

    engine = create_engine(sqlite_url)
    with engine.connect() as connection:
        numbers = [signed.signatures.index(each) for each in connection.scalars(select(InboxEntry.signature))]
    audit(sqlite_url, signed, numbers)
    with engine.begin() as connection:
        ended = update(Authorization).where(Authorization.version > 1).values(state="consulted")
        connection.execute(ended)
    with pytest.raises(NotOnRecordError, match="did not end"):
        audit(sqlite_url, signed, numbers)
    with engine.begin() as connection:
        connection.execute(delete(InboxEntry).where(InboxEntry.id == select(func.min(InboxEntry.id)).scalar_subquery()))
    engine.dispose()
    with pytest.raises(NotOnRecordError, match=r"^1 acknowledged notifications are not on record"):
        audit(sqlite_url, signed, numbers)


def test_a_rate_is_kept_from_the_first_request_on(sqlite_url: str, tmp_path: Path) -> None:
    plan = replace(PLAN, rate=20)
    secrets = Secrets.make(tmp_path)
    signed = sign_mix(make_mix(plan.prepared, connections=plan.connections), secrets.keyring)
    consult(sqlite_url, signed.mix.lives)
    course = Course.prepared(tmp_path, plan, secrets, signed, {("sqlite", HERE): OneDatabase(sqlite_url, None)})
    measured = measure(NOTIFYAUTH_SQLITE, course)
    engine = create_engine(sqlite_url)
    with engine.connect() as connection:
        deliveries = connection.scalar(select(func.sum(InboxEntry.deliveries)))
    engine.dispose()
    # For a second, and a quarter before it.
    assert 0 < (deliveries or 0) + measured.unsent <= 26


class Hesitant(BaseHTTPRequestHandler):
    """Acknowledges everything, a little late."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(0.1)
        self.send_response(200)
        self.send_header("Content-Length", str(len(ACKNOWLEDGEMENT)))
        self.end_headers()
        self.wfile.write(ACKNOWLEDGEMENT)

    @override
    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_requests_that_were_due_and_not_sent_are_counted(tmp_path: Path) -> None:
    request = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}"
    script = tmp_path / "script"
    Script([request], [[0], [0]]).save(script)
    with ThreadingHTTPServer(("127.0.0.1", 0), Hesitant) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with LoadClient(script, server.server_port, rate=100, endless=True) as client:
            sent = client.send(1)
        server.shutdown()
    assert not sent.refused
    # Two connections can bear twenty a second.
    assert len(sent.acknowledged) <= 22
    assert sent.unsent >= 75


def test_a_receiver_counts_webhooks_and_how_late_codes_come() -> None:
    expires_at = (datetime.now(UTC) + timedelta(seconds=58)).isoformat()
    with WebhookReceiver() as receiver:
        url = f"http://127.0.0.1:{receiver.port}/hook"
        for data in ({"expiresAt": expires_at}, {}):
            assert urllib3.request("POST", url, json={"data": data}, retries=False).status == 204
        received = receiver.take()
        assert receiver.take() == Received()
    assert received.count == 2
    # It was received two seconds before.
    assert [each >= 2000 for each in received.code_ms] == [True]


def test_a_folder_without_the_service_is_not_measured(tmp_path: Path) -> None:
    refused = CliRunner().invoke(compare_contestants, ["--against", str(tmp_path)])
    assert refused.exit_code == 2
    assert "is no work tree of notifyauth" in refused.output


#: The `flask db upgrade` of a version that has a table of its own.
OLDER_FLASK = f"""#!{sys.executable}
import os, sqlite3
assert os.environ["PYTHONPATH"] == os.getcwd()
sqlite3.connect(os.environ["FLASK_DATABASE_URL"].removeprefix("sqlite:///")).execute("CREATE TABLE older (id INTEGER)")
"""


def test_each_version_has_a_database_with_the_tables_of_its_own_migrations(tmp_path: Path) -> None:
    older = tmp_path / "older"
    flask = older / ".venv" / "bin" / "flask"
    flask.parent.mkdir(parents=True)
    flask.write_text(OLDER_FLASK)
    flask.chmod(0o700)
    versions = [HERE, WorkTree.at(older)]
    databases = sqlite_databases(tmp_path, versions, Secrets.make(tmp_path), [])
    tables = []
    for version in versions:
        with databases[version].fresh() as url:
            engine = create_engine(url)
            tables.append(set(inspect(engine).get_table_names()))
            engine.dispose()
    assert "inbox" in tables[0]
    assert "older" not in tables[0]
    assert tables[1] == {"older"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///file.db", "is no URL of a PostgreSQL server"),
        ("nonsense", "is no URL of a PostgreSQL server"),
        ("postgresql://nobody@127.0.0.1:1/none", "connection failed"),
    ],
)
def test_a_given_database_that_cannot_be_used_is_named(url: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATABASE_URL", url)
    with pytest.raises(ClickException, match=said) as refusal, running_postgresql():
        pass
    assert refusal.value.message.startswith("BENCH_DATABASE_URL")


def test_round_trips_are_counted_as_often_as_the_conversation_turns(postgresql_url: str) -> None:
    with (
        tapped(postgresql_url) as (url, tap),
        psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as connection,
    ):
        before = tap.snapshot()
        with connection.transaction():
            connection.execute("SELECT 1")
        one_by_one = tap.per(before, 1)
        before = tap.snapshot()
        with connection.pipeline():
            for _ in range(5):
                connection.execute("SELECT repeat('long', 100000)")
        together = tap.per(before, 1)
    assert one_by_one == Traffic(statements=3, round_trips=3, commits=1)
    assert together.statements == 5
    assert together.round_trips < 5


def test_figures_are_written_between_the_marks_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- compare: begin -->\nold\n<!-- compare: end -->\nafter\n")
    write_between("compare", table(["", "naive"], [["rate", "1"]]), page)
    assert page.read_text() == (
        "before\n<!-- compare: begin -->\n"
        "|      | naive |\n"
        "|------|------:|\n"
        "| rate |     1 |\n"
        "<!-- compare: end -->\nafter\n"
    )
