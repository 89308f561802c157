"""`flask keys show`: whose signatures are believed, by their fingerprints, and which vault keys are used."""

from dataclasses import asdict
from typing import Any

import click
from flask.cli import with_appcontext

from app.alipay.keyring import Client, fingerprint
from app.alipay.keyring_digest import keyring_digest
from app.cli import options
from app.cli.current_service import the_service
from app.cli.tables import print_facts, print_json, print_table


@click.command()
@options.as_json
@with_appcontext
def show(*, as_json: bool) -> None:
    """Show the clients of the keyring with the fingerprints of Alipay's keys, and the ids of the vault keys."""
    service = the_service()
    digest = keyring_digest(service.keyring)
    clients, vault_key_ids = service.keyring.clients.values(), service.sealer.key_ids
    if as_json:
        vault_keys = [{"id": key_id, "seals": key_id == vault_key_ids[0]} for key_id in vault_key_ids]
        shown = [_document(client) for client in clients]
        print_json({"keyringDigest": digest, "clients": shown, "vaultKeys": vault_keys})
        return
    print_facts({"keyring": service.settings.keyring_path, "digest": digest})
    for client in clients:
        click.echo()
        print_facts(
            {
                "client": client.client_id,
                "default flow": client.default_flow,
                "own public key": _own_fingerprint(client),
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


def _own_fingerprint(client: Client) -> str | None:
    """Name the key that has to be registered with Alipay."""
    key = client.merchant_private_key
    return None if key is None else fingerprint(key.public_key())


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
