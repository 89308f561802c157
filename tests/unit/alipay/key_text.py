"""Write keys the way people paste them."""

import base64
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
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


def certificate_of(key: RSAPrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "merchant")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
