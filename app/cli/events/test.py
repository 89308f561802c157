"""`flask events test`: call an endpoint once, now, and say how it answered."""

import json
from datetime import UTC, datetime

import click
from flask.cli import with_appcontext

from app.cli import options
from app.cli.endpoints.finding import find_endpoint
from app.cli.errors import REFUSED
from app.cli.tables import plain, print_json
from app.documents import timestamp

#: No event of the feed is of this type: receivers answer 2xx and do nothing.
_TYPE = "endpoint.test"


@click.command()
@with_appcontext
@click.argument("endpoint", metavar="ENDPOINT")
@options.as_json
def test(endpoint: str, *, as_json: bool) -> None:
    """Send an endpoint one signed request of type endpoint.test now, and say how it is answered.

    Nothing is stored, and nothing is tried again. Ends with 1 if the answer is no 2xx.
    """
    # Imported late: no other command has a use for them.
    from uuid_utils.compat import uuid7  # noqa: PLC0415

    from app.events.sending import send  # noqa: PLC0415

    found = find_endpoint(endpoint)
    event_id = str(uuid7())
    document = {
        "id": event_id,
        "type": _TYPE,
        "timestamp": timestamp(datetime.now(UTC)),
        "data": {"endpoint": found.name},
    }
    answer = send(found, json.dumps(document, separators=(",", ":")), event_id)
    if as_json:
        print_json(
            {
                "id": event_id,
                "endpoint": found.name,
                "httpStatus": answer.http_status,
                "error": answer.error,
                "answer": answer.answer,
                "milliseconds": answer.milliseconds,
            }
        )
    else:
        said = f"It answered {answer.http_status}." if answer.error is None else answer.error
        click.echo(f"{plain(said)} That took {answer.milliseconds} ms.")
        if answer.answer:
            click.echo(plain(answer.answer))
    if answer.error is not None:
        raise click.exceptions.Exit(REFUSED)
