"""Refused deliveries are kept for a day, sealed and bounded, and no answer waits for that."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session
from typing_extensions import override

from app import quarantine, rotation
from app.alipay.delivery import Delivery, Origin
from app.alipay.diagnosis import diagnose, keys_at_hand
from app.alipay.signature import Cause
from app.database import Database, DatabaseUnavailableError
from app.erasure import Erasure
from app.models import RefusedDelivery
from app.quarantine import KEPT_HEADERS, KEPT_MAX, KEPT_NEWEST, KEPT_OF_ONE_MAX, Quarantine, Refused
from app.receiver import Receiver
from app.simulator.draft import authcode_created
from app.vault import Sealer, Vault, new_index_key
from app.worker import Worker
from tests.builders import CLIENT_ID, a_body, a_delivery, a_signed_delivery
from tests.integration.http_client import HttpClient
from tests.integration.stage import NOON, Stage

ORIGIN = Origin("request-1", "203.0.113.9", "198.51.100.1")


def a_refused(
    *,
    client_id: str = CLIENT_ID,
    cause: Cause = "mismatch",
    is_known: bool = True,
    at: Any = NOON,  # noqa: ANN401 -- a time
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Refused:
    delivery = replace(a_delivery(client_id=client_id, signature="s", body=body), origin=ORIGIN)
    return Refused(delivery, cause, is_known, headers or {}, at)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the service logs."""
    logging.getLogger("app").addHandler(caplog.handler)
    yield caplog
    logging.getLogger("app").removeHandler(caplog.handler)


@pytest.fixture
def keeper(stage: Stage) -> Iterator[Quarantine]:
    """Writes as often as it can."""
    with closing(Quarantine(stage.database, stage.vault, pause_seconds=0)) as keeper:
        yield keeper


def kept(stage: Stage) -> Sequence[RefusedDelivery]:
    """Everything that is in the table, oldest first."""
    return stage.database.run(
        lambda session: session.scalars(select(RefusedDelivery).order_by(RefusedDelivery.id)).all(), read_only=True
    )


def keep_all(stage: Stage, *refused: Refused) -> None:
    """Write them one after another, as the thread does."""
    for each in refused:
        row = quarantine.sealed_row(stage.vault, each)
        stage.database.run(partial(quarantine.keep, row=row, now=each.at))


def wait_for(stage: Stage, count: int) -> Sequence[RefusedDelivery]:
    deadline = time.monotonic() + 20
    while len(rows := kept(stage)) < count:
        assert time.monotonic() < deadline, f"{len(rows)} of {count}"
        time.sleep(0.01)
    return rows


def a_receiver(stage: Stage, keeper: Quarantine) -> Receiver:
    return Receiver(stage.database, stage.keyring, stage.vault, clock=stage.clock, when_refused=keeper.offer)


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_a_refused_delivery_is_kept_sealed_as_it_was_verified(stage: Stage, keeper: Quarantine) -> None:
    signed = a_signed_delivery(stage.alipay_key, uri="/alipay/notifyAuthorization?tenant=7")
    forged = replace(signed, body=a_body(accessToken="secret-token"), origin=ORIGIN)
    answer = a_receiver(stage, keeper).receive_later(forged, other_headers=lambda: {"host": "shop.example"})
    assert answer.result().answer.status == 401
    (row,) = wait_for(stage, 1)
    assert (row.client_id, row.is_known_client, row.cause, row.key_version) == (CLIENT_ID, True, "mismatch", 1)
    assert (row.path, row.address, row.request_id) == (
        "/alipay/notifyAuthorization?...",
        "203.0.113.9",
        "request-1",
    )
    assert row.at == NOON
    assert b"secret-token" not in row.sealed_body
    assert b"tenant" not in row.sealed_head
    request = quarantine.open_request(stage.vault, row)
    assert request.delivery == replace(forged, origin=Origin())
    assert request.headers["host"] == "shop.example"


def test_an_authentic_delivery_is_not_kept_there(stage: Stage, keeper: Quarantine) -> None:
    delivery = a_signed_delivery(stage.alipay_key, body=authcode_created("s-1", "code-1").body())
    receiver = a_receiver(stage, keeper)
    assert receiver.receive(delivery).answer.status == 200
    receiver.receive(replace(delivery, signature=""))
    assert [row.cause for row in wait_for(stage, 1)] == ["header"]


def test_a_header_that_did_not_come_stays_absent(stage: Stage) -> None:
    keep_all(stage, Refused(a_delivery(client_id=""), "unknown_client", is_known_client=False, headers={}, at=NOON))
    (row,) = kept(stage)
    assert "client-id" not in quarantine.open_request(stage.vault, row).headers
    assert row.client_id == ""


