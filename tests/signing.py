"""Sign a message in each of the ways that a sender may."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import replace
from urllib.parse import quote

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.alipay.delivery import Delivery
from tests.mistakes import Message, Mistake, Scheme

_SHA256 = hashes.SHA256()
_MASK = padding.MGF1(_SHA256)
_SCHEMES: Mapping[Scheme, tuple[hashes.HashAlgorithm, AsymmetricPadding]] = {
    "sha256": (_SHA256, padding.PKCS1v15()),
    "sha1": (hashes.SHA1(), padding.PKCS1v15()),  # noqa: S303 -- a mistake
    "md5": (hashes.MD5(), padding.PKCS1v15()),  # noqa: S303 -- a mistake
    "sha512": (hashes.SHA512(), padding.PKCS1v15()),
    "pss": (_SHA256, padding.PSS(_MASK, 32)),
    "pss with the longest salt": (_SHA256, padding.PSS(_MASK, padding.PSS.MAX_LENGTH)),
}

#: Gives the signature of a message, escaped: Alipay's SDK, or `signature_of`.
Signer = Callable[[RSAPrivateKey, Message, Scheme], str]


def signature_of(private_key: RSAPrivateKey, message: Message, scheme: Scheme) -> str:
    """Sign a message, whatever is in it."""
    content = f"{message.method} {message.uri}\n{message.client_id}.{message.request_time}.".encode() + message.body
    hashed, padded = _SCHEMES[scheme]
    signature = private_key.sign(content, padded, hashed)
    return quote(base64.b64encode(signature), safe="")


def arrived(mistake: Mistake, private_key: RSAPrivateKey, sign: Signer = signature_of) -> Message:
    """Sign what a mistake says is sent, and let the mistake happen to it."""
    header = f"algorithm=RSA256,keyVersion=1,signature={sign(private_key, mistake.sent, mistake.scheme)}"
    return mistake.alter(replace(mistake.sent, signature=header))


def delivery_of(message: Message) -> Delivery:
    """The delivery that a message arrives as."""
    return Delivery(
        message.method, message.uri, message.client_id, message.request_time, message.signature, message.body
    )
