"""Only what Alipay's key signed, to the byte, is believed."""

import base64
import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from com.alipay.ams.api.tools import signature_tool
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from hypothesis import given, settings, strategies as st

from app.alipay.delivery import Delivery
from app.alipay.keyring import Client, Keyring, load_public_key
from app.alipay.signature import (
    SIGNATURE_CHARACTERS_MAX,
    NotAuthenticError,
    UnsendableTextError,
    sign,
    verify,
    verify_answer,
)
from tests.builders import CLIENT_ID, REQUEST_TIME, URI, a_body, a_delivery, a_keyring, a_signed_delivery

#: Alipay's own tool, an outside opinion. It has no annotations.
SDK: Any = signature_tool
VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "signatures.json").read_text("utf-8"))


def refusal_of(delivery: Delivery, keyring: Keyring) -> NotAuthenticError:
    with pytest.raises(NotAuthenticError) as refusal:
        verify(delivery, keyring)
    return refusal.value


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in VECTORS["cases"]])
def test_vector_is_believed_or_refused_as_it_should_be(case: dict[str, Any]) -> None:
    keys = {int(version): load_public_key(text) for version, text in VECTORS["alipayPublicKeys"].items()}
    keyring = a_keyring(keys, client_id=VECTORS["clientId"])
    delivery = Delivery(
        method=case["method"],
        uri=case["uri"],
        client_id=case["clientId"],
        request_time=case["requestTime"],
        signature=case["signature"],
        body=base64.b64decode(case["body"]),
    )
    if case["valid"]:
        verify(delivery, keyring)
    else:
        refusal_of(delivery, keyring)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case["name"])
        for case in VECTORS["cases"]
        if (case["method"], case["clientId"]) == ("POST", VECTORS["clientId"])
    ],
)
def test_vector_is_believed_or_refused_as_an_answer_too(case: dict[str, Any]) -> None:
    """An answer is signed as a delivery is, over the path that was called and the time of the answer."""
    keys = {int(version): (load_public_key(text),) for version, text in VECTORS["alipayPublicKeys"].items()}
    with contextlib.nullcontext() if case["valid"] else pytest.raises(NotAuthenticError):
        verify_answer(
            Client(VECTORS["clientId"], "auto_debit", keys),
            uri=case["uri"],
            time=case["requestTime"],
            signature=case["signature"],
            body=base64.b64decode(case["body"]),
        )


@pytest.fixture(scope="session")
def alipay_key_for_the_sdk(alipay_key: RSAPrivateKey) -> str:
    """The same key as the official SDK wants it: base64 of PKCS#1."""
    der = alipay_key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return base64.b64encode(der).decode()


# Fewer examples than usual: at each the SDK reads and checks its key anew, which takes most of the time.
@settings(max_examples=20)
@given(
    uri=st.text("/abc?&=%20", min_size=1),
    request_time=st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cc", "Cs"]), min_size=1, max_size=16),
    body=st.text(st.characters(exclude_categories=["Cs"])),
    blank=st.sampled_from(["", " "]),
)
def test_delivery_signed_by_the_official_sdk_is_believed(
    keyring: Keyring, alipay_key_for_the_sdk: str, uri: str, request_time: str, body: str, blank: str
) -> None:
    signature = SDK.sign("POST", uri, CLIENT_ID, request_time, body, alipay_key_for_the_sdk)
    verify(
        a_delivery(
            uri=uri,
            # The SDK signs UTF-8, and a web server hands over each byte of it as a character.
            request_time=request_time.encode().decode("latin-1"),
            signature=f"algorithm=RSA256,{blank}keyVersion=1,{blank}signature={signature}",
            body=body.encode(),
        ),
        keyring,
    )


def test_signature_of_ours_is_believed_by_the_official_sdk(merchant_key: RSAPrivateKey) -> None:
    header = sign(merchant_key, method="POST", uri=URI, client_id=CLIENT_ID, time=REQUEST_TIME, body=a_body())
    public_key = base64.b64encode(
        merchant_key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    ).decode()
    value = header.removeprefix("algorithm=RSA256,keyVersion=1,signature=")
    assert SDK.verify("POST", URI, CLIENT_ID, REQUEST_TIME, a_body().decode(), value, public_key)


def each_bit_flipped(octets: bytes) -> Iterator[bytes]:
    for bit in range(len(octets) * 8):
        flipped = bytearray(octets)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


