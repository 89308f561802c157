"""Whether what lies outside can be reached: the merchant's endpoints and Alipay's gateways. Nothing is sent to them."""

import socket
import ssl
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from urllib.parse import urlsplit

from sqlalchemy.orm import Session

from app.alipay.keyring import KeyringError
from app.events import deliveries
from app.events.addresses import is_link_local
from app.events.endpoints import Endpoint, EndpointsError
from app.installation.findings import Finding, failed, ok
from app.models import Lease
from app.wiring import Service

#: A holder shows a sign of life every other second, and clocks of two machines differ.
_SILENT_MAX = timedelta(minutes=1)
_CONNECT_SECONDS = 3


# --- endpoints -------------------------------------------------------------------------------------------------------


def examine_endpoints(service: Service, *, now: datetime, is_database_usable: bool) -> Iterator[Finding]:
    """Look whether each endpoint can be told, and is told in time."""
    try:
        endpoints = service.endpoints
    except EndpointsError as error:
        yield failed("endpoints", f"{error.place} {error.problem}", error.remedy)
        return
    yield ok("endpoints", f"{len(endpoints)} are told" if endpoints else "nobody is told of events")
    for endpoint in endpoints.values():
        if (problem := why_unreachable(endpoint)) is not None:
            yield failed(
                "endpoint", f"{endpoint.name}: {problem}", "correct its url in endpoints.toml, or the resolver"
            )
        elif is_database_usable:
            late = service.database.run(partial(_untold, endpoint=endpoint, now=now), read_only=True)
            for each in late:
                yield failed("endpoint", f"{endpoint.name}: {each}", "flask events test tries it")
            if not late:
                yield ok("endpoint", f"{endpoint.name}: in order")


def _untold(session: Session, endpoint: Endpoint, now: datetime) -> list[str]:
    return list(untold(session, endpoint, now=now))


def untold(session: Session, endpoint: Endpoint, *, now: datetime) -> Iterator[str]:
    """Say what keeps an endpoint from being told."""
    lease = session.get(Lease, f"endpoint:{endpoint.name}")
    if lease is None or lease.holder is None or now - lease.at > _SILENT_MAX:
        yield "no worker sends to it: flask serve and flask work do, and know of a new endpoint after a SIGHUP"
    standing = deliveries.standing(session, endpoint.name)
    if standing.failed_before:
        said = "" if standing.last_error is None else f": {standing.last_error.rstrip('.')}"
        yield f"{counted(standing.failed_before)} to be sent again, the next at {_at(standing.due_at)}{said}"
    elif standing.due_at is not None and standing.due_at < now - _SILENT_MAX:
        yield f"{counted(standing.due)} to be sent to it since {_at(standing.due_at)}"


def counted(number: int) -> str:
    """Say how many deliveries there are, as the subject of a sentence."""
    at_least = "at least " if number >= deliveries.COUNTED_MAX else ""
    return f"{at_least}{number} {'delivery is' if number == 1 else 'deliveries are'}"


def why_unreachable(endpoint: Endpoint) -> str | None:
    """Look the host up. Nothing is sent to it: flask events test does that."""
    url = urlsplit(endpoint.url)
    host = url.hostname or ""
    try:
        found = socket.getaddrinfo(host, url.port or url.scheme, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return f"its host {host} cannot be resolved"
    if any(is_link_local(str(address[0])) for *_, address in found):
        return f"its host {host} leads to a link-local address, and such are refused"
    return None


def _at(time: datetime | None) -> str:
    return "-" if time is None else f"{time:%Y-%m-%dT%H:%M:%SZ}"


# --- gateways --------------------------------------------------------------------------------------------------------


def examine_gateways(service: Service) -> Iterator[Finding]:
    """Open a connection to the gateway of each client, with TLS, and close it without a request."""
    try:
        clients = service.keyring.clients.values()
    except KeyringError:
        return
    for url in dict.fromkeys(client.gateway.url for client in clients if client.gateway is not None):
        if (problem := _why_not_connected(url)) is None:
            yield ok(
                "gateway", f"{url} takes a connection; no request was made, so whether it takes calls is not known"
            )
        else:
            remedy = "correct gateway in the keyring, or let the firewall through to it"
            yield failed("gateway", f"{url} takes no connection: {problem}", remedy)


def _why_not_connected(url: str) -> str | None:
    parts = urlsplit(url)
    host, is_encrypted = parts.hostname or "", parts.scheme == "https"
    try:
        with socket.create_connection((host, parts.port or (443 if is_encrypted else 80)), _CONNECT_SECONDS) as plain:
            if is_encrypted:
                with ssl.create_default_context().wrap_socket(plain, server_hostname=host):
                    pass
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not believed: {error.verify_message}"
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return None
