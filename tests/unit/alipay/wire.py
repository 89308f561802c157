"""Build what Alipay sends, with a default for everything a test is not about."""

import json
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from app.alipay.delivery import Delivery
from app.alipay.keyring import Client, Keyring
from app.alipay.signature import sign

CLIENT_ID = "SANDBOX_5Y00000000000000"
URI = "/alipay/notifyAuthorization"
REQUEST_TIME = "1685599933871"
SUCCESS = {"resultCode": "SUCCESS", "resultStatus": "S", "resultMessage": "success"}


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
