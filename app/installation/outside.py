"""Whether what lies outside can be reached: the merchant's endpoints and Alipay's gateways. Nothing is sent to them."""

import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
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


#: What to do about the last error of an endpoint. The first that fits is meant.
_REMEDIES = tuple(
    (re.compile(said), remedy)
    for said, remedy in (
        (
            r"answered 40[13]\b",
            "it does not accept our signature: compare secrets in endpoints.toml with the receiver's, and its clock",
        ),
        (r"answered 404\b", "correct the path of its url in endpoints.toml, or let the receiver listen there"),
        (r"answered 405\b", "let the receiver take POST at the path of its url in endpoints.toml, or correct the path"),
        (r"answered 3\d\d\b", "write into endpoints.toml the url that it redirects to"),
        (r"answered 413\b", "let the receiver and its proxy take bodies of 64 KiB"),
        (r"answered 429\b", "let the receiver take more requests"),
        (r"answered 5\d\d\b", "see the log of the receiver, or of the proxy before it"),
        ("refused the connection", "start the receiver, or correct host and port of its url in endpoints.toml"),
        ("cannot be resolved", "correct the host of its url in endpoints.toml, or the resolver"),
        ("certificate", "renew its certificate, or name its authority as ca in endpoints.toml"),
        ("TLS failed", "correct the scheme or the port of its url in endpoints.toml: https is for TLS only"),
        ("in time", "the receiver has to answer within ten seconds, and a firewall has to let us through"),
        ("cannot be reached", "let the network or the firewall through to it, or correct its url in endpoints.toml"),
        ("without an answer|not HTTP", "see the log of the receiver; its url may need https, or another port"),
    )
)
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Untold:
    """What keeps an endpoint from being told, and what to do where that does not say it."""

    said: str
    remedy: str = ""


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
                yield failed("endpoint", f"{endpoint.name}: {each.said}", each.remedy)
            if not late:
                yield ok("endpoint", f"{endpoint.name}: in order")


def _untold(session: Session, endpoint: Endpoint, now: datetime) -> list[Untold]:
    return list(untold(session, endpoint, now=now))


def untold(session: Session, endpoint: Endpoint, *, now: datetime) -> Iterator[Untold]:
    """Say what keeps an endpoint from being told."""
    lease = session.get(Lease, f"endpoint:{endpoint.name}")
    if lease is None or lease.holder is None or now - lease.at > _SILENT_MAX:
        yield Untold("no worker sends to it: flask serve and flask work do, and know of a new endpoint after a SIGHUP")
    standing = deliveries.standing(session, endpoint.name)
    if standing.failed_before:
        error = (standing.last_error or "").rstrip(".")
        said = f"{counted(standing.failed_before)} to be sent again, the next at {_at(standing.due_at)}"
        yield Untold(f"{said}: {where(endpoint)}: {error}" if error else said, remedy_of(endpoint, error))
    elif standing.due_at is not None and standing.due_at < now - _SILENT_MAX:
        yield Untold(f"{counted(standing.due)} to be sent to it since {_at(standing.due_at)}", _try(endpoint))


def where(endpoint: Endpoint) -> str:
    """Say which host and port an endpoint is at. Its path may hold a secret."""
    url = urlsplit(endpoint.url)
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{url.scheme}://{host}:{url.port or _PORTS[url.scheme]}"


def remedy_of(endpoint: Endpoint, error: str) -> str:
    """Say what to do about the error of the last attempt, which `app.events.sending` words."""
    remedy = next((remedy for said, remedy in _REMEDIES if said.search(error)), "")
    return f"{remedy}; {_try(endpoint)}" if remedy else _try(endpoint)


def _try(endpoint: Endpoint) -> str:
    return f"flask events test {endpoint.name} tries it"


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
