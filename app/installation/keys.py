"""Whether the keyring and the vault keys are those that they should be."""

from collections import defaultdict
from collections.abc import Iterator

from app import index_key
from app.alipay.diagnosis.keys import is_sandbox
from app.alipay.keyring import Client, Keyring, KeyringError, fingerprint
from app.alipay.keyring_digest import keyring_digest
from app.config import SettingError, VaultKeyLostError
from app.database import DatabaseUnavailableError
from app.index_key import WrongVaultKeyError
from app.installation.findings import Finding, failed, ok, warning
from app.vault import Sealer
from app.wiring import Service

_COPY = "copy the Antom public key that Antom Dashboard shows under Developer > Key configuration, and kill -HUP"


def examine_keyring(service: Service) -> Iterator[Finding]:
    """Read the keyring, show the fingerprints of its keys, and name keys that stand in the place of others."""
    try:
        keyring = service.keyring
    except KeyringError as error:
        yield failed("keyring", f"{error.where} {error.problem}", error.remedy)
        return
    digest = keyring_digest(keyring)
    yield ok("keyring", f"{service.settings.keyring_path} is in order; every machine needs this one, digest {digest}")
    for client in keyring.clients.values():
        yield ok("keys", f"client {client.client_id}: {_fingerprints(client)}")
    yield from _own_keys(keyring)
    yield from _shared_keys(keyring)


def _fingerprints(client: Client) -> str:
    """Name Alipay's, which are to be compared with the dashboard, and the merchant's own, which Alipay has to have."""
    versions = sorted(client.alipay_public_keys.items())
    named = [f"version {version} {fingerprint(key)}" for version, keys in versions for key in keys]
    if client.merchant_private_key is not None:
        named.append(f"the merchant's own {fingerprint(client.merchant_private_key.public_key())}")
    return ", ".join(named)


def _own_keys(keyring: Keyring) -> Iterator[Finding]:
    """Name a merchant's own key of one client that stands as Alipay's of another. Of one client it is refused."""
    own = {
        fingerprint(each.merchant_private_key.public_key()): each.client_id
        for each in keyring.clients.values()
        if each.merchant_private_key is not None
    }
    for client in keyring.clients.values():
        for version, keys in client.alipay_public_keys.items():
            for key in keys:
                if (owner := own.get(fingerprint(key))) is not None:
                    said = f"Alipay's key {version} of client {client.client_id} is the merchant's own key of {owner}"
                    yield failed("keys", said, _COPY)


def _shared_keys(keyring: Keyring) -> Iterator[Finding]:
    """Name a key that stands for several clients: Alipay has one for each, so it is right for one of them at most."""
    clients: dict[str, set[str]] = defaultdict(set)
    for client in keyring.clients.values():
        for keys in client.alipay_public_keys.values():
            for key in keys:
                clients[fingerprint(key)].add(client.client_id)
    for found, ids in clients.items():
        if len(ids) > 1:
            is_of_both = len({is_sandbox(each) for each in ids}) > 1
            said = f"{' and '.join(sorted(ids))} have the same key {found}{', and one is of the sandbox' * is_of_both}"
            yield warning("keys", said, f"compare each with the dashboard, and {_COPY}")


def examine_vault(service: Service, *, is_database_usable: bool) -> Iterator[Finding]:
    """Try the vault keys on the database. One that would be made at the start is not made here."""
    settings = service.settings
    try:
        sealed = service.database.run(index_key.find_sealed, read_only=True) if is_database_usable else None
        key_file = settings.instance_path / "vault.key"
        if settings.uses_sqlite and not settings.vault_keys and not key_file.exists():
            if sealed is not None:
                yield failed("vault", str(VaultKeyLostError(key_file)))
            else:
                yield ok("vault", f"no key yet: the first start makes {key_file}")
            return
        if not settings.uses_sqlite and not settings.vault_keys and sealed is not None:
            said = "FLASK_VAULT_KEYS is not set, and this database has been used with a vault key"
            yield failed("vault", said, "set FLASK_VAULT_KEYS to that key: a new one would open nothing")
            return
        sealer: Sealer = service.sealer
        if sealed is None:
            yield ok("vault", f"{len(sealer.key_ids)} can be read" + ("" if is_database_usable else "; not tried"))
            return
        index_key.unseal(sealer, sealed)
    except WrongVaultKeyError as error:
        is_set = ", ".join(service.sealer.key_ids)
        remedy = f"see that this is the database that was meant, too; what is set are the vault keys {is_set}"
        yield failed("vault", f"does not open: {error}", remedy)
    except SettingError as error:
        yield failed("vault", str(error))
    except DatabaseUnavailableError as error:
        yield failed("vault", f"cannot be tried: {error.cause}")
    else:
        yield ok("vault", f"opens; sealed under {sealer.key_ids[0]}")
