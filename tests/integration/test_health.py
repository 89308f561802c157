"""The operator's endpoints: alive, ready, and the metrics that alerts watch."""

import re
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from app import create_app
from app.alipay.keyring_digest import keyring_digest
from app.alipay.notification import NotificationType
from app.alipay.signature import CAUSES
from app.config import new_vault_key
from app.counters import Memory
from app.models import REVISION, InboxEntry
from app.simulator.draft import authcode_created, token_canceled, token_created
from app.simulator.keys import SANDBOX_CLIENT_ID
from app.vocabulary import Outcome
from tests.builders import a_genuine_delivery, an_environ
from tests.integration.http_client import API_KEY, NOTIFY_PATH, HttpClient
from tests.integration.shell import Shell


def figures(http: HttpClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of the metrics page, by name and labels."""
    page = http.get("/metrics").text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def figure(http: HttpClient, name: str, **labels: str) -> float:
    return figures(http).get((name, frozenset(labels.items())), 0)


def test_the_process_is_alive_whatever_the_database_does(keyring_path: Path) -> None:
    http = HttpClient(create_app(an_environ("postgresql://nobody@127.0.0.1:1/nothing", keyring_path)), keyring_path)
    assert http.get("/healthz", key=None).get_json() == {"status": "ok"}
    unready = http.get("/readyz", key=None)
    assert (unready.status_code, unready.get_json()["checks"]["database"].split(":")[0]) == (503, "unreachable")


def test_the_release_and_its_revision_are_told_without_a_key(http: HttpClient) -> None:
    told = http.get("/version", key=None).get_json()
    assert told == {"name": "notifyauth", "version": version("notifyauth"), "revision": REVISION}


def test_a_service_with_everything_in_place_is_ready(http: HttpClient) -> None:
    ready = http.get("/readyz", key=None)
    assert (ready.status_code, ready.get_json()["status"]) == (200, "ready")


def test_a_database_of_another_version_is_not_ready(http: HttpClient) -> None:
    _ = http.service.vault
    http.service.database.run(lambda session: session.execute(text("UPDATE alembic_version SET version_num = 'x'")))
    unready = http.get("/readyz", key=None)
    assert unready.get_json()["checks"]["migrated"] == "run flask db upgrade"


def test_a_wrong_vault_key_is_not_ready(http: HttpClient, database_url: str, keyring_path: Path) -> None:
    _ = http.service.vault
    wrong = HttpClient(create_app(an_environ(database_url, keyring_path)), keyring_path)
    unready = wrong.get("/readyz", key=None)
    assert (unready.status_code, unready.get_json()["checks"]["vault"]) == (503, "does not open")
    wrong.service.database.close()


def test_a_machine_that_lacks_the_vault_key_of_the_others_is_not_ready(database_url: str, keyring_path: Path) -> None:
    """The index key, which was sealed under a key that both have, opens: only what is sealed now does not."""
    old, new = new_vault_key(), new_vault_key()
    environ = an_environ(database_url, keyring_path)
    behind, ahead = (
        HttpClient(create_app(environ | {"FLASK_VAULT_KEYS": keys}), keyring_path) for keys in (old, f"{new},{old}")
    )
    for each in (behind, ahead):
        each.notify(authcode_created("s-1", "code-1") if each is behind else token_created("s-1", "token-1"))
    missing = ahead.service.sealer.key_ids[0]
    checks = behind.get("/readyz", key=None).get_json()["checks"]
    assert checks["vault"] == f"does not open what another machine seals: vault key {missing} is missing here"
    assert ahead.get("/readyz", key=None).status_code == 200
    for each in (behind, ahead):
        each.service.database.close()


def test_metrics_need_a_key_unless_they_are_open(http: HttpClient, sqlite_url: str, keyring_path: Path) -> None:
    assert http.get("/metrics", key=None).status_code == 401
    assert http.get("/metrics").status_code == 200
    opened = HttpClient(create_app(an_environ(sqlite_url, keyring_path, FLASK_METRICS_OPEN="1")), keyring_path)
    assert opened.get("/metrics", key=None).status_code == 200
    opened.service.database.close()


def test_deliveries_and_outcomes_are_counted(http: HttpClient) -> None:
    before = figures(http)
    http.consult()
    http.notify(authcode_created("s-1", "code-1"))
    http.notify(authcode_created("s-1", "code-1"))
    http.notify(b"{}")

    def gained(name: str, **labels: str) -> float:
        return figure(http, name, **labels) - before.get((name, frozenset(labels.items())), 0)

    assert gained("notifyauth_deliveries_total", status="200") == 2
    assert gained("notifyauth_deliveries_total", status="400") == 1
    assert gained("notifyauth_notifications_total", type="AUTHCODE_CREATED", outcome="applied") == 1
    assert gained("notifyauth_notifications_total", type="other", outcome="malformed") == 1
    assert gained("notifyauth_delivery_seconds_count") == 3


def test_a_client_id_that_is_not_in_the_keyring_is_no_label(http: HttpClient) -> None:
    before = figure(http, "notifyauth_signature_failures_total", client_id="unknown", cause="unknown_client")
    for number in range(3):
        http.app.test_client().post(NOTIFY_PATH, data=b"{}", headers={"client-id": f"stranger-{number}"})
    after = figure(http, "notifyauth_signature_failures_total", client_id="unknown", cause="unknown_client")
    assert after - before == 3
    assert "stranger" not in http.get("/metrics").text


def test_every_series_is_there_before_its_first_event(http: HttpClient) -> None:
    """What appeared with its first event would have no increase that an alert could see."""
    there = set(figures(http))
    for status in ("200", "400", "401", "503"):
        assert ("notifyauth_deliveries_total", frozenset({("status", status)})) in there
    for kind, outcome in product((*NotificationType, "other"), Outcome):
        labels = frozenset({("type", str(kind)), ("outcome", str(outcome))})
        assert (("notifyauth_notifications_total", labels) in there) == (outcome != "dismissed")
    for cause in CAUSES:
        client_id = "unknown" if cause == "unknown_client" else SANDBOX_CLIENT_ID
        labels = frozenset({("client_id", client_id), ("cause", cause)})
        assert ("notifyauth_signature_failures_total", labels) in there
    for reason in ("unknown_auth_state", "unknown_token", "early", "unknown_type"):
        assert ("notifyauth_parked_entries", frozenset({("reason", reason)})) in there
        for age in ("1m", "10m", "1h", "1d"):
            labels = frozenset({("reason", reason), ("older_than", age)})
            assert ("notifyauth_parked_entries_by_age", labels) in there
    for name in ("purge", "reseal", "verify"):
        assert ("notifyauth_last_run_timestamp_seconds", frozenset({("maintenance", name)})) in there
    assert {
        ("notifyauth_failed_entries", frozenset()),
        ("notifyauth_log_lines_dropped_total", frozenset()),
        ("notifyauth_misdirected_deliveries_total", frozenset({("status", "404")})),
        ("notifyauth_refused_requests_total", frozenset({("status", "413"), ("where", "api")})),
        ("notifyauth_last_verified_timestamp_seconds", frozenset({("client_id", SANDBOX_CLIENT_ID)})),
        ("notifyauth_build_info", frozenset({("version", version("notifyauth")), ("revision", REVISION)})),
    } <= there


def test_a_machine_shows_which_keyring_it_has_and_under_which_vault_key_it_seals(http: HttpClient) -> None:
    there = set(figures(http))
    for name, label, value in (
        ("notifyauth_keyring_info", "digest", keyring_digest(http.service.keyring)),
        ("notifyauth_vault_info", "key_id", http.service.sealer.key_ids[0]),
    ):
        assert [labels for each, labels in there if each == name] == [frozenset({(label, value)})]


def test_looking_at_the_metrics_makes_no_vault_key(tmp_path: Path, keyring_path: Path) -> None:
    app = create_app({"FLASK_DATABASE_URL": f"sqlite:///{tmp_path}/none.db", "FLASK_METRICS_OPEN": "1"})
    http = HttpClient(app, keyring_path)
    assert "notifyauth_vault_info{" not in http.get("/metrics").text
    assert "sealer" not in vars(http.service)
    http.service.database.close()


def test_a_metrics_key_reads_the_metrics_and_nothing_else(database_url: str, keyring_path: Path) -> None:
    environ = an_environ(database_url, keyring_path, FLASK_API_KEYS="shop=k-1", FLASK_METRICS_KEYS="shop=k-2,other=k-3")
    scraped = HttpClient(create_app(environ), keyring_path)
    assert [scraped.get("/metrics", key=key).status_code for key in ("k-1", "k-2", "k-3", "k-4")] == [
        200,
        200,
        200,
        401,
    ]
    assert [scraped.get("/v1/authorizations", key=key).status_code for key in ("k-1", "k-2", "k-3")] == [200, 401, 401]
    scraped.service.database.close()


def test_failed_entries_are_shown_until_they_are_repaired(http: HttpClient) -> None:
    http.consult()
    http.notify(authcode_created("s-1", "code-1"))
    assert figure(http, "notifyauth_failed_entries") == 0
    set_outcome(http, "failed")
    assert figure(http, "notifyauth_failed_entries") == 1


def set_outcome(http: HttpClient, outcome: str) -> None:
    http.service.database.run(lambda session: session.execute(update(InboxEntry).values(outcome=outcome)))


def test_one_old_parked_entry_hides_no_other(http: HttpClient) -> None:
    now = datetime.now(UTC)
    for number, age in enumerate([timedelta(days=30), timedelta(minutes=30), timedelta(seconds=0)]):
        http.notify(token_canceled(f"token-{number}"))
        newest = update(InboxEntry).where(InboxEntry.received_at >= now).values(received_at=now - age)
        http.service.database.run(partial(Session.execute, statement=newest))
    ages = ("1m", "10m", "1h", "1d")
    assert [
        figure(http, "notifyauth_parked_entries_by_age", reason="unknown_token", older_than=age) for age in ages
    ] == [2, 2, 1, 1]
    set_outcome(http, "dismissed")
    assert figure(http, "notifyauth_parked_entries", reason="unknown_token") == 0
    assert figure(http, "notifyauth_parked_oldest_seconds", reason="unknown_token") == 0


def test_metrics_show_when_a_client_last_sent_an_authentic_delivery(
    http: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other tests of this process have clocks of their own, and only the latest time is shown.
    monkeypatch.setattr("app.metrics._memory", Memory())
    before = time.time()
    http.notify(b"{}")
    heard = figure(http, "notifyauth_last_verified_timestamp_seconds", client_id=SANDBOX_CLIENT_ID)
    assert before <= heard <= time.time()
    http.app.test_client().post(NOTIFY_PATH, data=b"{}", headers={"client-id": SANDBOX_CLIENT_ID})
    assert figure(http, "notifyauth_last_verified_timestamp_seconds", client_id=SANDBOX_CLIENT_ID) == heard


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("purge", ("inbox", "purge", "--older-than", "90d", "--yes")),
        ("reseal", ("keys", "reseal")),
        ("verify", ("authorizations", "verify")),
    ],
)
def test_metrics_show_when_maintenance_last_succeeded(http: HttpClient, name: str, command: tuple[str, ...]) -> None:
    assert figure(http, "notifyauth_last_run_timestamp_seconds", maintenance=name) == 0
    for _ in range(2):
        before = time.time()
        Shell(http.app, http.keyring_path).ask(*command)
        assert before - 1 <= figure(http, "notifyauth_last_run_timestamp_seconds", maintenance=name) <= time.time()


def test_a_purge_that_is_refused_is_no_run(http: HttpClient) -> None:
    assert Shell(http.app, http.keyring_path).run("inbox", "purge", "--older-than", "1h", "--yes").exit_code == 2
    assert figure(http, "notifyauth_last_run_timestamp_seconds", maintenance="purge") == 0


def test_parked_entries_are_shown_by_reason_with_the_age_of_the_oldest(http: HttpClient) -> None:
    http.notify(token_canceled("token-1"))
    http.notify(token_canceled("token-2"))
    http.notify(authcode_created("s-9", "code-1"))
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    oldest = update(InboxEntry).where(InboxEntry.type == "TOKEN_CANCELED").values(received_at=an_hour_ago)
    http.service.database.run(lambda session: session.execute(oldest))
    assert figure(http, "notifyauth_parked_entries", reason="unknown_token") == 2
    assert figure(http, "notifyauth_parked_entries", reason="unknown_auth_state") == 1
    assert 3600 <= figure(http, "notifyauth_parked_oldest_seconds", reason="unknown_token") < 3700


def test_metrics_are_shown_while_the_database_is_away(keyring_path: Path) -> None:
    environ = an_environ("postgresql://nobody@127.0.0.1:1/nothing", keyring_path, FLASK_API_KEYS=API_KEY)
    page = HttpClient(create_app(environ), keyring_path).get("/metrics")
    assert page.status_code == 200
    assert re.search(r"^notifyauth_deliveries_total", page.text, re.MULTILINE) or "notifyauth_deliveries" in page.text


def test_no_secret_is_in_the_metrics(http: HttpClient) -> None:
    delivery = a_genuine_delivery(http.keyring_path, token_canceled("token-5f1c"))
    http.notify(delivery.body)
    assert "token-5f1c" not in http.get("/metrics").text
