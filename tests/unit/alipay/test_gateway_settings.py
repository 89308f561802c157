"""A client's gateway: where its calls go, and which of them the service makes by itself."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from hypothesis import given, settings, strategies as st

from app.alipay import keyring as keyring_module
from app.alipay.call import Caller
from app.alipay.keyring import Client, Gateway, Keyring, KeyringError
from app.bounded_http import ConnectionPool
from tests.builders import CLIENT_ID
from tests.unit.alipay.key_text import private_text, public_text
from tests.unit.alipay.test_keyring import Folder, a_client

URL = "https://open-sea-global.alipay.com"


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("keyring"))


@pytest.fixture(scope="session")
def public_keys(alipay_key: RSAPrivateKey) -> str:
    """Alipay's key, as a line of the keyring."""
    return f'1 = "{public_text(alipay_key)}"'


@pytest.fixture(scope="session")
def private_key(merchant_key: RSAPrivateKey) -> str:
    """The merchant's key, as a line of the keyring."""
    return f'merchant_private_key = "{private_text(merchant_key)}"'


def a_gateway_of(folder: Folder, public_keys: str, *lines: str) -> Gateway | None:
    return folder.load(a_client(public_keys, "\n".join(lines))).client(CLIENT_ID).gateway


def test_a_client_has_none_unless_it_is_set(folder: Folder, public_keys: str, private_key: str) -> None:
    assert a_gateway_of(folder, public_keys, private_key) is None


def test_with_one_codes_are_exchanged_and_tokens_refreshed(folder: Folder, public_keys: str, private_key: str) -> None:
    gateway = a_gateway_of(folder, public_keys, private_key, f'gateway = "{URL}"')
    assert gateway == Gateway(URL, exchange=True, refresh=True)


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("refresh", [True, False])
def test_each_can_be_switched_off(
    folder: Folder, public_keys: str, private_key: str, *, exchange: bool, refresh: bool
) -> None:
    lines = f"exchange = {exchange}\nrefresh = {refresh}".lower()
    gateway = a_gateway_of(folder, public_keys, private_key, f'gateway = "{URL}"', lines)
    assert gateway == Gateway(URL, exchange=exchange, refresh=refresh)


@pytest.mark.parametrize(
    ("written", "url"),
    [
        (f"{URL}/", URL),
        (f" {URL} ", URL),
        ("HTTPS://Open-SEA-Global.Alipay.COM:8443", "https://open-sea-global.alipay.com:8443"),
        ("https://10.0.0.1", "https://10.0.0.1"),
        ("https://[2001:DB8::1]:443", "https://[2001:db8::1]:443"),
        ("http://localhost:5001", "http://localhost:5001"),
        ("http://127.0.0.2:5001/", "http://127.0.0.2:5001"),
        ("http://[::1]:5001", "http://[::1]:5001"),
    ],
)
def test_its_url_is_kept_in_one_form(
    folder: Folder, public_keys: str, private_key: str, written: str, url: str
) -> None:
    gateway = a_gateway_of(folder, public_keys, private_key, f'gateway = "{written}"')
    assert gateway is not None
    assert gateway.url == url


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("1", "is no text"),
        ('""', "is no text"),
        ('["https://a.example"]', "is no text"),
        ('"https://a .example"', "is no text"),
        ('"https://käufer.example"', "is no text"),
        ('"open-sea-global.alipay.com"', "does not begin with https://"),
        ('"ftp://a.example"', "does not begin with https://"),
        ('"https://"', "names no host"),
        ('"https:///ams"', "names no host"),
        ('"https://a_b.example"', "names no host"),
        ('"https://%61.example"', "names no host"),
        ('"https://."', "names no host"),
        ('"https://a..example"', "names no host"),
        ('"https://a.example."', "names no host"),
        ('"https://[::1"', "cannot be read"),
        ('"https://a.example:65536"', "cannot be read"),
        ('"https://a.example:0"', "has a port that does not exist"),
        ('"https://a.example:"', "has a port that does not exist"),
        ('"https://a.example/ams/api/v1"', "goes on behind its host"),
        ('"https://a.example?"', "goes on behind its host"),
        ('"https://a.example#b"', "goes on behind its host"),
        ('"http://open-sea-global.alipay.com"', "is not encrypted"),
        ('"http://10.0.0.1"', "is not encrypted"),
        ('"http://localhost.example"', "is not encrypted"),
        ('"http://127.0.0.1.example"', "is not encrypted"),
    ],
)
def test_a_url_that_cannot_be_one_is_refused_with_what_to_write(
    folder: Folder, public_keys: str, private_key: str, written: str, problem: str
) -> None:
    sentence = folder.refusal(a_client(public_keys, f"{private_key}\ngateway = {written}"))
    assert sentence.startswith(f"gateway of client {CLIENT_ID} {problem}")


