"""A pretend Alipay gateway, put together: for `flask simulator gateway`, for tests and for the soak.

It listens from the moment it is made until it is closed, and its ledger outlives it.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from app.simulator.gateway.alipay import Consent, PretendAlipay
from app.simulator.gateway.calls import Calls
from app.simulator.gateway.decisions import Decisions
from app.simulator.gateway.faults import Fault, Faults
from app.simulator.gateway.keys import ClientKeys
from app.simulator.gateway.ledger import Entry, Ledger
from app.simulator.gateway.notifier import Notifier
from app.simulator.gateway.server import Server
from app.simulator.gateway.site import GatewaySite
from app.simulator.gateway.wallets import DEFAULT_USER, USERS


class NothingToDecideError(LookupError):
    """Nobody consulted for this authState, or its user has decided already."""

    def __init__(self) -> None:
        super().__init__("There is no consent of this authState that the user can decide about.")


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """How a gateway behaves where wallets differ, or a test has no time."""

    #: What is signed for a notification, if a proxy rewrites its path.
    notify_uri: str | None = None
    #: Whether each exchange is followed by a TOKEN_CREATED.
    token_created: bool = False
    #: How long all tokens live; `None` for as long as their wallet's do.
    token_life: timedelta | None = None
    #: How many times faster than Alipay's redeliveries come.
    speed: float = 1
    #: Makes the chance in faults repeatable.
    seed: int | None = None


_DEFAULT_OPTIONS = GatewayOptions()


class PretendGateway:
    """A gateway that listens on the loopback."""

    def __init__(
        self,
        keys: Mapping[str, ClientKeys],
        *,
        notify: str | None,
        clock: Callable[[], datetime] = _now,
        port: int = 0,
        faults: Iterable[Fault] = (),
        options: GatewayOptions = _DEFAULT_OPTIONS,
        watch: Callable[[Entry], None] | None = None,
    ) -> None:
        """Begin to listen.

        `notify` is the service's URL for notifications; `watch` is told of all that happens, by the threads in which it
        happens. Raises `UnusableUrlError` and `OSError`.
        """
        self.ledger = Ledger(clock, watch)
        self.faults = Faults(faults, seed=options.seed)
        self._alipay = PretendAlipay(self.ledger, clock, token_life=options.token_life)
        self._notifier = Notifier(keys, self.ledger, clock, url=notify, uri=options.notify_uri, speed=options.speed)
        self._decisions = Decisions(self._alipay, self.faults, self._notifier)
        calls = Calls(keys, self._alipay, self.ledger, self.faults, clock, token_created=options.token_created)
        site = GatewaySite(self._alipay, calls, self._decisions, self.faults, self.ledger, self._notifier, clock)
        try:
            self._server = Server(site, port=port)
        except OSError:
            self._notifier.close()
            raise
        #: Where it is found: the `gateway` of the clients, and what a browser opens.
        self.url = self._server.url
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def agree(self, client_id: str, auth_state: str, *, user: str = DEFAULT_USER) -> str:
        """Agree as a user does on the page, and return where the browser is sent. Raises `NothingToDecideError`."""
        return _decided(self._decisions.agree(self._consent(client_id, auth_state), USERS[user]))

    def decline(self, client_id: str, auth_state: str, *, user: str = DEFAULT_USER) -> str:
        """Decline, and return where the browser is sent. Raises `NothingToDecideError`."""
        return _decided(self._decisions.decline(self._consent(client_id, auth_state), USERS[user]))

    def cancel(self, client_id: str, auth_state: str, *, reason: str | None = None, silently: bool = False) -> bool:
        """Cancel as a user does in the wallet, and say whether a token was alive. Raises `NothingToDecideError`."""
        return self._decisions.take_back(self._consent(client_id, auth_state), reason, silently=silently)

    def close(self) -> None:
        """Stop listening and notifying."""
        self._server.is_closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._notifier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _consent(self, client_id: str, auth_state: str) -> Consent:
        consent = self._alipay.consent_of(client_id, auth_state)
        if consent is None:
            raise NothingToDecideError
        return consent


def _decided(url: str | None) -> str:
    if url is None:
        raise NothingToDecideError
    return url
