"""Find the endpoint that a command is about, and write its address without what may be a secret in it."""

from urllib.parse import urlsplit

from app.cli.current_service import the_service
from app.cli.errors import Refusal
from app.cli.tables import MASK, plain
from app.events.endpoints import Endpoint


class NoEndpointError(Refusal):
    """endpoints.toml has no endpoint of this name."""

    def __init__(self, name: str, known: list[str]) -> None:
        names = ", ".join(sorted(known)) or "none"
        super().__init__(f"endpoints.toml has no endpoint {plain(name)}. Known are: {names}.")


def find_endpoint(name: str) -> Endpoint:
    """Find an endpoint. Raises `NoEndpointError`."""
    endpoints = the_service().endpoints
    if name not in endpoints:
        raise NoEndpointError(name, list(endpoints))
    return endpoints[name]


def shown_url(endpoint: Endpoint) -> str:
    """Write an address. Some put a key into its query."""
    url = urlsplit(endpoint.url)
    return url._replace(query=MASK).geturl() if url.query else endpoint.url
