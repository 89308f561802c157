"""Slow connections: close those whose request head does not end, and those whose client does not read the response.

granian has one time-out for a head and for an idle connection, and none for writing. It is given the longer one,
`--keep-alive`, and this file ends the others by what the kernel says of each connection. That takes Linux; elsewhere a
head may take as long as a connection may be idle.
"""

import logging
import os
import re
import socket
import stat
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from app.limits import HEAD_SECONDS_MAX, WRITE_SECONDS_MAX

_log = logging.getLogger(__name__)

#: A worker near its limit of connections closes those that have been idle for this long.
IDLE_SECONDS_WHEN_FULL = 10
_FULL_SHARE = 0.9
#: A look at 256 connections takes a few milliseconds.
_SECONDS_BETWEEN_LOOKS = 1

#: `struct tcp_info`: what was received is at 128, what the other side has no room for at 144 (Linux 4.6).
_TCP_INFO = struct.Struct("=128xQ8xI")
_INTERNET = frozenset({socket.AF_INET, socket.AF_INET6})
_DESCRIPTORS = Path("/proc/self/fd")
_SOCKET = re.compile(r"socket:\[(\d+)\]")


@dataclass(slots=True)
class _Seen:
    """What is known of a connection from earlier looks."""

    received: int
    answered: int
    #: When its last answer was found to have been given.
    idle_since: float
    #: When a head began, or was due to; `None` between an answer and the next head, and while a request is in hand.
    head_since: float | None
    #: When an answer began to wait for its reader.
    unread_since: float | None = None


@dataclass(frozen=True, slots=True)
class _Open:
    """An open connection at one moment."""

    descriptor: int
    #: Says which connection it is: descriptors and ports are used again.
    identity: int
    peer: str
    received: int
    unsent: int


@dataclass
class Connections:
    """The connections that clients have to a port of this process."""

    port: int
    #: As many as may be open at once.
    places: int
    #: By peer, how many requests have begun, their heads being whole, and how many of them are answered.
    _begun: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    _answered: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    _seen: dict[int, _Seen] = field(default_factory=dict)

    def request_begins(self, peer: str) -> None:
        """Take note of a request; the server hands one over once its head is whole."""
        self._begun[peer] += 1

    def request_ends(self, peer: str) -> None:
        """Take note that a request has its answer."""
        self._answered[peer] += 1

    def watch(self) -> None:
        """Look at all of them every second, in a thread that ends with the process."""
        if hasattr(socket, "TCP_INFO") and _DESCRIPTORS.is_dir():
            threading.Thread(target=self._watch, name="connections", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            # Where the process has no descriptor left to look with, the next look may find one.
            with suppress(OSError):
                if ended := self.look(time.monotonic()):
                    _log.info("connections ended", extra=dict(ended))

    def look(self, now: float) -> Counter[str]:
        """End the connections whose time is up, and say how many for which reason."""
        ended: Counter[str] = Counter()
        # A request may end after its connection has: what is counted of it is forgotten with the peer all the same.
        known_peers = {*self._begun, *self._answered}
        everyone = list(self._open())
        self._seen = {each.identity: self._update(each, now) for each in everyone}
        is_full = len(everyone) >= self.places * _FULL_SHARE
        for each in everyone:
            if reason := _reason_to_end(self._seen[each.identity], now, is_full=is_full):
                _end(each)
                ended[reason] += 1
        peers = {each.peer for each in everyone}
        for gone in (peer for peer in known_peers if peer not in peers):
            self._begun.pop(gone, None)
            self._answered.pop(gone, None)
        return ended

    def _open(self) -> Iterator[_Open]:
        for entry in _DESCRIPTORS.iterdir():
            # A descriptor that is closed by now is no connection any more.
            with suppress(OSError):
                if (named := _SOCKET.fullmatch(str(entry.readlink()))) and (
                    found := self._connection(int(entry.name), identity=int(named[1]))
                ):
                    yield found

    def _connection(self, descriptor: int, *, identity: int) -> _Open | None:
        """Return what is behind a socket's descriptor if it is a client's connection."""
        handle = socket.socket(fileno=descriptor)
        try:
            if handle.family not in _INTERNET or handle.getsockname()[1] != self.port:
                return None
            info = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
            if len(info) < _TCP_INFO.size:
                # An old kernel has less to tell.
                return None
            # A listening socket has no peer, and says so by an error.
            return _Open(descriptor, identity, _written(handle.getpeername()), *_TCP_INFO.unpack(info))
        finally:
            # It is the server's to close.
            handle.detach()

    def _update(self, each: _Open, now: float) -> _Seen:
        begun, answered = self._begun.get(each.peer, 0), self._answered.get(each.peer, 0)
        seen = self._seen.get(each.identity)
        if seen is None:
            # A new one is to begin at once.
            seen = _Seen(each.received, 0, now, head_since=now)
        if begun > answered or answered > seen.answered:
            seen.head_since, seen.idle_since, seen.received = None, now, each.received
        elif each.received > seen.received and seen.head_since is None:
            seen.head_since = now
        seen.answered = answered
        if each.unsent == 0:
            seen.unread_since = None
        elif seen.unread_since is None:
            seen.unread_since = now
        return seen


def _reason_to_end(seen: _Seen, now: float, *, is_full: bool) -> str | None:
    if seen.head_since is not None:
        return "slow_head" if now - seen.head_since > HEAD_SECONDS_MAX else None
    if seen.unread_since is not None:
        return "unread_answer" if now - seen.unread_since > WRITE_SECONDS_MAX else None
    return "idle_when_full" if is_full and now - seen.idle_since > IDLE_SECONDS_WHEN_FULL else None


def _end(connection: _Open) -> None:
    """End a connection under the server, which then lets go of it; what was not sent is thrown away."""
    with suppress(OSError):
        # The server may close the descriptor, and the system use its number again: the duplicate stays what it is.
        duplicate = os.dup(connection.descriptor)
        found = os.fstat(duplicate)
        if not stat.S_ISSOCK(found.st_mode):
            # Closing any descriptor of a file would take all locks from it, SQLite's too: better to lose the number.
            return
        with socket.socket(fileno=duplicate) as handle:
            if found.st_ino == connection.identity:
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                handle.shutdown(socket.SHUT_RDWR)


def _written(address: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """Write an address as the server does, so that both speak of the same peer."""
    match address:
        case (host, port):
            return f"{host}:{port}"
        case (host, port, _, scope):
            host = host.partition("%")[0] + (f"%{scope}" if scope else "")
            return f"[{host}]:{port}"
