"""Keys, made once for all the tests of a run and never written to a file."""

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.alipay.keyring import Keyring
from tests.builders import a_keyring


def _a_private_key() -> RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="session")
def alipay_key() -> RSAPrivateKey:
    """What the pretend Alipay signs with, as key version 1."""
    return _a_private_key()


@pytest.fixture(scope="session")
def newer_alipay_key() -> RSAPrivateKey:
    """What the pretend Alipay signs with after a rotation, as key version 2."""
    return _a_private_key()


@pytest.fixture(scope="session")
def merchant_key() -> RSAPrivateKey:
    """What the merchant signs answers with."""
    return _a_private_key()


@pytest.fixture(scope="session")
def keyring(alipay_key: RSAPrivateKey, newer_alipay_key: RSAPrivateKey) -> Keyring:
    """Both of Alipay's keys, for one client."""
    return a_keyring({1: alipay_key.public_key(), 2: newer_alipay_key.public_key()})
