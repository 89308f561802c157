"""Write keys the way people paste them."""

import base64

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


def public_text(key: RSAPrivateKey, encoding: Encoding = Encoding.DER, kind: PublicFormat | None = None) -> str:
    encoded = key.public_key().public_bytes(encoding, kind or PublicFormat.SubjectPublicKeyInfo)
    return encoded.decode() if encoding is Encoding.PEM else base64.b64encode(encoded).decode()


def private_text(
    key: RSAPrivateKey | ec.EllipticCurvePrivateKey,
    encoding: Encoding = Encoding.DER,
    kind: PrivateFormat = PrivateFormat.PKCS8,
    encryption: KeySerializationEncryption | None = None,
) -> str:
    encoded = key.private_bytes(encoding, kind, encryption or NoEncryption())
    return encoded.decode() if encoding is Encoding.PEM else base64.b64encode(encoded).decode()
