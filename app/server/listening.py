"""The address to listen at: found, bound, and shared by the workers.

Bound by the parent, so that an error is one sentence before any worker starts.
"""

import os
import select
import socket
import sys
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

#: Whether the kernel spreads connections over the sockets that listen at one address.
SPREADS = sys.platform.startswith("linux")

#: Connections that the kernel keeps for a worker that is busy; more than that many are answered too late anyway.
BACKLOG = 1024


class CannotListenError(Exception):
    """The host has no address, the address is not this machine's, or its port is taken."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"Cannot listen at {host}:{port} ({reason}): choose another --port or --host.")


@dataclass(frozen=True)
class Address:
    """An address of this machine, and a port of it."""

    family: socket.AddressFamily
    host: str
    port: int

    @classmethod
    def find(cls, host: str, port: int) -> "Address":
        """Look up a name, or read an address, and make sure that nobody listens there.

        Of the addresses of a name an IPv4 one goes first: clients of `localhost` try both, and those of 127.0.0.1
        nothing else. Raises `CannotListenError`.
        """
        # An IPv6 address is written in brackets wherever a port follows.
        bare = host.removeprefix("[").removesuffix("]") if ":" in host else host
        try:
            found = socket.getaddrinfo(bare or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, *_, name = min(found, key=lambda each: each[0] != socket.AF_INET)
            address = cls(family, str(name[0]), port)
            # Without SO_REUSEPORT: with it, two services of one user would share a port and not know of each other.
            address.bound(shared=False).close()
        except OSError as error:
            raise CannotListenError(host, port, error.strerror or type(error).__name__) from None
        except UnicodeError:
            raise CannotListenError(host, port, "not a host name") from None
        return address

    def bound(self, *, shared: bool = True) -> socket.socket:
        """Return a socket bound here that does not listen yet: its worker begins to.

        Several may be bound at once if they are shared: the kernel then spreads connections over those that listen.
        """
        bound = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # Connections inherit it. An answer is written at once and whole: there is nothing to wait for.
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            bound.bind((self.host, self.port))
        except OSError:
            bound.close()
            raise
        return bound

    def for_workers(self, number: int) -> list[socket.socket]:
        """Return a socket for each worker; where the kernel does not spread connections, all share one."""
        if SPREADS:
            return [self.bound() for _ in range(number)]
        one = self.bound()
        # There granian takes a socket that listens already.
        one.listen(BACKLOG)
        return [one] * number


def stop_accepting(listener: int) -> None:
    """Take no more connections from a socket that the server below us listens at, and leave all else to it (Linux).

    When the server stops, it closes connections whose request has not come yet. So it is kept from taking any for a
    moment before. It has no word for that, but waits for connections with epoll, where the socket can be taken out.
    """
    for entry in _descriptors() if SPREADS else ():
        with suppress(OSError):
            if str(entry.readlink()) == "anon_inode:[eventpoll]":
                # The object closes what it is made from.
                with closing(select.epoll.fromfd(os.dup(int(entry.name)))) as epoll:
                    epoll.unregister(listener)


def _descriptors() -> list[Path]:
    # Where the process has no descriptor left to look with, it takes connections until it stops.
    with suppress(OSError):
        return list(Path("/proc/self/fd").iterdir())
    return []