def test_whatever_a_sender_wrote_has_a_bound_and_can_be_stored(stage: Stage) -> None:
    long = Delivery("POST", "/" + "p" * 70_000, "\xe9\\" * 5000, "t" * 70_000, "s" * 70_000, b"\xff\x00")
    headers = {"host": "h" * 70_000, "not-kept": "x"}
    keep_all(stage, Refused(long, "header", is_known_client=False, headers=headers, at=NOON))
    (row,) = kept(stage)
    assert (row.client_id, len(row.path)) == ("\xe9\\\xe9\\" * 2 + "... (10000 characters)", 256)
    request = quarantine.open_request(stage.vault, row)
    assert {len(value) for value in request.headers.values()} == {8192}
    assert set(request.headers) == {"host", "client-id", "request-time", "signature"}
    assert request.body == b"\xff\x00"


def test_every_header_that_a_diagnosis_reads_is_kept(stage: Stage) -> None:
    read = set()

    class Noting(dict[str, str]):
        @override
        def get(self, key: str, default: Any = None) -> Any:
            read.add(key)
            return default

        def __bool__(self) -> bool:
            return True

    signed = a_signed_delivery(stage.alipay_key)
    diagnose(replace(signed, body=b"x"), keys_at_hand(stage.keyring), headers=Noting())
    # WSGI cannot tell these from their twins with a hyphen, which are signed.
    assert read - {"client_id", "request_time"} <= set(KEPT_HEADERS)
    assert len(read) > 10


# --- its bounds ------------------------------------------------------------------------------------------------------


def bodies_of(stage: Stage) -> list[bytes]:
    return [quarantine.open_request(stage.vault, row).body for row in kept(stage)]


def test_twenty_of_a_client_and_cause_are_kept_and_the_newest_of_them(stage: Stage) -> None:
    keep_all(stage, a_refused(cause="stale"))
    keep_all(stage, *(a_refused(body=b"%d" % number) for number in range(KEPT_OF_ONE_MAX + 3)))
    newest = range(KEPT_OF_ONE_MAX + 3 - KEPT_NEWEST, KEPT_OF_ONE_MAX + 3)
    assert bodies_of(stage)[1:] == [b"%d" % number for number in (*range(KEPT_OF_ONE_MAX - KEPT_NEWEST), *newest)]


def test_forged_deliveries_in_a_clients_name_do_not_push_out_what_it_was_refused_before(stage: Stage) -> None:
    for genuine in (b"genuine 1", b"genuine 2"):
        keep_all(stage, a_refused(body=genuine, at=stage.clock.now))
        stage.clock.forward(minutes=10)
    for _ in range(5 * KEPT_OF_ONE_MAX):
        keep_all(stage, a_refused(body=b"forged", at=stage.clock.now))
        stage.clock.forward(seconds=1)
    assert bodies_of(stage) == [b"genuine 1", b"genuine 2", *([b"forged"] * (KEPT_OF_ONE_MAX - 2))]


def test_forged_deliveries_in_the_names_of_many_push_out_no_one_elses(stage: Stage) -> None:
    keep_all(stage, a_refused(body=b"genuine"))
    for number in range(KEPT_MAX + 20):
        keep_all(stage, a_refused(client_id=f"client {number % 15}", body=b"forged"))
    assert len(kept(stage)) == KEPT_MAX
    assert bodies_of(stage)[0] == b"genuine"


def test_unknown_clients_share_the_room_of_one(stage: Stage) -> None:
    keep_all(stage, a_refused())
    strangers = (a_refused(client_id=f"made up {number}", is_known=False) for number in range(KEPT_OF_ONE_MAX + 5))
    keep_all(stage, *strangers)
    assert sum(not row.is_known_client for row in kept(stage)) == KEPT_OF_ONE_MAX
    assert sum(row.is_known_client for row in kept(stage)) == 1


def test_there_are_never_more_than_two_hundred(stage: Stage) -> None:
    keep_all(stage, *(a_refused(client_id=f"client {number}") for number in range(KEPT_MAX + 3)))
    rows = kept(stage)
    assert (len(rows), rows[0].client_id) == (KEPT_MAX, "client 3")


def test_after_a_day_it_is_gone_also_where_nothing_new_comes(stage: Stage) -> None:
    keep_all(stage, a_refused(), a_refused(at=NOON + timedelta(hours=12)))
    day = NOON + timedelta(days=1, seconds=1)
    listed = stage.database.run(partial(quarantine.listing, limit=50, now=day), read_only=True)
    assert [row.at for row in listed] == [NOON + timedelta(hours=12)]
    assert stage.database.run(partial(quarantine.purge, now=day)) == 1
    assert len(kept(stage)) == 1
    keep_all(stage, a_refused(at=NOON + timedelta(days=3)))
    assert len(kept(stage)) == 1


def test_the_background_worker_purges_it(http: HttpClient) -> None:
    service = http.service
    row = quarantine.sealed_row(service.vault, a_refused(at=NOON - timedelta(days=900)))
    service.database.run(lambda session: quarantine.keep(session, row, now=NOON - timedelta(days=900)))
    stop = threading.Event()
    thread = threading.Thread(target=Worker(service).run_until, args=(stop,))
    thread.start()
    deadline = time.monotonic() + 20
    count: Any = 1
    while count and time.monotonic() < deadline:
        count = service.database.run(
            lambda session: session.execute(text("SELECT count(*) FROM refused_deliveries")).scalar_one()
        )
        time.sleep(0.01)
    stop.set()
    thread.join()
    assert count == 0


