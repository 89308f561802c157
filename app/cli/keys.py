"""`flask keys`: see whose signatures are believed, and change the vault key. Keys themselves are never shown."""

from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any

import click

from app import rotation
from app.alipay.keyring import Client, fingerprint
from app.cli import options
from app.cli.command_group import CommandGroup
from app.cli.current_service import look_up, the_service
from app.cli.long_running import progress_bar, run_step
from app.cli.tables import print_facts, print_json, print_table
from app.config import new_vault_key as make_vault_key
from app.maintenance import record_run

keys = CommandGroup("keys", help="See whose signatures are believed, and change the vault key.")


@keys.command()
@options.as_json
def show(*, as_json: bool) -> None:
    """Show the clients of the keyring with the fingerprints of Alipay's keys, and the ids of the vault keys."""
    service = the_service()
    clients, vault_key_ids = service.keyring.clients.values(), service.sealer.key_ids
    if as_json:
        vault_keys = [{"id": key_id, "seals": key_id == vault_key_ids[0]} for key_id in vault_key_ids]
        print_json({"clients": [_document(client) for client in clients], "vaultKeys": vault_keys})
        return
    print_facts({"keyring": service.settings.keyring_path})
    for client in clients:
        click.echo()
        print_facts(
            {
                "client": client.client_id,
                "default flow": client.default_flow,
                "acknowledgements": "not signed" if client.merchant_private_key is None else "signed",
                "calls": _calls(client),
            }
        )
        print_table(
            ("VERSION", "FINGERPRINT OF ALIPAY'S PUBLIC KEY", ""),
            [(key["version"], key["fingerprint"], "newest" if key["newest"] else "") for key in _public_keys(client)],
        )
    click.echo()
    uses = ["seals and opens", *["opens"] * (len(vault_key_ids) - 1)]
    print_table(("VAULT KEY ID", "USE"), zip(vault_key_ids, uses, strict=True))


def _calls(client: Client) -> str:
    """Say in words who makes the calls of a client, and where they go."""
    if client.gateway is None:
        return "made by the merchant"
    by_itself = {"codes are exchanged": client.gateway.exchange, "tokens are refreshed": client.gateway.refresh}
    parts = [f"made to {client.gateway.url}", *[what for what, is_done in by_itself.items() if is_done]]
    return ", ".join(parts)


def _document(client: Client) -> dict[str, Any]:
    return {
        "clientId": client.client_id,
        "defaultFlow": client.default_flow,
        "alipayPublicKeys": _public_keys(client),
        "signsAcknowledgements": client.merchant_private_key is not None,
        "gateway": None if client.gateway is None else asdict(client.gateway),
    }


def _public_keys(client: Client) -> list[dict[str, Any]]:
    newest = max(client.alipay_public_keys)
    return [
        {"version": version, "fingerprint": fingerprint(key), "newest": version == newest}
        for version, keys_of_version in sorted(client.alipay_public_keys.items())
        for key in keys_of_version
    ]


# No application is needed, so that a key can be made where the application does not start for want of one.
@keys.command(with_appcontext=False)
def new_vault_key() -> None:
    """Print a new vault key.

    In FLASK_VAULT_KEYS, or instance/vault.key, the first seals, all open. So it goes last, behind those in use, until
    every process of the service has started anew with it; then it goes first, everything starts anew again, and: flask
    keys reseal
    """
    click.echo(make_vault_key())
    click.echo(
        "Keep it: nothing opens the database without it. The first key of all is FLASK_VAULT_KEYS as it is. Another "
        "goes last, with a comma between it and those in use: in FLASK_VAULT_KEYS or, if that is unset, in "
        "instance/vault.key. Start the service anew, put it first, start anew again, then run: flask keys reseal",
        err=True,
    )


@keys.command()
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
