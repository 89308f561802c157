"""A gateway with a clock that a test can move, the service's end of its notifications, and a caller."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.alipay.keyring import Keyring, load_private_key
from app.alipay.notification import Notification, parse
from app.alipay.signature import verify
from app.simulator.gateway.faults import Fault
from app.simulator.gateway.gateway import GatewayOptions, PretendGateway
from app.simulator.gateway.keys import client_keys
from app.simulator.keys import MERCHANT_KEY_NAME, SIMULATOR_KEY_NAME
from tests.unit.simulator.endpoint import Endpoint
from tests.unit.simulator.gateway.caller import Caller


@dataclass
class Clock:
    """A clock that stands until it is moved."""

    now: datetime = field(default_factory=lambda: datetime(2026, 5, 1, 12, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.now

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass
class Stage:
    """The gateway, and everything around it."""

    gateway: PretendGateway
    caller: Caller
    endpoint: Endpoint
    keyring: Keyring
    clock: Clock

    def told(self, number: int) -> list[Notification]:
        """The notifications that the service was sent, verified and read, once so many have come; and no more."""
        wait_until(lambda: len(self.gateway.ledger.notifications()) >= number)
        for delivery in self.endpoint.deliveries:
            verify(delivery, self.keyring)
        return [parse(delivery.body) for delivery in self.endpoint.deliveries]


def wait_until(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never became so"
        time.sleep(0.005)


@pytest.fixture
def open_gateway(keyring_path: Path, keyring: Keyring, endpoint: Endpoint) -> Iterator[Callable[..., Stage]]:
    """Opens gateways with what a test wants of them; they are closed at its end."""
    alipay_key = load_private_key(keyring_path.with_name(SIMULATOR_KEY_NAME).read_bytes())
    merchant_key = load_private_key(keyring_path.with_name(MERCHANT_KEY_NAME).read_bytes())
    with ExitStack() as stack:

        def open_one(*faults: str, **options: Any) -> Stage:  # noqa: ANN401 -- whatever a gateway takes
            clock = Clock()
            gateway = stack.enter_context(
                PretendGateway(
                    client_keys(keyring, alipay_key),
                    notify=endpoint.url,
                    clock=clock,
                    faults=map(Fault.parse, faults),
                    options=GatewayOptions(**options),
                )
            )
            caller = Caller(gateway.url, merchant_key, keyring)
            stack.callback(caller.http.clear)
            return Stage(gateway, caller, endpoint, keyring, clock)

        yield open_one


@pytest.fixture
def stage(open_gateway: Callable[..., Stage]) -> Stage:
    """A gateway with which everything goes right."""
    return open_gateway()


@pytest.fixture
def run_together() -> Callable[..., list[Any]]:
    """Runs a function in several threads at once, and gives what came of each."""

    def run(function: Callable[[], Any], *, times: int) -> list[Any]:
        with ThreadPoolExecutor(times) as pool:
            return [each.result() for each in [pool.submit(function) for _ in range(times)]]

    return run