def test_a_password_in_its_url_is_refused_and_not_shown(folder: Folder, public_keys: str, private_key: str) -> None:
    for url in ("https://shop:s3cr3t@a.example", "https://s3cr3t@a.example/b?c#d"):
        sentence = folder.refusal(a_client(public_keys, f'{private_key}\ngateway = "{url}"'))
        assert "has a user name or a password before its @; take it out" in sentence
        assert "s3cr3t" not in sentence


def test_it_needs_the_key_that_signs_calls(folder: Folder, public_keys: str) -> None:
    assert folder.refusal(a_client(public_keys, f'gateway = "{URL}"')) == (
        f"gateway of client {CLIENT_ID} is set without merchant_private_key, with which calls are signed; "
        "add the merchant's private key, or take gateway out."
    )


@pytest.mark.parametrize("name", ["exchange", "refresh"])
def test_what_the_service_would_call_is_refused_without_it(
    folder: Folder, public_keys: str, private_key: str, name: str
) -> None:
    for value in ("true", "false"):
        assert folder.refusal(a_client(public_keys, f"{private_key}\n{name} = {value}")) == (
            f"{name} of client {CLIENT_ID} is set without a gateway, so no call is made; "
            f"add gateway, or take {name} out."
        )


@pytest.mark.parametrize("name", ["exchange", "refresh"])
@pytest.mark.parametrize("value", ['"false"', "0", "[]"])
def test_a_switch_is_true_or_false_and_nothing_like_it(
    folder: Folder, public_keys: str, private_key: str, name: str, value: str
) -> None:
    sentence = folder.refusal(a_client(public_keys, f'{private_key}\ngateway = "{URL}"\n{name} = {value}'))
    assert sentence == (f"{name} of client {CLIENT_ID} is neither true nor false; write one of them, without quotes.")


@settings(max_examples=500)
@given(st.from_regex(r"https?://[a-c0-2.:@\[\]/?#%_-]{0,12}", fullmatch=True))
def test_every_url_that_is_taken_can_be_called(merchant_key: RSAPrivateKey, url: str) -> None:
    """No URL of a keyring that was loaded may break the first call, or lead to another host or port."""
    try:
        gateway_url = keyring_module._gateway_url(url, "here")  # noqa: SLF001 -- without the file, which is slow
    except KeyringError:
        return
    client = Client(CLIENT_ID, "auto_debit", {1: (merchant_key.public_key(),)}, merchant_key, Gateway(gateway_url))
    Caller(client).close()
    connection = ConnectionPool(gateway_url).new()
    host = f"[{connection.host}]" if ":" in connection.host and "[" not in connection.host else connection.host
    assert gateway_url.partition("://")[2] in {host, f"{host}:{connection.port}"}


def test_no_caller_is_made_without_one(merchant_key: RSAPrivateKey) -> None:
    client = Client(CLIENT_ID, "auto_debit", {1: (merchant_key.public_key(),)}, merchant_key)
    with pytest.raises(ValueError, match="without a gateway"):
        Caller(client)


def test_the_sandbox_of_the_simulator_has_none(keyring_path: Path) -> None:
    assert all(client.gateway is None for client in Keyring.load(keyring_path).clients.values())