@pytest.mark.parametrize("field", ["method", "uri", "client_id", "request_time"])
def test_flipping_any_bit_of_a_text_that_was_signed_is_refused(
    field: str, keyring: Keyring, alipay_key: RSAPrivateKey
) -> None:
    genuine = a_signed_delivery(alipay_key, uri="/notify?a=b")
    for flipped in each_bit_flipped(getattr(genuine, field).encode("latin-1")):
        forged: dict[str, Any] = {field: flipped.decode("latin-1")}
        refusal_of(dataclasses.replace(genuine, **forged), keyring)


def test_flipping_any_bit_of_the_body_is_refused(keyring: Keyring, alipay_key: RSAPrivateKey) -> None:
    genuine = a_signed_delivery(alipay_key)
    for flipped in each_bit_flipped(genuine.body):
        refusal_of(dataclasses.replace(genuine, body=flipped), keyring)


def test_flipping_any_bit_of_the_signature_header_is_refused_unless_it_spells_the_same(
    keyring: Keyring, alipay_key: RSAPrivateKey
) -> None:
    genuine = a_signed_delivery(alipay_key)
    believed = []
    for flipped in each_bit_flipped(genuine.signature.encode()):
        forged = dataclasses.replace(genuine, signature=flipped.decode("latin-1"))
        with contextlib.suppress(NotAuthenticError):
            verify(forged, keyring)
            believed.append(forged.signature)
    # The algorithm and the hexadecimal digits of an escape mean the same in either case, and nothing else does.
    assert all(signature.lower() == genuine.signature.lower() for signature in believed)
    letters = "RSA" + "".join(escape[:2] for escape in genuine.signature.split("%")[1:])
    assert len(believed) == sum(letter.isalpha() for letter in letters)


def test_a_signature_header_longer_than_any_is_refused_before_it_is_read(keyring: Keyring) -> None:
    header = f"algorithm=RSA256,keyVersion=1,signature={'A' * SIGNATURE_CHARACTERS_MAX}"
    assert refusal_of(a_delivery(signature=header), keyring).cause == "header"


