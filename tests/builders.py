"""Build a whole service as an operator sets it up, with a default for everything a test is not about."""

from collections.abc import Mapping
from pathlib import Path

from app.alipay.delivery import Delivery
from app.alipay.keyring import load_private_key
from app.config import DEFAULT_NOTIFY_PATH, Settings, new_vault_key, read_settings
from app.simulator.draft import Draft
from app.simulator.keys import SANDBOX_CLIENT_ID, SIMULATOR_KEY_NAME
from app.simulator.sender import Signer, headers_of


def an_environ(database_url: str, keyring_path: Path, **settings: str) -> dict[str, str]:
    """The environment of a service."""
    required = {
        "FLASK_DATABASE_URL": database_url,
        "FLASK_KEYRING": str(keyring_path),
        "FLASK_VAULT_KEYS": new_vault_key(),
    }
    return required | settings


def some_settings(url: str, folder: Path) -> Settings:
    """The settings of a service whose files, the keyring too, are in this folder."""
    environ = {"FLASK_DATABASE_URL": url, "FLASK_VAULT_KEYS": new_vault_key()}
    return read_settings(environ, instance_path=folder)


def a_genuine_delivery(
    keyring_path: Path,
    notification: Draft | bytes,
    *,
    client_id: str = SANDBOX_CLIENT_ID,
    uri: str = DEFAULT_NOTIFY_PATH,
    request_time: str = "1685599933871",
) -> Delivery:
    """A delivery that the pretend Alipay of a sandbox signed."""
    body = notification if isinstance(notification, bytes) else notification.body()
    key = load_private_key(keyring_path.with_name(SIMULATOR_KEY_NAME).read_bytes())
    return Signer(client_id, key, 1).sign(body, uri=uri, request_time=request_time)


def a_raw_request(delivery: Delivery, *, method: str | None = None, headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of the HTTP request that carries a delivery."""
    lines = [f"{method or delivery.method} {delivery.uri} HTTP/1.1", "Host: merchant.example"]
    lines += [f"{name}: {value}" for name, value in {**headers_of(delivery), **(headers or {})}.items()]
    return "\r\n".join([*lines, f"Content-Length: {len(delivery.body)}", "", ""]).encode("latin-1") + delivery.body
