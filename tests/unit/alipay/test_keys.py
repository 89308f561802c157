"""A key is read the way people paste it, or refused with the mistake that was made."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, strategies as st

from app.alipay.keyring import (
    KeyringError,
    fingerprint,
    load_private_key,
    load_public_key,
)
from tests.unit.alipay.key_text import certificate_of, private_text, public_text


@pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM])
@pytest.mark.parametrize("kind", [PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1])
def test_public_key_is_read_in_every_usual_form(
    alipay_key: RSAPrivateKey, encoding: Encoding, kind: PublicFormat
) -> None:
    text = public_text(alipay_key, encoding, kind)
    for form in (text, f"\n {text}\n", text.encode(), b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()):
        assert load_public_key(form) == alipay_key.public_key()


@pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM])
@pytest.mark.parametrize("kind", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_private_key_is_read_in_every_usual_form(
    merchant_key: RSAPrivateKey, encoding: Encoding, kind: PrivateFormat
) -> None:
    text = private_text(merchant_key, encoding, kind)
    for form in (text, f"\n {text}\n", text.encode(), b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()):
        assert load_private_key(form).public_key() == merchant_key.public_key()


def test_base64_may_be_wrapped_and_pem_may_stand_on_one_line(alipay_key: RSAPrivateKey) -> None:
    text = public_text(alipay_key)
    wrapped = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    assert load_public_key(wrapped) == alipay_key.public_key()
    one_line = f"-----BEGIN PUBLIC KEY-----{text}-----END PUBLIC KEY-----"
    assert load_public_key(one_line) == alipay_key.public_key()


@pytest.mark.parametrize("text", ["MIIB!", b"\xff\x00", "é", "-----BEGIN PUBLIC KEY-----"])
def test_text_that_encodes_nothing_is_refused(text: str | bytes) -> None:
    with pytest.raises(KeyringError, match="The public key is neither base64 of DER nor PEM; paste it whole"):
        load_public_key(text)


@given(st.text() | st.binary() | st.binary().map(base64.b64encode))
def test_any_text_that_is_no_key_is_refused_in_one_way(text: str | bytes) -> None:
    with pytest.raises(KeyringError):
        load_private_key(text)


def test_key_that_was_cut_off_is_refused(alipay_key: RSAPrivateKey) -> None:
    with pytest.raises(KeyringError, match="The public key holds no key, or not the whole of it"):
        load_public_key(public_text(alipay_key)[:-40])


def test_certificate_is_told_from_a_key(alipay_key: RSAPrivateKey) -> None:
    with pytest.raises(KeyringError, match="is a certificate; take its key out with openssl x509"):
        load_public_key(certificate_of(alipay_key))


@pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM])
def test_encrypted_key_says_so(merchant_key: RSAPrivateKey, encoding: Encoding) -> None:
    text = private_text(merchant_key, encoding, encryption=BestAvailableEncryption(b"passphrase"))
    with pytest.raises(KeyringError, match="is encrypted with a passphrase; decrypt it with openssl pkey"):
        load_private_key(text)


def test_encrypted_key_of_the_old_kind_is_refused(merchant_key: RSAPrivateKey) -> None:
    old = private_text(
        merchant_key, Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"passphrase")
    )
    with pytest.raises(KeyringError, match="and unencrypted"):
        load_private_key(old)


def test_key_that_is_not_rsa_is_refused() -> None:
    with pytest.raises(KeyringError, match="is not an RSA key; use an RSA key"):
        load_private_key(private_text(ec.generate_private_key(ec.SECP256R1())))


def test_key_that_is_too_short_is_refused() -> None:
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 -- what is refused
    with pytest.raises(KeyringError, match="has 1024 bits, fewer than 2048, and could be forged"):
        load_public_key(public_text(short))


def test_where_it_is_begins_the_sentence() -> None:
    with pytest.raises(KeyringError, match=r"^merchant\.pem is neither"):
        load_private_key("?", where="merchant.pem")


def test_fingerprint_is_the_digest_of_the_subject_public_key_info(alipay_key: RSAPrivateKey) -> None:
    digest = hashlib.sha256(base64.b64decode(public_text(alipay_key))).digest()
    shown = fingerprint(alipay_key.public_key())
    assert base64.b64decode(shown.removeprefix("SHA256:") + "=") == digest
