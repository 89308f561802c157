"""Measure how soon a code becomes a token when the service calls, and what calls that hang take from receiving."""

import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import create_engine, text

from app.alipay.call import Caller, Operation
from app.alipay.call_requests import ConsultRequest, consult_body
from app.alipay.keyring import Keyring, load_private_key
from app.config import DEFAULT_NOTIFY_PATH, new_vault_key
from app.simulator.gateway.gateway import PretendGateway
from app.simulator.gateway.keys import client_keys
from app.simulator.keys import SANDBOX_CLIENT_ID, SIMULATOR_KEY_NAME, make_sandbox
from benchmarks.contestants import NOTIFYAUTH
from benchmarks.databases import HERE, Secrets, postgresql_databases
from benchmarks.load import LoadClient
from benchmarks.mix import Life, make_mix, sign_mix
from benchmarks.rounds import Course, Plan, percentiles
from benchmarks.telling import NothingToldError, Tell

#: For a worker to start and to take the leases, and for the last codes to be exchanged.
_SECONDS_MAX = 60
#: Consulted and exchanged before anything is measured.
_WARM_UP = 50
_MS = 1000

_FIGURES = text(
    "SELECT extract(epoch FROM transitions.at - authorizations.auth_code_received_at) * 1000 AS token_ms,"
    " extract(epoch FROM call_attempts.started_at - authorizations.auth_code_received_at) * 1000 AS call_ms "
    "FROM transitions JOIN authorizations ON authorizations.id = transitions.authorization_id "
    "JOIN calls ON calls.authorization_id = authorizations.id AND calls.kind = 'exchange' "
    "JOIN call_attempts ON call_attempts.call_id = calls.id AND call_attempts.number = 1 "
    "WHERE transitions.event = 'token_created' AND authorizations.auth_code_received_at >= :since"
)


@dataclass(frozen=True)
class Calling:
    """What was measured."""

    #: From having received a code to the attempt that is on record before its request, under so many lives a second.
    call_p50_ms: float
    call_p99_ms: float
    #: From having received a code to having its token on record.
    token_p50_ms: float
    token_p99_ms: float
    #: Notifications acknowledged a second, as many as are answered: without a gateway, and with one that never answers.
    receiving_alone: float
    receiving_beside_hanging: float
    postgresql: str


def measure_calling(plan: Plan, *, tell: Tell) -> Calling:
    """Measure all of it, each on a fresh database."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        times, version = _codes_to_tokens(plan, folder, stack)
        (call_p50, call_p99), (token_p50, token_p99) = map(percentiles, times)
        tell(f"{len(times[0])} codes were tokens after {token_p50:.0f} ms (p50) and {token_p99:.0f} ms (p99)")
        hanging = stack.enter_context(_never_answering())
        alone, beside = (_receiving(plan, folder / name, url) for name, url in (("alone", None), ("beside", hanging)))
        tell(f"{alone:.0f} notifications a second without a gateway, {beside:.0f} with one that never answers")
        return Calling(call_p50, call_p99, token_p50, token_p99, alone, beside, version)


def _codes_to_tokens(plan: Plan, folder: Path, stack: ExitStack) -> tuple[tuple[list[float], list[float]], str]:
    rate = plan.rate or 1
    lives = [
        Life(f"bench-{each}", "auto_debit", (), "token_active") for each in range(int(rate * plan.seconds) + _WARM_UP)
    ]
    port = _a_free_port()
    secrets = _secrets(folder / "keys", f"http://127.0.0.1:{port}")
    databases = stack.enter_context(postgresql_databases([HERE], secrets, lives))[HERE]
    database_url = stack.enter_context(databases.fresh())
    keyring = Keyring.load(secrets.keyring)
    alipay_key = load_private_key(secrets.keyring.with_name(SIMULATOR_KEY_NAME).read_bytes())
    with NOTIFYAUTH.serving(secrets.environ(database_url), plan.size, folder / "log") as server:
        notify = f"http://127.0.0.1:{server.port}{DEFAULT_NOTIFY_PATH}"
        with PretendGateway(client_keys(keyring, alipay_key), notify=notify, port=port) as gateway:
            _consult(keyring, lives)
            _agree(gateway, lives[:_WARM_UP], rate)
            _wait_for_tokens(database_url, _WARM_UP)
            since = datetime.now(UTC)
            _agree(gateway, lives[_WARM_UP:], rate)
            _wait_for_tokens(database_url, len(lives))
    engine = create_engine(database_url)
    with engine.connect() as connection:
        rows = connection.execute(_FIGURES, {"since": since}).all()
    engine.dispose()
    return ([float(row.call_ms) for row in rows], [float(row.token_ms) for row in rows]), databases.version


def _consult(keyring: Keyring, lives: list[Life]) -> None:
    """Let the gateway know of each authorization, as the merchant's own consult does."""
    caller = Caller(keyring.client(SANDBOX_CLIENT_ID))
    for life in lives:
        request = ConsultRequest(
            auth_state=life.auth_state,
            customer_belongs_to="GCASH",
            auth_redirect_url="https://shop.example/back",
            scopes=("AGREEMENT_PAY",),
        )
        caller.call(Operation.CONSULT, consult_body(request), now=datetime.now(UTC))
    caller.close()


def _agree(gateway: PretendGateway, lives: list[Life], rate: float) -> None:
    """Let so many users agree a second."""
    began = time.monotonic()
    for number, life in enumerate(lives):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        gateway.agree(SANDBOX_CLIENT_ID, life.auth_state)


def _wait_for_tokens(url: str, count: int) -> None:
    engine = create_engine(url)
    deadline = time.monotonic() + _SECONDS_MAX
    while True:
        with engine.connect() as connection:
            found = connection.execute(text("SELECT count(*) FROM access_tokens")).scalar_one()
        if found >= count:
            break
        if time.monotonic() > deadline:
            message = f"Of {count} codes {found} became tokens."
            raise NothingToldError(message)
        time.sleep(0.2)
    engine.dispose()


def _receiving(plan: Plan, folder: Path, gateway: str | None) -> float:
    """Measure how many notifications are acknowledged a second, as many as are answered."""
    plan = replace(plan, rate=None)
    secrets = _secrets(folder, gateway)
    mix = make_mix(plan.prepared, connections=plan.connections)
    signed = sign_mix(mix, secrets.keyring)
    with postgresql_databases([HERE], secrets, mix.lives) as made:
        course = Course.prepared(folder, plan, secrets, signed, {("postgresql", HERE): made[HERE]})
        with (
            made[HERE].fresh() as url,
            NOTIFYAUTH.serving(secrets.environ(url), plan.size, folder / "log") as server,
            LoadClient(course.script, server.port, rate=None) as client,
        ):
            client.send(plan.warm_up_seconds)
            sent = client.send(plan.seconds)
    if sent.ran_out or not sent.acknowledged:
        message = "All that was prepared was sent too early; prepare more (--most)."
        raise NothingToldError(message)
    return len(sent.acknowledged) / sent.seconds


def _secrets(folder: Path, gateway: str | None) -> Secrets:
    make_sandbox(folder / "keyring.toml", gateway=gateway)
    return Secrets(folder / "keyring.toml", new_vault_key())


@contextmanager
def _never_answering() -> Iterator[str]:
    """Take every connection and every request, and answer none."""
    taken: list[socket.socket] = []

    def take() -> None:
        while True:
            try:
                taken.append(listener.accept()[0])
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    for each in taken:
        each.close()


def _a_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
