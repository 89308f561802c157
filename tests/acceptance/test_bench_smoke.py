"""The bench's parts do what its figures rest on. Nothing here says how fast anything is."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, delete, func, select, update

from app.alipay.delivery import parse_request
from app.alipay.keyring import Keyring
from app.alipay.signature import verify
from app.models import Authorization, InboxEntry
from benchmarks.audit import NotOnRecordError, audit
from benchmarks.contestants import NOTIFYAUTH_SQLITE, Size
from benchmarks.databases import OneDatabase, Secrets, consult
from benchmarks.mix import EARLY_SHARE, REPEATED_SHARE, Mix, make_mix, sign_mix
from benchmarks.report import table, write_between
from benchmarks.rounds import Course, Plan, measure
from benchmarks.wire import Traffic, tapped

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


def test_a_twentieth_of_the_mix_overtakes_what_it_waits_for() -> None:
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


def test_what_is_acknowledged_has_to_be_on_record(sqlite_url: str, tmp_path: Path) -> None:
    secrets = Secrets.make(tmp_path)
    signed = sign_mix(make_mix(PLAN.prepared, connections=PLAN.connections), secrets.keyring)
    for request in signed.requests[:10]:
        verify(parse_request(request), Keyring.load(secrets.keyring))
    consult(sqlite_url, signed.mix.lives)
    course = Course.prepared(tmp_path, PLAN, secrets, signed, {"sqlite": OneDatabase(sqlite_url, None)})
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
