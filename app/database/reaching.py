"""Connect to PostgreSQL within the deadline of the work, whatever the resolver, the network or the server does.

Neither the look-up of a name nor TLS or Kerberos can be interrupted, and each address has a timeout of its own. So
another thread connects, and the caller stops waiting for it at its deadline.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError, TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from typing import Any, TypeVar

import psycopg

from app.database.driver import UNREADABLE, AnswerTimeoutError, Connection, UnreadableAnswerError, deadline
from app.limits import RESOLVE_SECONDS_MAX, SILENT_ADDRESS_SECONDS

T = TypeVar("T")

#: libpq gives each address two seconds. The one that answered after others had not is asked first, and the others are
#: tried again, beside the work, as often as this.
_LOOK_AGAIN_SECONDS = 30.0

_DEFAULT_PORT = "5432"
#: What a resolver says that knows the name, or does not: all else is its own trouble.
_FINAL = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


class HostNotResolvedError(psycopg.OperationalError):
    """No address of any of the database's hosts is known, or can be found out now."""


class Reach:
    """Connects to the servers of one URL, and remembers where they were. Safe to share between threads."""

    def __init__(self, *, look_again_seconds: float = _LOOK_AGAIN_SECONDS) -> None:
        self._look_again_seconds = look_again_seconds
        self._names = _Names()
        #: The address that is asked first, if any is, and when the others are tried again.
        self._preferred: tuple[tuple[str, str], float] | None = None

    def connect(self, options: Mapping[str, Any]) -> Connection:
        """Connect as libpq would. Raises `psycopg.OperationalError`, at the deadline of the work at the latest."""
        until = deadline.get()
        if until is None:
            return self._connect(options)
        waited_for: Future[Connection] = Future()
        _in_background(partial(self._connect, options), waited_for, unwanted=Connection.close)
        try:
            return waited_for.result(max(0.0, until - time.monotonic()))
        except FutureTimeoutError:
            if waited_for.cancel():
                message = "no connection in time"
                raise AnswerTimeoutError(message) from None
            # It came just now.
            return waited_for.result()

    def _connect(self, options: Mapping[str, Any]) -> Connection:
        started = time.monotonic()
        try:
            connection = Connection.connect(**{**options, **self._addresses(options)})
        except UNREADABLE as error:
            raise UnreadableAnswerError(error) from error
        if time.monotonic() - started >= SILENT_ADDRESS_SECONDS:
            address = connection.info.hostaddr, str(connection.info.port)
            self._preferred = address, time.monotonic() + self._look_again_seconds
        return connection

    def _look_again(self, options: Mapping[str, Any]) -> None:
        """Try the addresses in their own order, and prefer none any more if that takes no longer than it should."""
        started = time.monotonic()
        Connection.connect(**options).close()
        if time.monotonic() - started < SILENT_ADDRESS_SECONDS:
            self._preferred = None

    def _addresses(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Say where the hosts are, each at all its addresses, so that libpq need not ask."""
        hosts = str(options.get("host") or os.environ.get("PGHOST", "")).split(",")
        given = options.get("hostaddr") or os.environ.get("PGHOSTADDR")
        if given or (len(hosts) == 1 and _needs_no_resolver(hosts[0])):
            return {}
        ports = str(options.get("port") or os.environ.get("PGPORT") or _DEFAULT_PORT).split(",")
        if len(ports) == 1:
            ports *= len(hosts)
        if len(ports) != len(hosts):
            # libpq says best what is wrong with that.
            return {}
        addresses: list[tuple[str, str, str]] = []
        troubles: list[str] = []
        for host, port in zip(hosts, ports, strict=True):
            try:
                addresses += [(host, address, port) for address in self._names.addresses(host, port or _DEFAULT_PORT)]
            except OSError as error:
                troubles.append(f"failed to resolve host {host!r}: {error}")
        if not addresses:
            raise HostNotResolvedError("; ".join(troubles))
        if (preferred := self._preferred) is None:
            return _joined(addresses)
        address, look_again_at = preferred
        if time.monotonic() >= look_again_at:
            self._preferred = address, time.monotonic() + self._look_again_seconds
            _in_background(partial(self._look_again, {**options, **_joined(addresses)}), Future())
        return _joined(sorted(addresses, key=lambda each: each[1:] != address))


def _joined(addresses: Sequence[tuple[str, str, str]]) -> dict[str, str]:
    parameters = ("host", "hostaddr", "port")
    return {name: ",".join(values) for name, values in zip(parameters, zip(*addresses, strict=True), strict=True)}


def _needs_no_resolver(host: str) -> bool:
    """Say whether this is no host's name: nothing, a folder with a socket, or an address."""
    if not host or host.startswith(("/", "@")):
        return True
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@dataclass
class _Name:
    """What is known of one name."""

    addresses: Sequence[str] = ()
    lookup: "Future[Sequence[str]] | None" = None
    #: When somebody began to wait for the answer that is still due.
    asked_at: float = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Names:
    """Resolves names, and gives the last good answer where the resolver is mute or in trouble."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Name] = {}
        self._lock = threading.Lock()

    def addresses(self, host: str, port: str) -> Sequence[str]:
        """Give the addresses of a host, in the resolver's order. Raises `OSError`."""
        if _needs_no_resolver(host):
            # libpq takes an empty one for none.
            return [host if host and not host.startswith(("/", "@")) else ""]
        with self._lock:
            name = self._known.setdefault((host, port), _Name())
        lookup = self._lookup(name, host, port)
        left = name.asked_at + RESOLVE_SECONDS_MAX - time.monotonic()
        try:
            found = lookup.result(max(0.0, left) if name.addresses else None)
        except FutureTimeoutError:
            return name.addresses
        except OSError as error:
            if not name.addresses or error.errno in _FINAL:
                raise
            return name.addresses
        name.addresses = found
        return found

    def _lookup(self, name: _Name, host: str, port: str) -> "Future[Sequence[str]]":
        """Ask the resolver, unless it still owes an answer: a mute one is asked once, however many wait for it."""
        with name.lock:
            if name.lookup is None or name.lookup.done():
                name.lookup, name.asked_at = Future(), time.monotonic()
                _in_background(partial(_resolve, host, port), name.lookup)
            return name.lookup


def _resolve(host: str, port: str) -> Sequence[str]:
    found = socket.getaddrinfo(host, port, proto=socket.IPPROTO_TCP, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def _in_background(work: Callable[[], T], result: "Future[T]", *, unwanted: Callable[[T], None] | None = None) -> None:
    """Run `work` in a daemon thread; its result goes to `unwanted` where the future was cancelled before."""

    def do() -> None:
        try:
            done = work()
        except BaseException as error:  # noqa: BLE001 -- whatever it is, it is raised where it is waited for
            with contextlib.suppress(InvalidStateError):
                result.set_exception(error)
            return
        try:
            result.set_result(done)
        except InvalidStateError:
            if unwanted is not None:
                unwanted(done)

    threading.Thread(target=do, name="connecting", daemon=True).start()
