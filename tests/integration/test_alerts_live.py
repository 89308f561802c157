"""Each trouble is made for real: what /metrics shows before and after makes just the alerts fire that are meant."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import select, text, update

from app import create_app, maintenance, metrics
from app.alipay.keyring import Keyring, load_private_key
from app.config import new_vault_key
from app.counters import Memory
from app.events.schedule import PAUSES
from app.maintenance import Name
from app.models import Base, Call, WebhookDelivery
from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from app.simulator.forgery import Forgery, forge
from app.simulator.gateway.faults import Fault
from app.simulator.gateway.gateway import PretendGateway
from app.simulator.gateway.keys import client_keys
from app.simulator.keys import SANDBOX_CLIENT_ID, SIMULATOR_KEY_NAME, make_sandbox
from app.simulator.sender import Signer, headers_of
from app.worker import Worker
from tests.alerting import Figures, Story, assert_fires, figures_of, rules, with_promtool
from tests.builders import an_environ
from tests.integration.http_client import API_KEY, NOTIFY_PATH, HttpClient
from tests.soak.receiver import Receiver, write_endpoints

SECONDS_MAX = 30
MANAGED: tuple[Name, ...] = ("purge", "verify")


@dataclass
class World:
    """A service that tells an endpoint and makes calls, on a database of its own."""

    http: HttpClient
    shop: Receiver
    gateway: PretendGateway
    environ: dict[str, str]
    #: Who is asked for the metrics once there is trouble; nobody answers where it is none.
    asked: HttpClient | None = field(init=False)
    #: Another machine, which is scraped too.
    beside: HttpClient | None = None

    def __post_init__(self) -> None:
        self.asked = self.http

    @property
    def key(self) -> Any:  # noqa: ANN401 -- a private key
        return load_private_key(self.http.keyring_path.with_name(SIMULATOR_KEY_NAME).read_bytes())

    @property
    def file(self) -> Path:
        path = self.http.service.settings.sqlite_file
        assert path is not None
        return path

    def figures(self) -> Figures:
        scraped = [each for each in (self.beside, self.asked) if each is not None]
        return {key: value for each in scraped for key, value in figures_of(each.get("/metrics").text).items()}

    def say(self, statement: str, **values: object) -> None:
        """Change what is in the database."""
        self.http.service.database.run(lambda session: session.execute(text(statement), values))

    def age(self, table: str, column: str, **by: float) -> None:
        """Let something have happened longer ago."""
        then = datetime.now(UTC) - timedelta(**by)
        statement = update(Base.metadata.tables[table]).values({column: then})
        self.http.service.database.run(lambda session: session.execute(statement))

    def statuses(self, table: type[Call | WebhookDelivery]) -> list[str]:
        return self.http.service.database.run(lambda session: list(session.scalars(select(table.status))))

    def post(self, path: str, body: bytes = b"{}", **headers: str) -> int:
        return self.http.app.test_client().post(path, data=body, headers=headers).status_code

    def forge(self, forgery: Forgery | None, path: str = NOTIFY_PATH) -> int:
        delivery = forge(
            Signer(SANDBOX_CLIENT_ID, self.key), forgery, token_canceled("t").body(), uri=path, request_time="1"
        )
        return self.post(path, delivery.body, **headers_of(delivery))

    @contextmanager
    def working(self) -> Iterator[None]:
        """A worker in the background, until the end of the block."""
        stop = threading.Event()
        thread = threading.Thread(target=Worker(self.http.service).run_until, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(SECONDS_MAX)

    def until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while not is_so():
            assert time.monotonic() < deadline, (self.statuses(Call), self.statuses(WebhookDelivery))
            time.sleep(0.05)

    # --- what a merchant asks for ---

    def consult(self, auth_state: str, *, status: str = "done") -> None:
        """Ask for a consult, and wait until its call has ended so, while a worker runs."""
        body = {
            "authState": auth_state,
            "customerBelongsTo": "GCASH",
            "authRedirectUrl": "https://shop.example/back",
            "scopes": ["AGREEMENT_PAY"],
        }
        self.http.post("/v1/consults", body)
        self.until(lambda: self.statuses(Call)[-1] == status)

    def code(self, auth_state: str) -> str:
        """Let the user agree."""
        url = self.gateway.agree(SANDBOX_CLIENT_ID, auth_state)
        return parse_qs(urlsplit(url).query)["authCode"][0]

    def ask(self, auth_state: str, what: str) -> None:
        document = self.http.get(f"/v1/authorizations?authState={auth_state}").get_json()["authorizations"][0]
        self.http.post(self.http.at(document, what), {})

    def token(self, auth_state: str) -> None:
        """Let a user agree, and the service exchange the code."""
        self.consult(auth_state)
        self.http.notify(authcode_created(auth_state, self.code(auth_state)))
        self.until(lambda: self.statuses(Call).count("done") == 2)


@pytest.fixture
def world(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A service in which all is in order."""
    monkeypatch.setattr("app.metrics._memory", Memory())
    keyring_path = tmp_path / "keys" / "keyring.toml"
    make_sandbox(keyring_path)
    keys = client_keys(
        Keyring.load(keyring_path), load_private_key(keyring_path.with_name(SIMULATOR_KEY_NAME).read_bytes())
    )
    with PretendGateway(keys, notify=None) as gateway, Receiver("shop").listening() as shop:
        flow = 'default_flow = "auto_debit"\n'
        keyring_path.write_text(keyring_path.read_text().replace(flow, f'{flow}gateway = "{gateway.url}"\n'))
        environ = an_environ(
            sqlite_url,
            keyring_path,
            FLASK_API_KEYS=f"shop={API_KEY}",
            FLASK_ENDPOINTS=str(write_endpoints(tmp_path / "endpoints.toml", shop)),
        )
        world = World(HttpClient(create_app(environ), keyring_path), shop, gateway, environ)
        for name in MANAGED:
            world.http.service.database.run(partial(maintenance.record_run, name=name, at=datetime.now(UTC)))
        world.http.consult("s-0")
        world.http.notify(authcode_created("s-0", "code-0"))
        # It has no wallet, so its code is exchanged by nobody: no trouble of the service's.
        world.say("DELETE FROM calls")
        with world.working():
            world.until(lambda: set(world.statuses(WebhookDelivery)) == {"delivered"})
        yield world
        world.http.service.database.close()


