"""Spoil deliveries in the ways that a receiver must refuse."""

from dataclasses import replace
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric import rsa

from app.alipay.delivery import Delivery
from app.simulator.sender import Signer

#: A version that no keyring holds: Alipay counts from 1.
_UNREGISTERED_KEY_VERSION = 9999

_KEY_BITS = 2048
_PUBLIC_EXPONENT = 65537


class Forgery(StrEnum):
    """What is wrong with a delivery whose body is in order."""

    STRANGER = "signed by a stranger"
    TAMPERED = "body changed after signing"
    UNKNOWN_CLIENT = "for an unknown client"
    UNKNOWN_KEY = "with an unknown key version"


def forge(signer: Signer, forgery: Forgery | None, body: bytes, *, uri: str, request_time: str) -> Delivery:
    """Sign the body as `signer` would, but wrongly in exactly one way; or rightly, if no forgery is asked for."""
    match forgery:
        case Forgery.STRANGER:
            signer = replace(signer, private_key=rsa.generate_private_key(_PUBLIC_EXPONENT, _KEY_BITS))
        case Forgery.UNKNOWN_CLIENT:
            signer = replace(signer, client_id=f"{signer.client_id}_UNKNOWN")
        case Forgery.UNKNOWN_KEY:
            signer = replace(signer, key_version=_UNREGISTERED_KEY_VERSION)
        case Forgery.TAMPERED | None:
            pass
    delivery = signer.sign(body, uri=uri, request_time=request_time)
    return replace(delivery, body=body + b" ") if forgery is Forgery.TAMPERED else delivery