def test_all_of_it_can_be_erased(stage: Stage) -> None:
    keep_all(stage, a_refused(), a_refused(is_known=False))
    assert stage.database.run(quarantine.erase) == 2
    assert kept(stage) == []


def test_it_is_erased_with_any_user_since_nobody_knows_whose_it_is(stage: Stage) -> None:
    keep_all(stage, a_refused())
    stage.receiver.erase(Erasure(stage.consult(), is_forced=True))
    assert kept(stage) == []


def test_it_opens_after_the_vault_key_was_changed(stage: Stage) -> None:
    index_key, old, new = new_index_key(), b"o" * 32, b"n" * 32
    stage.vault = Vault(Sealer([old]), index_key)
    keep_all(stage, a_refused(body=b"body"))
    both = Vault(Sealer([new, old]), index_key)
    for column in rotation.SEALED_COLUMNS:
        stage.database.run(partial(rotation.reseal_batch, vault=both, sealed_column=column, after=None))
    (row,) = kept(stage)
    assert quarantine.open_request(Vault(Sealer([new]), index_key), row).body == b"body"


# --- no answer waits for it ------------------------------------------------------------------------------------------


def test_of_a_flood_one_is_written_in_each_pause(stage: Stage) -> None:
    with closing(Quarantine(stage.database, stage.vault, pause_seconds=60)) as keeper:
        keeper.offer(a_refused())
        wait_for(stage, 1)
        for _ in range(1000):
            keeper.offer(a_refused())
        assert len(kept(stage)) == 1
        keeper._pause_seconds = 0  # noqa: SLF001 -- its end does not wait for a pause of a minute


def test_a_flood_does_not_keep_out_what_somebody_will_ask_about(stage: Stage) -> None:
    keeper = Quarantine(stage.database, stage.vault)
    keeper._thread = threading.current_thread()  # noqa: SLF001 -- none takes what is offered
    keeper._taken_at[None, "unknown_client"] = 1.0  # noqa: SLF001 -- as after the first of a flood
    for number in range(5):
        keeper.offer(a_refused(client_id=f"made up {number}", is_known=False, cause="unknown_client"))
    keeper.offer(a_refused(cause="unknown_key"))
    for number in range(5):
        keeper.offer(a_refused(client_id=f"made up {number}", is_known=False, cause="unknown_client"))
    pending = keeper._pending  # noqa: SLF001 -- what is written next
    assert pending is not None
    assert pending.cause == "unknown_key"


def test_a_database_that_is_away_costs_no_answer_and_no_circuit(stage: Stage, tmp_path: Path) -> None:
    away = Database(f"sqlite:///{tmp_path}/gone.db")
    with closing(Quarantine(away, stage.vault, pause_seconds=0)) as keeper:
        receiver = a_receiver(stage, keeper)
        for _ in range(20):
            assert receiver.receive(a_delivery(signature="s")).answer.status == 401
        assert not away.is_circuit_open()
        body = authcode_created("s-1", "code-1").body()
        assert receiver.receive(a_signed_delivery(stage.alipay_key, body=body)).answer.status == 200
    assert not (tmp_path / "gone.db").exists()
    away.close()


def test_a_locked_table_delays_nobody(postgresql_stage: Stage) -> None:
    stage = postgresql_stage
    with (
        closing(Quarantine(stage.database, stage.vault, pause_seconds=0)) as keeper,
        stage.database.engine.connect() as other,
    ):
        receiver = a_receiver(stage, keeper)
        other.exec_driver_sql("LOCK TABLE refused_deliveries IN ACCESS EXCLUSIVE MODE")
        for _ in range(20):
            receiver.receive(a_delivery(signature="s"))
        assert stage.notify(authcode_created("s-1", "code-1")).answer.status == 200
        assert not stage.database.is_circuit_open()


def test_what_no_answer_waits_for_is_not_begun_while_the_circuit_is_open(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Database, "is_circuit_open", lambda _: True)

    def never(_session: Session) -> None:
        raise AssertionError

    with pytest.raises(DatabaseUnavailableError):
        stage.database.run_unawaited(never)


def test_a_fault_of_ours_is_logged_once_and_refuses_as_ever(stage: Stage, log: pytest.LogCaptureFixture) -> None:
    stage.database.run(lambda session: session.execute(text("DROP TABLE refused_deliveries")))
    with closing(Quarantine(stage.database, stage.vault, pause_seconds=0)) as keeper:
        for _ in range(3):
            keeper._write(a_refused())  # noqa: SLF001 -- what the thread does
        assert a_receiver(stage, keeper).receive(a_delivery(signature="s")).answer.status == 401
    said = {id(record) for record in log.records if record.getMessage() == "refused deliveries are not kept"}
    assert len(said) == 1