# --- troubles, and what fires ---


def nothing(world: World) -> None:
    world.http.notify(token_canceled("nobody's"))


def no_answer(world: World) -> None:
    world.asked = None


def away(world: World) -> None:
    environ = {**world.environ, "FLASK_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}
    world.asked = HttpClient(create_app(environ), world.http.keyring_path)
    assert world.asked.notify(token_canceled("t")).status_code == 503


def no_tables(world: World) -> None:
    world.file.rename(world.file.with_suffix(".away"))


def other_vault_key(world: World) -> None:
    environ = an_environ(world.environ["FLASK_DATABASE_URL"], world.http.keyring_path)
    world.asked = HttpClient(create_app({**world.environ, **environ}), world.http.keyring_path)


def other_keyring(world: World) -> None:
    """Of two machines one has another flow for a client."""
    path = world.http.keyring_path.with_name("other.toml")
    path.write_text(
        world.http.keyring_path.read_text().replace('default_flow = "auto_debit"', 'default_flow = "direct"')
    )
    world.beside = HttpClient(create_app({**world.environ, "FLASK_KEYRING": str(path)}), world.http.keyring_path)


def other_vault_key_first(world: World) -> None:
    keys = f"{new_vault_key()},{world.environ['FLASK_VAULT_KEYS']}"
    world.beside = HttpClient(create_app({**world.environ, "FLASK_VAULT_KEYS": keys}), world.http.keyring_path)


def forgets_commits(world: World) -> None:
    """SQLite's own stand-in for a network file system, which refuses the journal."""
    world.http.service.database.close()
    with closing(sqlite3.connect(world.file)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    url = f"sqlite:///file:{world.file}?vfs=unix-dotfile&uri=true"
    world.asked = HttpClient(create_app({**world.environ, "FLASK_DATABASE_URL": url}), world.http.keyring_path)


def newer_tables(world: World) -> None:
    world.say("UPDATE alembic_version SET version_num = '9999'")


def broken(world: World) -> None:
    with patch.object(world.http.service.database, "run", side_effect=RuntimeError):
        asked = world.http.app.test_client().get("/v1/authorizations", headers={"Authorization": f"Bearer {API_KEY}"})
    assert asked.status_code == 500


def slow(world: World) -> None:
    """Somebody holds the database while a delivery comes."""
    with sqlite3.connect(world.file, isolation_level=None, check_same_thread=False) as connection:
        connection.execute("BEGIN IMMEDIATE")
        release = threading.Timer(1.5, connection.rollback)
        release.start()
        assert world.http.notify(token_canceled("t")).status_code == 200
        release.join()
    connection.close()


def wrong_key(world: World) -> None:
    assert world.http.get("/v1/authorizations", key="wrong").status_code == 401


def dropped_lines(_world: World) -> None:
    metrics.count_dropped_lines(3)


def no_maintenance(world: World) -> None:
    world.age("maintenance_runs", "at", days=3)


def forged(world: World) -> None:
    assert world.forge(Forgery.TAMPERED) == 401


def unknown_client(world: World) -> None:
    assert world.forge(Forgery.UNKNOWN_CLIENT) == 401


def misdirected(world: World) -> None:
    assert world.forge(None, "/alipay") == 404


def malformed(world: World) -> None:
    assert world.http.notify(b"{}").status_code == 400


def failed(world: World) -> None:
    """What is on record does not open any more."""
    world.say("UPDATE authorizations SET sealed_auth_code = x'00'")
    world.http.notify(authcode_created("s-0", "code-1"))


def parks(*drafts: Draft) -> Callable[[World], None]:
    def park(world: World) -> None:
        world.http.consult("s-1")
        for each in drafts:
            world.http.notify(each)
        world.age("inbox", "received_at", hours=2)

    return park


def no_worker(world: World) -> None:
    world.age("leases", "at", minutes=2)
    world.http.consult("s-1")
    world.age("event_outbox", "at", seconds=20)


def event_refused(world: World) -> None:
    """A row is put back by hand whose event the feed has already."""
    world.http.consult("s-1")
    world.say("UPDATE event_outbox SET event_id = (SELECT event_id FROM events LIMIT 1)")
    with world.working():
        world.until(lambda: world.figures()[("notifyauth_events_refused_total", ())] > 0)
    world.say("DELETE FROM event_outbox")


def failing_endpoint(world: World) -> None:
    world.shop.manner = "refuse"
    with world.working():
        for number in range(5):
            world.http.consult(f"s-{number + 1}")
        failing = ("notifyauth_endpoint_failing", (("endpoint", "shop"),))
        world.until(lambda: world.figures()[failing] == 1)


def told_late(world: World) -> None:
    world.shop.manner = "refuse"
    world.http.consult("s-1")
    with world.working():
        world.until(lambda: "due" in world.statuses(WebhookDelivery))
    world.age("webhook_deliveries", "due_at", minutes=2)


def dead(world: World) -> None:
    """The last attempt of three days."""
    world.shop.manner = "refuse"
    world.http.consult("s-1")
    with world.working():
        world.until(lambda: "due" in world.statuses(WebhookDelivery))
        world.say("UPDATE webhook_deliveries SET attempts = :made WHERE status = 'due'", made=len(PAUSES))
        world.say("UPDATE webhook_deliveries SET due_at = created_at WHERE status = 'due'")
        world.until(lambda: "dead" in world.statuses(WebhookDelivery))


def expired(world: World) -> None:
    world.shop.manner = "refuse"
    world.http.consult("s-1")
    world.http.notify(authcode_created("s-1", "code-1"))
    world.say("DELETE FROM calls")
    world.say("UPDATE event_outbox SET expires_at = at")
    with world.working():
        world.until(lambda: "expired" in world.statuses(WebhookDelivery))


def code_told_late(world: World) -> None:
    world.http.consult("s-1")
    world.http.notify(authcode_created("s-1", "code-1"))
    world.say("DELETE FROM calls")
    ends_at = (datetime.now(UTC) + timedelta(seconds=30)).strftime("%F %T.%f")
    world.say("UPDATE event_outbox SET expires_at = :at WHERE expires_at IS NOT NULL", at=ends_at)
    with world.working():
        world.until(lambda: set(world.statuses(WebhookDelivery)) == {"delivered"} and len(world.shop.taken) == 4)


def calls_late(world: World) -> None:
    with world.working():
        world.consult("s-1")
    world.http.notify(authcode_created("s-1", world.code("s-1")))
    world.age("calls", "due_at", seconds=20)


def exchange_fails(world: World) -> None:
    world.gateway.faults.add([Fault("refused", "exchange")])
    with world.working():
        world.consult("s-1")
        world.http.notify(authcode_created("s-1", world.code("s-1")))
        world.until(lambda: "failed" in world.statuses(Call))


def exchange_slow(world: World) -> None:
    with world.working():
        world.consult("s-1")
    world.http.notify(authcode_created("s-1", world.code("s-1")))
    world.age("authorizations", "auth_code_received_at", seconds=15)
    with world.working():
        world.until(lambda: world.statuses(Call).count("done") == 2)


def asked_and_refused(operation: str) -> Callable[[World], None]:
    def ask(world: World) -> None:
        with world.working():
            world.token("s-1")
            world.gateway.faults.add([Fault("refused", operation)])
            world.ask("s-1", operation)
            world.until(lambda: "failed" in world.statuses(Call))

    return ask


def consults_fail(world: World) -> None:
    world.gateway.faults.add([Fault("refused", "consult")])
    with world.working():
        world.consult("s-1", status="failed")


def no_answers(world: World) -> None:
    world.gateway.faults.add([Fault("cut-before", "consult", times=3)])
    with world.working():
        world.consult("s-1")


def token_ends(world: World) -> None:
    document = world.http.consult("s-1", flow="direct")
    ends_at = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    grant = {"accessToken": "token-1", "accessTokenExpiryTime": ends_at}
    assert world.http.post(world.http.at(document, "tokens"), grant).status_code == 200


@dataclass(frozen=True)
class Trouble:
    """Something goes wrong, goes on for so long, and makes these alerts fire."""

    make: Callable[[World], None]
    fires: tuple[str, ...]
    minutes: int = 30
    #: Metrics of times that stand still during it.
    still: tuple[str, ...] = ()


_VERIFIED = ("notifyauth_last_verified_timestamp_seconds",)

#: What Alipay refuses is answered 422 to the merchant, too.
_TO_THE_MERCHANT = ("ApiRefused",)

TROUBLES = [
    Trouble(nothing, ()),
    Trouble(no_answer, ("Absent",)),
    Trouble(away, ("NotReady", "DatabaseCannotWork", "Unavailable")),
    Trouble(no_tables, ("NotReady", "DatabaseCannotWork")),
    Trouble(other_vault_key, ("NotReady", "DatabaseCannotWork")),
    Trouble(other_keyring, ("KeyringsDiffer",)),
    Trouble(other_vault_key_first, ("VaultKeysDiffer",), minutes=65),
    Trouble(forgets_commits, ("UnsafeDurability",)),
    Trouble(newer_tables, (), minutes=60),
    Trouble(newer_tables, ("NewerSchema",), minutes=1450),
    Trouble(broken, ("Broken",)),
    Trouble(slow, ("Slow",)),
    Trouble(wrong_key, ("ApiRefused",)),
    Trouble(dropped_lines, ("LogLinesDropped",)),
    Trouble(no_maintenance, ("MaintenanceStopped",), minutes=65),
    Trouble(nothing, ("NothingVerified",), minutes=370, still=_VERIFIED),
    Trouble(forged, ("SignatureFails",)),
    Trouble(forged, ("SignatureFails", "AllSignaturesFail"), minutes=40, still=_VERIFIED),
    Trouble(unknown_client, ("UnknownClient",)),
    Trouble(misdirected, ("Misdirected",)),
    Trouble(malformed, ("Malformed",)),
    Trouble(failed, ("Failed",)),
    Trouble(parks(token_created("unknown", "t")), ("ConsultNotReported",)),
    Trouble(parks(token_canceled("t")), ("TokenNotReported",)),
    Trouble(parks(token_created("s-1", "t")), ("Early",)),
    Trouble(parks(Draft("TOKEN_SUSPENDED", access_token="t")), ("UnknownType",)),
    Trouble(no_worker, ("NoWorker", "EventsNotNumbered"), still=("notifyauth_worker_last_seen_timestamp_seconds",)),
    Trouble(event_refused, ("EventRefused",)),
    Trouble(failing_endpoint, ("EndpointFailing",)),
    Trouble(told_late, ("ToldLate",)),
    Trouble(dead, ("DeliveriesDead",)),
    Trouble(expired, ("CodesExpire",)),
    Trouble(code_told_late, ("CodesToldLate",)),
    Trouble(calls_late, ("CallsLate",)),
    Trouble(exchange_fails, ("ExchangeFailed",)),
    Trouble(exchange_slow, ("ExchangeSlow",)),
    Trouble(asked_and_refused("refresh"), ("RefreshFailed", *_TO_THE_MERCHANT)),
    Trouble(asked_and_refused("revoke"), ("RevokeFailed", *_TO_THE_MERCHANT)),
    Trouble(consults_fail, ("ConsultFailed", *_TO_THE_MERCHANT)),
    Trouble(no_answers, ("GatewayUnanswered",)),
    Trouble(token_ends, ("TokensEnd",), minutes=70),
]


@with_promtool
@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: "-".join([trouble.make.__name__, *trouble.fires]))
def test_just_the_alerts_that_are_meant_fire(world: World, trouble: Trouble, tmp_path: Path) -> None:
    before = world.figures()
    trouble.make(world)
    story = Story(before, world.figures(), time.time(), trouble.minutes, trouble.still)
    assert_fires(tmp_path, story.series(), {f"Notifyauth{each}" for each in trouble.fires}, minute=story.ends_at)


def test_every_alert_has_its_trouble() -> None:
    """A standby takes another machine: `test_preflight` has one."""
    made = {f"Notifyauth{each}" for trouble in TROUBLES for each in trouble.fires}
    assert set(rules()) - made == {"NotifyauthStandbyMissing"}
