"""`flask events recover`: tell endpoints what they have not got since a time."""

from collections import Counter
from datetime import UTC, datetime
from functools import partial

import click
from flask.cli import with_appcontext

from app.cli import options
from app.cli.current_service import look_up, the_service
from app.cli.endpoints.finding import find_endpoint
from app.cli.long_running import progress_bar, run_step
from app.events import deliveries, feed


@click.command()
@with_appcontext
@click.option("--since", metavar="TIME", type=options.AwareTime(), required=True, help="ISO 8601 with a zone.")
@click.option("--endpoint", metavar="NAME", help="Only to this one.  [default: all of endpoints.toml]")
def recover(since: datetime, endpoint: str | None) -> None:
    """Make new deliveries of every event since a time that an endpoint takes, has not got, and is not to get anyway.

    For an endpoint that was away for too long, took what it then lost, or is new. Codes that have expired are left out.
    """
    database, endpoints = the_service().database, the_service().endpoints
    subscribers = endpoints.subscribers
    if endpoint is not None:
        only = find_endpoint(endpoint)

        def subscribers(event_type: str) -> list[str]:
            return [only.name] if only.takes(event_type) else []

    made: Counter[str] = Counter()
    expired, after = 0, None
    look_up(feed.last_position)
    with progress_bar("Recovering", None) as progress:
        while True:
            step = partial(deliveries.recover, since=since, now=datetime.now(UTC), after=after)
            recovered = run_step(partial(database.run, partial(step, subscribers=subscribers)))
            if recovered.up_to is None:
                break
            made += recovered.made
            expired += recovered.expired
            after = recovered.up_to
            progress.update(recovered.looked_at)
    each = ", ".join(f"{name} {count}" for name, count in sorted(made.items()))
    new = "1 new delivery" if made.total() == 1 else f"{made.total()} new deliveries"
    click.echo(f"Made {new}{': ' if each else ''}{each}.")
    if expired:
        left_out = (
            "1 was left out, since its code has" if expired == 1 else f"{expired} were left out, since their codes have"
        )
        click.echo(f"{left_out} expired.")
