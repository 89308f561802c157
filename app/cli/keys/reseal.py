"""`flask keys reseal`: seal again, under the first vault key, all that another has sealed."""

from datetime import UTC, datetime
from functools import partial

import click
from flask.cli import with_appcontext

from app import rotation
from app.cli.current_service import look_up, the_service
from app.cli.long_running import progress_bar, run_step
from app.maintenance import record_run


@click.command()
@with_appcontext
def reseal() -> None:
    """Seal again, under the first vault key, all that was sealed under another. The service may go on working."""
    vault, database = the_service().vault, the_service().database
    resealed = 0
    with progress_bar("Resealing", look_up(rotation.rows_to_look_at)) as progress:
        for sealed_column in rotation.SEALED_COLUMNS:
            after: rotation.Key | None = None
            while True:
                batch = run_step(
                    partial(
                        database.run,
                        partial(rotation.reseal_batch, vault=vault, sealed_column=sealed_column, after=after),
                    )
                )
                resealed += batch.count
                progress.update(batch.seen)
                after = batch.up_to
                if after is None:
                    break
    database.run(partial(record_run, name="reseal", at=datetime.now(UTC)))
    first, *others = vault.sealer.key_ids
    click.echo(f"Sealed {resealed} again under vault key {first}.")
    if others:
        click.echo(
            f"No longer needed, once every process of the service has the new FLASK_VAULT_KEYS: {', '.join(others)}."
        )
