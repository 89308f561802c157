"""`flask endpoints list`: who is told of which events, and what is still to be sent to each."""

from typing import Any

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app.cli import options
from app.cli.current_service import look_up, the_service
from app.cli.endpoints.finding import shown_url
from app.cli.tables import moment, print_json, print_table
from app.documents import timestamp
from app.events import deliveries
from app.events.deliveries import Standing
from app.events.endpoints import Endpoint


@click.command("list")
@with_appcontext
@options.as_json
def list_endpoints(*, as_json: bool) -> None:
    """List the endpoints of endpoints.toml, and what is still to be sent to each. No secret is shown."""
    endpoints = the_service().endpoints

    def standings(session: Session) -> list[tuple[Endpoint, Standing]]:
        return [(each, deliveries.standing(session, each.name)) for each in endpoints.values()]

    found = look_up(standings)
    if as_json:
        print_json([_document(endpoint, standing) for endpoint, standing in found])
        return
    print_table(
        ("NAME", "TYPES", "SECRETS", "DUE", "FAILED BEFORE", "DUE SINCE", "URL"),
        [
            (
                endpoint.name,
                ", ".join(endpoint.types),
                len(endpoint.secrets),
                standing.due,
                standing.failed_before,
                moment(standing.due_at),
                shown_url(endpoint),
            )
            for endpoint, standing in found
        ],
        free=("TYPES",),
        last="URL",
    )


def _document(endpoint: Endpoint, standing: Standing) -> dict[str, Any]:
    return {
        "id": endpoint.name,
        "url": shown_url(endpoint),
        "types": list(endpoint.types),
        "secrets": len(endpoint.secrets),
        "due": standing.due,
        "failedBefore": standing.failed_before,
        "dueAt": timestamp(standing.due_at),
    }
