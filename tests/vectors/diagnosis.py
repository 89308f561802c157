"""Write `diagnosis.json`: one delivery for each mistake, signed by keys that are made for it and thrown away.

`python -m tests.vectors.diagnosis`. Alipay's SDK signs what it can sign: with SHA-256 and PKCS #1 v1.5, a body that is
text. The rest says that our own signer made it.
"""

import base64
import json
from pathlib import Path
from typing import Any

from com.alipay.ams.api.tools import signature_tool
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from tests.mistakes import HARMLESS, KEYS, MISTAKES, Message, Mistake, Scheme
from tests.signing import arrived, signature_of

FILE = Path(__file__).with_suffix(".json")

#: Alipay's own tool. It has no annotations.
SDK: Any = signature_tool
ABOUT = (
    "Deliveries with one mistake each, and what the doctor for signatures has to say of them. Written by "
    "`python -m tests.vectors.diagnosis`. body is base64 of the exact bytes that arrived; changes are in the words of "
    "the doctor; key names the key that signed, among keys."
)


def main() -> None:
    """Write the file anew, with new keys."""
    private_keys = {name: rsa.generate_private_key(65537, 2048) for name in KEYS}
    document = {
        "about": ABOUT,
        "keys": {
            name: {"client": owner[0], "version": owner[1], "publicKey": _public_text(private_keys[name])}
            for name, owner in KEYS.items()
            if owner is not None
        },
        "cases": [_case(mistake, private_keys[mistake.signed_by]) for mistake in (*HARMLESS, *MISTAKES)],
    }
    FILE.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _case(mistake: Mistake, private_key: RSAPrivateKey) -> dict[str, Any]:
    charset = _charset(mistake)
    message = arrived(mistake, private_key, _signature_by_sdk if charset else signature_of)
    return {
        "name": mistake.name,
        "verifies": not mistake.changes,
        "changes": mistake.changes,
        "key": mistake.signed_by,
        "contentIsFound": mistake.content_is_found,
        "method": message.method,
        "uri": message.uri,
        "clientId": message.client_id,
        "requestTime": message.request_time,
        "signature": message.signature,
        "body": base64.b64encode(message.body).decode(),
        "headers": message.headers,
        "registeredUrl": message.registered_url,
        "paths": message.paths,
        "madeBy": "official SDK" if charset else "our own signer",
    }


def _charset(mistake: Mistake) -> str | None:
    """Name the charset in which the SDK can sign what is sent; `None` where it cannot."""
    if mistake.scheme != "sha256":
        return None
    for charset in ("utf-8", "gbk"):
        try:
            mistake.sent.body.decode(charset)
        except UnicodeDecodeError:
            continue
        return charset
    return None


def _signature_by_sdk(private_key: RSAPrivateKey, message: Message, _scheme: Scheme) -> str:
    key = base64.b64encode(
        private_key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    ).decode()
    try:
        text = message.body.decode()
    except UnicodeDecodeError:
        content = SDK.gen_sign_content(
            message.method, message.uri, message.client_id, message.request_time, message.body.decode("gbk")
        )
        return str(getattr(SDK, "__sign_with_sha256rsa")(key, content, "gbk"))
    return str(SDK.sign(message.method, message.uri, message.client_id, message.request_time, text, key))


def _public_text(private_key: RSAPrivateKey) -> str:
    return base64.b64encode(
        private_key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    ).decode()


if __name__ == "__main__":
    main()
