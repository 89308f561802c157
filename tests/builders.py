"""Build what a test needs, with a default for everything it is not about: what Alipay sends, and a whole service."""

import json
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from app.alipay.delivery import Delivery
from app.alipay.keyring import Client, Keyring, load_private_key
from app.alipay.signature import sign
from app.config import DEFAULT_NOTIFY_PATH, Settings, new_vault_key, read_settings
from app.simulator.draft import Draft
from app.simulator.keys import SANDBOX_CLIENT_ID, SIMULATOR_KEY_NAME
from app.simulator.sender import Signer, headers_of

CLIENT_ID = "SANDBOX_5Y00000000000000"
URI = "/alipay/notifyAuthorization"
REQUEST_TIME = "1685599933871"
SUCCESS = {"resultCode": "SUCCESS", "resultStatus": "S", "resultMessage": "success"}


# --- what Alipay sends ---


def a_body(**fields: object) -> bytes:
    """A cancellation; fields are added, replaced, or taken out by `...`."""
    document = {"authorizationNotifyType": "TOKEN_CANCELED", "accessToken": "281001_token", "result": SUCCESS} | fields
    return json.dumps({name: value for name, value in document.items() if value is not ...}).encode()


def a_keyring(public_keys: Mapping[int, RSAPublicKey], *, client_id: str = CLIENT_ID) -> Keyring:
    """A keyring of one client."""
    keys = {version: (key,) for version, key in public_keys.items()}
    return Keyring({client_id: Client(client_id, "auto_debit", keys)})


def a_delivery(
    *,
    method: str = "POST",
    uri: str = URI,
    client_id: str = CLIENT_ID,
    request_time: str = REQUEST_TIME,
    signature: str = "",
    body: bytes | None = None,
) -> Delivery:
    """A delivery with whatever signature the test gives it."""
    return Delivery(method, uri, client_id, request_time, signature, a_body() if body is None else body)


def a_signed_delivery(
    private_key: RSAPrivateKey,
    *,
    uri: str = URI,
    client_id: str = CLIENT_ID,
    request_time: str = REQUEST_TIME,
    body: bytes | None = None,
    key_version: int | None = 1,
) -> Delivery:
    """A delivery as genuine as the key."""
    body = a_body() if body is None else body
    signature = sign(
        private_key,
        method="POST",
        uri=uri,
        client_id=client_id,
        time=request_time,
        body=body,
        key_version=key_version,
    )
    return Delivery("POST", uri, client_id, request_time, signature, body)


# --- a whole service, as an operator sets it up ---


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