def test_a_signature_with_every_character_escaped_is_not_too_long(keyring: Keyring, alipay_key: RSAPrivateKey) -> None:
    """Not by a key of 4096 bits either, nor one by a key of 16384 bits as it is sent."""
    genuine = a_signed_delivery(alipay_key)
    names, _, value = genuine.signature.rpartition("=")
    escaped = "".join(f"%{ord(character):02X}" for character in unquote(value))
    verify(dataclasses.replace(genuine, signature=f"{names}={escaped}"), keyring)
    assert len(names) + 3 * len(base64.b64encode(bytes(4096 // 8))) < SIGNATURE_CHARACTERS_MAX
    assert len(names) + 1.2 * len(base64.b64encode(bytes(16384 // 8))) < SIGNATURE_CHARACTERS_MAX


def test_signature_over_an_empty_body_is_believed(keyring: Keyring, alipay_key: RSAPrivateKey) -> None:
    verify(a_signed_delivery(alipay_key, body=b""), keyring)


def test_body_that_is_no_text_is_verified_all_the_same(keyring: Keyring, alipay_key: RSAPrivateKey) -> None:
    verify(a_signed_delivery(alipay_key, body=b"\xff\x00\r\n"), keyring)


def test_client_id_that_is_not_ascii_is_verified_over_the_bytes_that_came(alipay_key: RSAPrivateKey) -> None:
    as_it_arrives = "Käufer€".encode().decode("latin-1")
    keyring = a_keyring({1: alipay_key.public_key()}, client_id=as_it_arrives)
    signed = b"POST " + URI.encode() + b"\n" + "Käufer€".encode() + b"." + REQUEST_TIME.encode() + b"." + a_body()
    signature = base64.b64encode(alipay_key.sign(signed, padding.PKCS1v15(), hashes.SHA256())).decode()
    verify(a_delivery(client_id=as_it_arrives, signature=f"algorithm=RSA256,signature={signature}"), keyring)


def test_key_version_that_is_absent_means_the_newest_key(
    keyring: Keyring, alipay_key: RSAPrivateKey, newer_alipay_key: RSAPrivateKey
) -> None:
    verify(a_signed_delivery(newer_alipay_key, key_version=None), keyring)
    assert refusal_of(a_signed_delivery(alipay_key, key_version=None), keyring).cause == "mismatch"


def test_old_key_stays_valid_beside_the_new_one(
    keyring: Keyring, alipay_key: RSAPrivateKey, newer_alipay_key: RSAPrivateKey
) -> None:
    verify(a_signed_delivery(alipay_key, key_version=1), keyring)
    verify(a_signed_delivery(newer_alipay_key, key_version=2), keyring)


def test_any_of_several_keys_of_one_version_may_have_signed_and_no_other(
    alipay_key: RSAPrivateKey, newer_alipay_key: RSAPrivateKey, merchant_key: RSAPrivateKey
) -> None:
    keys = {1: (alipay_key.public_key(), newer_alipay_key.public_key())}
    keyring = Keyring({CLIENT_ID: Client(CLIENT_ID, "auto_debit", keys)})
    verify(a_signed_delivery(alipay_key), keyring)
    verify(a_signed_delivery(newer_alipay_key), keyring)
    assert refusal_of(a_signed_delivery(merchant_key), keyring).cause == "mismatch"


def test_key_version_0_is_a_version_as_any_other(alipay_key: RSAPrivateKey, newer_alipay_key: RSAPrivateKey) -> None:
    keyring = a_keyring({0: alipay_key.public_key(), 1: newer_alipay_key.public_key()})
    verify(a_signed_delivery(alipay_key, key_version=0), keyring)
    assert refusal_of(a_signed_delivery(alipay_key, key_version=None), keyring).cause == "mismatch"


def test_unknown_client_is_named_as_the_cause(keyring: Keyring, alipay_key: RSAPrivateKey) -> None:
    refusal = refusal_of(a_signed_delivery(alipay_key, client_id="SANDBOX_OTHER"), keyring)
    assert (refusal.result_code, refusal.cause) == ("UNKNOWN_CLIENT", "unknown_client")


def test_delivery_without_a_client_id_is_of_an_unknown_client(keyring: Keyring) -> None:
    assert refusal_of(a_delivery(client_id=""), keyring).result_code == "UNKNOWN_CLIENT"


def test_unknown_key_version_is_named_as_the_cause(keyring: Keyring, alipay_key: RSAPrivateKey) -> None:
    refusal = refusal_of(a_signed_delivery(alipay_key, key_version=3), keyring)
    assert (refusal.result_code, refusal.cause) == ("KEY_NOT_FOUND", "unknown_key")


@pytest.mark.parametrize(
    ("header", "cause"),
    [
        ("", "header"),
        ("AAAA", "header"),
        ("algorithm=RSA256,keyVersion=1", "header"),
        ("algorithm=RSA256,keyVersion=1,signature=AAAA,", "header"),
        ("algorithm=RSA256,keyVersion=1,signature=AAAA,signature=AAAA", "header"),
        ("algorithm=RSA256,algorithm=RSA256,signature=AAAA", "header"),
        ("algorithm=RSA256,keyVersion=1,keyVersion=2,signature=AAAA", "header"),
        ("algorithm=RSA256,KeyVersion=1,signature=AAAA", "header"),
        ("algorithm=RSA256,keyVersion=1,signature=AAAA,nonce=1", "header"),
        ("algorithm=RSA256;keyVersion=1;signature=AAAA", "algorithm"),
        ("algorithm=RSA256,keyVersion=,signature=AAAA", "header"),
        ("algorithm=RSA256,keyVersion=1.0,signature=AAAA", "header"),
        ("algorithm=RSA256,keyVersion=+1,signature=AAAA", "header"),
        ("algorithm=RSA256,keyVersion=1_0,signature=AAAA", "header"),
        ("algorithm=RSA256,keyVersion=\u0661,signature=AAAA", "header"),
        ("algorithm=RSA256,keyVersion=\u00b2,signature=AAAA", "header"),
        (f"algorithm=RSA256,keyVersion={'1' * 5_000},signature=AAAA", "header"),
        ("algorithm=RSA256,\xa0keyVersion=1,signature=AAAA", "header"),
        ("keyVersion=1,signature=AAAA", "algorithm"),
        ("algorithm=,keyVersion=1,signature=AAAA", "algorithm"),
        ("algorithm=RSA512,keyVersion=1,signature=AAAA", "algorithm"),
        ("algorithm=HMAC,keyVersion=1,signature=AAAA", "algorithm"),
        ("algorithm=RSA256,keyVersion=1,signature=", "base64"),
        ("algorithm=RSA256,keyVersion=1,signature=AA+A A", "base64"),
        ("algorithm=RSA256,keyVersion=1,signature=AAA%0A", "base64"),
        ("algorithm=RSA256,keyVersion=1,signature=AA%20AA", "base64"),
        ("algorithm=RSA256,keyVersion=1,signature=AAA%2", "base64"),
        ("algorithm=RSA256,keyVersion=1,signature=AAAA%252B", "base64"),
        ("algorithm=RSA256,keyVersion=1,signature=AAA", "base64"),
        ("algorithm=RSA256,keyVersion=1,signature=AA==AAAA", "base64"),
        ("algorithm=RSA256,keyVersion=1,signature=AB==", "base64"),
        ("algorithm=RSA256,keyVersion=1,signature=====", "base64"),
        ("algorithm=RSA256,keyVersion=1,signature=AA-_", "base64"),
        ("algorithm=RSA256,keyVersion=1,signature=AAAA", "mismatch"),
    ],
    ids=lambda value: value[:60] or "empty",
)
def test_header_that_is_not_as_documented_is_refused_for_its_cause(header: str, cause: str, keyring: Keyring) -> None:
    refusal = refusal_of(a_delivery(signature=header), keyring)
    assert (refusal.result_code, refusal.cause) == ("INVALID_SIGNATURE", cause)
    assert str(refusal) == f"The delivery is not authentic ({cause})."


@pytest.mark.parametrize("request_time", ["", "1" * 65, "1685599933871\n", "16855\x0099", "1685€"])
def test_request_time_that_no_sender_writes_is_refused(
    request_time: str, keyring: Keyring, alipay_key: RSAPrivateKey
) -> None:
    signature = a_signed_delivery(alipay_key).signature
    assert refusal_of(a_delivery(request_time=request_time, signature=signature), keyring).cause == "header"


def test_request_time_cannot_swallow_the_beginning_of_a_body(keyring: Keyring, alipay_key: RSAPrivateKey) -> None:
    body = a_body(reason="x.{}")
    genuine = a_signed_delivery(alipay_key, body=body)
    swallowed, dot, rest = body.rpartition(b".")
    assert dot
    shifted = a_delivery(request_time=f"{REQUEST_TIME}.{swallowed.decode()}", signature=genuine.signature, body=rest)
    assert refusal_of(shifted, keyring).cause == "header"


def test_line_feed_in_a_header_cannot_pass_for_the_one_between_the_parts(
    keyring: Keyring, alipay_key: RSAPrivateKey
) -> None:
    signed = f"POST /\n/\n{CLIENT_ID}.{REQUEST_TIME}.".encode()
    signature = base64.b64encode(alipay_key.sign(signed, padding.PKCS1v15(), hashes.SHA256())).decode()
    delivery = a_delivery(uri="/\n/", signature=f"algorithm=RSA256,keyVersion=1,signature={signature}", body=b"")
    assert refusal_of(delivery, keyring).cause == "header"


@pytest.mark.parametrize("client_id", ["a\r\nset-cookie: b", "€"])
def test_signing_refuses_text_that_no_header_can_carry(client_id: str, alipay_key: RSAPrivateKey) -> None:
    with pytest.raises(UnsendableTextError, match="An HTTP header cannot carry"):
        a_signed_delivery(alipay_key, client_id=client_id)


NEARLY_A_HEADER = st.lists(
    st.tuples(
        st.sampled_from(["algorithm", "keyVersion", "signature", " signature"]) | st.text(max_size=3),
        st.sampled_from(["=", "", "=="]),
        st.sampled_from(["RSA256", "1", "AAAA", "%2B"]) | st.text("AB+/=%23 ") | st.text(max_size=9),
    ).map("".join)
).map(",".join)


@given(
    method=st.text(max_size=5),
    uri=st.text(),
    client_id=st.just(CLIENT_ID) | st.text(),
    request_time=st.text(),
    signature=NEARLY_A_HEADER | st.text(),
    body=st.binary(),
)
def test_any_headers_at_all_are_refused_in_one_way(
    keyring: Keyring, method: str, uri: str, client_id: str, request_time: str, signature: str, body: bytes
) -> None:
    refusal = refusal_of(Delivery(method, uri, client_id, request_time, signature, body), keyring)
    assert refusal.result_code in {"INVALID_SIGNATURE", "UNKNOWN_CLIENT", "KEY_NOT_FOUND"}
