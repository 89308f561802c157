"""The doctor names exactly what happened to a delivery, and nothing where nothing can be known."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicNumbers
from hypothesis import given, settings, strategies as st

from app.alipay.delivery import BODY_BYTES_MAX, Delivery
from app.alipay.diagnosis import Change, Diagnosis, KeyAtHand, diagnose, keys_at_hand
from app.alipay.diagnosis.request_lines import KnownPaths, request_lines, uri_changes
from app.alipay.diagnosis.search import CANDIDATES_MAX
from app.alipay.keyring import Client, Keyring, load_public_key
from tests.mistakes import (
    BODY,
    CLIENT_ID,
    HARMLESS,
    HEADER_MISTAKES,
    KEY_MISTAKES,
    KEYS,
    MISTAKES,
    PATH,
    KeyName,
    Message,
    Mistake,
)
from tests.signing import arrived, delivery_of
from tests.vectors.diagnosis import FILE

VECTORS = json.loads(FILE.read_text("utf-8"))
#: Found among the mistakes of a kind by name.
BY_NAME: Mapping[str, Mistake] = {
    mistake.name: mistake
    for mistake in (
        *MISTAKES,
        # As one of the vectors, of whatever was signed.
        Mistake(
            "characters escaped",
            ("non_ascii_escaped",),
            lambda message: replace(
                message,
                body=re.sub("[^\x00-\x7f]", lambda each: json.dumps(each[0])[1:-1], message.body.decode()).encode(),
            ),
        ),
    )
}


@pytest.fixture(scope="session")
def private_keys() -> Mapping[KeyName, RSAPrivateKey]:
    return {name: rsa.generate_private_key(65537, 2048) for name in KEYS}


@pytest.fixture(scope="session")
def keys(private_keys: Mapping[KeyName, RSAPrivateKey]) -> tuple[KeyAtHand, ...]:
    return tuple(
        KeyAtHand(*owner, private_keys[name].public_key()) for name, owner in KEYS.items() if owner is not None
    )


def diagnosis_of(message: Message, keys: Sequence[KeyAtHand]) -> Diagnosis:
    return diagnose(
        delivery_of(message),
        keys,
        headers=message.headers,
        paths=message.paths,
        registered_url=message.registered_url,
    )


def diagnosis_of_vector(case: dict[str, Any]) -> Diagnosis:
    keys = [
        KeyAtHand(key["client"], key["version"], load_public_key(key["publicKey"])) for key in VECTORS["keys"].values()
    ]
    return diagnose(
        Delivery(
            case["method"],
            case["uri"],
            case["clientId"],
            case["requestTime"],
            case["signature"],
            base64.b64decode(case["body"]),
        ),
        keys,
        headers=case["headers"],
        paths=case["paths"],
        registered_url=case["registeredUrl"],
    )


def words(diagnosis: Diagnosis) -> list[str]:
    return [str(change) for change in diagnosis.changes]


def changes_of(*mistakes: Mistake) -> list[str]:
    named = {change for mistake in mistakes for change in mistake.changes}
    return [str(change) for change in Change if change in named]


# --- one mistake each ---


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in VECTORS["cases"]])
def test_vector_is_named_by_exactly_its_changes(case: dict[str, Any]) -> None:
    found = diagnosis_of_vector(case)
    assert (words(found), found.verifies, found.is_explained) == (
        case["changes"],
        case["verifies"],
        case["contentIsFound"],
    )
    signer = VECTORS["keys"].get(case["key"])
    if found.key is not None:
        assert (found.key.client_id, found.key.version) == (signer["client"], signer["version"])
    assert (found.key is None) == (case["name"] in {"signed by a stranger", "truncated", "no signature"})


def test_every_mistake_has_a_vector_and_every_word_a_mistake() -> None:
    assert [case["name"] for case in VECTORS["cases"]] == [mistake.name for mistake in (*HARMLESS, *MISTAKES)]
    assert {change for mistake in MISTAKES for change in mistake.changes} == {str(change) for change in Change}


def test_most_vectors_were_signed_by_alipays_sdk() -> None:
    others = {case["name"] for case in VECTORS["cases"] if case["madeBy"] != "official SDK"}
    assert others == {mistake.name for mistake in MISTAKES if mistake.scheme != "sha256"}


# --- several mistakes at once ---

#: Mistakes that leave a message such that any other may follow.
INDEPENDENT_PATHS = ("one segment added", "trailing slash added", "query added", "prefix and query lost")
INDEPENDENT_STAMPS = ("milliseconds for ISO 8601", "milliseconds for seconds", "another client id in the header")
INDEPENDENT_BODIES = ("JSON spaced", "JSON indented by two", "slashes escaped", "final newline added", "a field added")
#: Two changes of the body, the second after the first.
BODY_PAIRS = (
    ("JSON spaced", "final newline added"),
    ("JSON spaced", "slashes escaped"),
    ("JSON spaced", "still base64"),
    ("characters escaped", "slashes escaped"),
    ("characters escaped", "final newline added"),
    ("JSON spaced", "characters escaped"),
    ("a field added", "final newline added"),
    ("a field added", "byte order mark added"),
    ("final newline added", "still compressed"),
    ("slashes escaped", "still base64"),
    ("still compressed", "still base64"),
)


def both(*mistakes: Mistake) -> Mistake:
    """One mistake after the other: what is sent and known is joined from all that say something."""
    plain = Message()
    sent = plain
    for mistake in mistakes:
        said = {
            name: getattr(mistake.sent, name)
            for name in ("method", "uri", "client_id", "request_time", "body")
            if getattr(mistake.sent, name) != getattr(plain, name)
        }
        sent = replace(sent, **said)

    def alter(message: Message) -> Message:
        for mistake in mistakes:
            message = mistake.alter(message)
        return message

    signers = {mistake.signed_by for mistake in mistakes} - {"alipay 1"}
    schemes = {mistake.scheme for mistake in mistakes} - {"sha256"}
    return Mistake(
        " + ".join(mistake.name for mistake in mistakes),
        tuple(changes_of(*mistakes)),
        alter,
        sent,
        next(iter(signers), "alipay 1"),
        next(iter(schemes), "sha256"),
    )


def combinations() -> list[Mistake]:
    paths, stamps, bodies = (
        [BY_NAME[name] for name in names] for names in (INDEPENDENT_PATHS, INDEPENDENT_STAMPS, INDEPENDENT_BODIES)
    )
    body_pairs = [both(BY_NAME[first], BY_NAME[second]) for first, second in BODY_PAIRS]
    digests = [mistake for mistake in HEADER_MISTAKES if mistake.scheme != "sha256"]
    # (Not every signature has a plus.)
    written = [BY_NAME[name] for name in ("base64url", "escaped twice", "hex")]
    key_side = [mistake for mistake in KEY_MISTAKES if mistake.content_is_found]
    pairs = [*product(paths, stamps), *product(paths, bodies), *product(stamps, bodies)]
    return [
        *body_pairs,
        *(both(*pair) for pair in pairs),
        *(both(*each) for each in product(paths[:2], stamps[:2], bodies)),
        *(both(*each) for each in product(paths[:2], body_pairs)),
        *(both(*each) for each in product(stamps[:1], body_pairs)),
        *(both(*each) for each in product(paths[:2], stamps[:1], body_pairs)),
        *(both(*each) for each in product((*digests, *written, *key_side), (*paths[:1], *bodies[:1], stamps[0]))),
        *(both(*each) for each in product(key_side, digests, paths[:1])),
        *(both(*each) for each in product(digests, written)),
    ]


@pytest.mark.parametrize("mistake", [pytest.param(each, id=each.name) for each in combinations()])
def test_mistakes_at_once_are_named_as_exactly_that_set(
    mistake: Mistake, private_keys: Mapping[KeyName, RSAPrivateKey], keys: tuple[KeyAtHand, ...]
) -> None:
    found = diagnosis_of(arrived(mistake, private_keys[mistake.signed_by]), keys)
    assert words(found) == list(mistake.changes)
    assert found.is_explained
    assert not found.verifies
    assert found.tried <= CANDIDATES_MAX


# --- what verifies, and what nothing is known of ---


@settings(max_examples=20)
@given(
    uri=st.text("/abc?&=%20", min_size=1).map(lambda text: f"/{text}"),
    request_time=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=64),
    body=st.binary(max_size=300),
)
def test_what_verifies_needs_no_change(
    private_keys: Mapping[KeyName, RSAPrivateKey],
    keys: tuple[KeyAtHand, ...],
    uri: str,
    request_time: str,
    body: bytes,
) -> None:
    sent = Message(uri=uri, request_time=request_time, body=body)
    found = diagnosis_of(arrived(Mistake("", (), sent=sent), private_keys["alipay 1"]), keys)
    assert (found.verifies, words(found), found.tried, found.digest) == (True, [], 1, "sha256")
    assert found.signed == found.ours


@settings(max_examples=50)
@given(
    signature=st.one_of(
        st.text(st.characters(max_codepoint=0xFF)),
        st.binary(max_size=600).map(
            lambda signature: f"algorithm=RSA256,keyVersion=1,signature={base64.b64encode(signature).decode()}"
        ),
    ),
    uri=st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF)).map(lambda text: f"/{text}"),
    client_id=st.text(st.characters(max_codepoint=0xFF)),
    request_time=st.text(st.characters(max_codepoint=0xFF)),
    body=st.binary(),
)
def test_garbage_is_nobodys_and_its_content_is_never_found(
    keys: tuple[KeyAtHand, ...], signature: str, uri: str, client_id: str, request_time: str, body: bytes
) -> None:
    found = diagnose(Delivery("POST", uri, client_id, request_time, signature, body), keys)
    assert (found.verifies, found.key, found.digest, found.signed) == (False, None, None, None)
    assert set(words(found)) <= {
        "missing_header",
        "unknown_key",
        "truncated",
        "base64url",
        "plus_became_blank",
        "escaped_twice",
    }


def test_a_signature_that_is_none_at_all_is_explained_by_nothing(keys: tuple[KeyAtHand, ...]) -> None:
    found = diagnosis_of(Message(signature="algorithm=RSA256,keyVersion=1,signature=garbage"), keys)
    assert (words(found), found.key, found.is_explained) == ([], None, False)


@settings(max_examples=15)
@given(
    body=st.one_of(
        st.binary(), st.text().map(str.encode), st.dictionaries(st.text(), st.text()).map(json.dumps).map(str.encode)
    )
)
def test_another_content_is_not_found_and_the_key_is_certain_all_the_same(
    private_keys: Mapping[KeyName, RSAPrivateKey], keys: tuple[KeyAtHand, ...], body: bytes
) -> None:
    if not body:
        return
    sent = Message(body=b'{"accessToken":"never seen here"}')
    mistake = Mistake("", (), lambda message: replace(message, body=body), sent)
    found = diagnosis_of(arrived(mistake, private_keys["alipay 1"]), keys)
    assert (words(found), found.verifies, found.digest, found.signed) == ([], False, "sha256", None)
    assert found.key is not None
    assert (found.key.client_id, found.key.version) == (CLIENT_ID, 1)
    assert 1000 < found.tried <= CANDIDATES_MAX
    assert "--registered-url" in found.remedy


@given(
    changed=st.sampled_from(["uri", "client_id", "request_time", "body"]),
    text=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40),
)
@settings(max_examples=25)
def test_what_was_signed_is_found_or_nothing_is_claimed(
    private_keys: Mapping[KeyName, RSAPrivateKey], keys: tuple[KeyAtHand, ...], changed: str, text: str
) -> None:
    value: Any = {"uri": f"/{text}", "body": text.encode()}.get(changed, text)
    mistake = Mistake("", (), lambda message: replace(message, **{changed: value}))
    found = diagnosis_of(arrived(mistake, private_keys["alipay 1"]), keys)
    content = f"POST {PATH}\n{CLIENT_ID}.1685599933871.".encode() + BODY
    assert found.signed in {None, content}
    # Where nothing is claimed, only an absence is named.
    if found.signed is None:
        assert set(words(found)) <= {"missing_header", "empty_body"}


# --- within bounds, whatever arrives ---

HOSTILE: Mapping[str, dict[str, Any]] = {
    "a huge body": {"body": b"x" * BODY_BYTES_MAX},
    "a huge JSON": {"body": json.dumps({"list": ["x"] * 13_000}).encode()},
    "numbers": {"body": b'{"list":[' + b"1," * 32_000 + b"1]}"},
    "many fields": {"body": json.dumps({f"k{number}": "é/" for number in range(3000)}).encode()},
    "deep JSON": {"body": b'{"a":' * 9000 + b"1" + b"}" * 9000},
    "JSON as deep as is read": {"body": b'{"a":' * 60 + b"1" + b"}" * 60},
    "quotes": {"body": b'"' * BODY_BYTES_MAX},
    "backslashes": {"body": b"\\" * BODY_BYTES_MAX},
    "half characters": {"body": b'{"a":"' + b"\\ud800" * 5000 + b'"}'},
    "many slashes": {"uri": "/" * 10_000},
    "many parameters": {"uri": f"{PATH}?" + "&".join(f"a{number}={number}" for number in range(4000))},
    "escapes": {"uri": "/" + "%25" * 600},
    "a long time": {"request_time": "1" * 60_000},
    "a long client id": {"client_id": "é," * 30_000},
    "many signatures": {"signature": "signature=" * 6000},
    "a signature of escapes": {"signature": "algorithm=RSA256,signature=" + "%25" * 20_000},
    "a signature of blanks": {"signature": "algorithm=RSA256,signature=" + " " * 60_000},
    "a long hex": {"signature": "algorithm=RSA256,signature=" + "ab" * 30_000},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_input_is_tried_beyond_the_bound(
    name: str, private_keys: Mapping[KeyName, RSAPrivateKey], keys: tuple[KeyAtHand, ...]
) -> None:
    sent = Message(body=b"{}", uri="/signed/elsewhere")
    mistake = Mistake("", (), lambda message: replace(message, **{"uri": PATH, "body": BODY, **HOSTILE[name]}), sent)
    found = diagnosis_of(arrived(mistake, private_keys["alipay 1"]), keys)
    assert not found.verifies
    assert found.tried <= CANDIDATES_MAX
    assert found.signed is None


def test_long_paths_are_compared_with_fewer_others() -> None:
    """What is listed is compared with what arrived, which takes longer the longer both are."""
    headers = {"x-original-uri": "/" + "a/" * 30_000, "x-forwarded-prefix": "/b" * 30_000}
    listed = request_lines("POST", "/" * 2000, KnownPaths(headers=headers))
    assert sum(len(each.value[1]) for each in listed) < 600_000


def test_a_body_that_unpacks_to_far_more_is_not_unpacked(
    private_keys: Mapping[KeyName, RSAPrivateKey], keys: tuple[KeyAtHand, ...]
) -> None:
    import gzip  # noqa: PLC0415 -- for this test alone

    sent = Message(body=b"0" * 30_000_000)
    mistake = Mistake("", (), lambda message: replace(message, body=gzip.compress(message.body)), sent)
    assert diagnosis_of(arrived(mistake, private_keys["alipay 1"]), keys).signed is None


@pytest.mark.parametrize(
    ("hostile", "problem"),
    [
        ({"request_time": "1" * 65}, "request-time has more than 64 characters"),
        ({"signature_end": " " * 4096}, "signature has more than 4096 characters"),
        ({"request_time": "17\t00"}, "the delivery has a control character"),
    ],
    ids=["time", "signature", "control"],
)
def test_what_is_refused_whoever_signed_it_is_named_with_a_remedy(
    private_keys: Mapping[KeyName, RSAPrivateKey], keys: tuple[KeyAtHand, ...], hostile: dict[str, str], problem: str
) -> None:
    """Content and key are as they should be, so nothing else could be said."""
    message = Message(request_time=hostile.get("request_time", "1700000000000").replace("\t", ""))
    sent = arrived(Mistake("", (), sent=message), private_keys["alipay 1"])
    end = hostile.get("signature_end", "")
    found = diagnosis_of(
        replace(sent, signature=sent.signature + end, request_time=hostile.get("request_time", sent.request_time)), keys
    )
    assert (found.verifies, words(found), found.header_problem) == (False, ["missing_header"], problem)
    assert problem[1:] in found.remedy


def test_no_key_of_a_large_keyring_is_left_out(
    private_keys: Mapping[KeyName, RSAPrivateKey], keys: tuple[KeyAtHand, ...]
) -> None:
    """One that is not tried would be called unknown, which is not certain."""
    numbers = private_keys["alipay 1"].public_key().public_numbers()
    others = [
        KeyAtHand(f"C{n}", 1, RSAPublicNumbers(numbers.e, numbers.n + 2 * n).public_key()) for n in range(1, 1500)
    ]
    found = diagnosis_of(arrived(BY_NAME["query added"], private_keys["alipay 1"]), [*others, *keys])
    assert (words(found), found.key) == (["query_added"], keys[0])


# --- what is said ---


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in VECTORS["cases"] if case["changes"]])
def test_every_mistake_has_a_remedy_that_names_what_to_change(case: dict[str, Any]) -> None:
    remedy = diagnosis_of_vector(case).remedy
    assert re.search(r"FLASK_|keyring\.toml|proxy|gateway|sender|curl|register|middleware", remedy), remedy
    assert remedy.endswith(".")
    assert "None" not in remedy
    assert "28100103_" not in remedy


def test_the_remedy_names_the_path_that_was_signed(
    private_keys: Mapping[KeyName, RSAPrivateKey], keys: tuple[KeyAtHand, ...]
) -> None:
    mistake = BY_NAME["prefix stripped, registered URL known"]
    remedy = diagnosis_of(arrived(mistake, private_keys["alipay 1"]), keys).remedy
    assert f"FLASK_PUBLIC_NOTIFY_PATH=/shop/7{PATH}" in remedy


def test_programs_are_told_in_these_words(
    private_keys: Mapping[KeyName, RSAPrivateKey], keys: tuple[KeyAtHand, ...]
) -> None:
    document = diagnosis_of(arrived(BY_NAME["query added"], private_keys["alipay 1"]), keys).document()
    assert list(document) == ["verifies", "key", "digest", "changes", "remedy"]
    assert document["verifies"] is False
    assert document["key"] == {"client": CLIENT_ID, "version": 1, "fingerprint": keys[0].fingerprint}
    assert (document["digest"], document["changes"]) == ("sha256", ["query_added"])


@pytest.mark.parametrize(
    ("signed", "arrives", "changes"),
    [
        ("/a/b", "/b", ["prefix_stripped"]),
        ("/b", "/a/b", ["prefix_added"]),
        ("/hook/", "/", ["prefix_stripped"]),
        ("/hook", "/", ["prefix_stripped"]),
        ("/a/b/", "/b", ["prefix_stripped", "trailing_slash"]),
        ("/b", "/b/", ["trailing_slash"]),
        ("/a/b", "/c/b", ["prefix_stripped", "prefix_added"]),
        ("/b?x=1", "/a/b", ["prefix_added", "query_lost"]),
        ("/b?x=1", "/b?y=1", ["query_lost", "query_added"]),
        ("/b?x=%2F", "/b?x=/", ["percent_encoding"]),
        ("/b?x=1&y=2", "/b?y=2&x=1", ["query_reordered"]),
        ("https://h/a/b?x=1", "/b?x=1", ["prefix_stripped", "whole_url"]),
    ],
)
def test_paths_are_compared_as_proxies_change_them(signed: str, arrives: str, changes: list[str]) -> None:
    assert [str(change) for change in uri_changes(signed, arrives)] == changes


def test_keys_of_a_keyring_are_at_hand_with_the_merchants_own(private_keys: Mapping[KeyName, RSAPrivateKey]) -> None:
    public_key = private_keys["alipay 1"].public_key()
    client = Client(CLIENT_ID, "auto_debit", {1: (public_key,)}, private_keys["merchant"])
    at_hand = keys_at_hand(Keyring({CLIENT_ID: client}))
    assert [(key.client_id, key.version) for key in at_hand] == [(CLIENT_ID, 1), (CLIENT_ID, None)]
    assert at_hand[1].public_key == private_keys["merchant"].public_key()


def test_the_endpoint_never_asks_the_doctor() -> None:
    app = Path(__file__).parents[3] / "app"
    users = {
        str(file.relative_to(app))
        for file in app.rglob("*.py")
        if "diagnosis" in file.read_text("utf-8") and "diagnosis" not in file.parts
    }
    # Commands ask it, and what they look at an installation with.
    assert {user for user in users if not user.startswith(("cli/", "installation/"))} == set()
