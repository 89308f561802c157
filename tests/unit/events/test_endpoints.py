"""endpoints.toml: a mistake in it is a sentence with the place and the remedy, and no secret is in any."""

import base64
from pathlib import Path

import pytest

from app.events.endpoints import Endpoints, EndpointsError, UnknownEndpointError
from tests.receiver import SECRET

OTHER = "whsec_" + base64.b64encode(b"another secret of the shop").decode()


def load(folder: Path, text: str) -> Endpoints:
    path = folder / "endpoints.toml"
    path.write_text(text)
    return Endpoints.load(path)


def an_endpoint(name: str = "shop", **settings: str) -> str:
    """A table with these settings as they are written; one that is empty is left out."""
    given = {"url": '"https://shop.example/hooks"', "secrets": f'["{SECRET}"]'} | settings
    lines = (f"{key} = {value}" for key, value in given.items() if value)
    return "\n".join([f"[endpoints.{name}]", *lines, ""])


def test_an_endpoint_has_what_its_table_says(tmp_path: Path) -> None:
    (tmp_path / "old").write_text(f"{OTHER}\n")
    found = load(tmp_path, an_endpoint(secrets=f'["{SECRET}", "file:old"]', types='["authorization.canceled"]'))["shop"]
    assert (found.name, found.url) == ("shop", "https://shop.example/hooks")
    assert [each.reveal() for each in found.secrets] == [SECRET, OTHER]
    assert found.takes("authorization.canceled")
    assert not found.takes("authorization.consulted")


def test_each_is_told_of_its_types_and_of_all_unless_said(tmp_path: Path) -> None:
    text = an_endpoint("all") + an_endpoint("some", types='["authorization.token_*"]')
    endpoints = load(tmp_path, text)
    assert endpoints.subscribers("authorization.token_active") == ["all", "some"]
    assert endpoints.subscribers("authorization.canceled") == ["all"]


def test_without_a_file_nobody_is_told() -> None:
    assert dict(Endpoints.load(None)) == {}
    assert Endpoints.load(None).subscribers("authorization.canceled") == []


def test_an_unknown_endpoint_is_named(tmp_path: Path) -> None:
    endpoints = load(tmp_path, an_endpoint())
    with pytest.raises(UnknownEndpointError, match="There is no endpoint 'shpo'"):
        endpoints["shpo"]
    assert endpoints.get("shpo") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[endpoints", "is not TOML"),
        (an_endpoint() + an_endpoint(), "is not TOML"),
        ("[endpoint.shop]", "has an unknown setting endpoint"),
        ("endpoints = 1", "is not a table"),
        ("[endpoints]\nshop = 1", "is not a table"),
        (an_endpoint(uri='"x"'), "has an unknown setting uri"),
        (an_endpoint('"a b"'), "has a name that cannot be used"),
        (an_endpoint(url=""), "is missing"),
        (an_endpoint(url='"ftp://shop.example"'), "is neither https:// nor http://"),
        (an_endpoint(url='"shop.example/hooks"'), "is neither https:// nor http://"),
        (an_endpoint(url='"https:///hooks"'), "names no host"),
        (an_endpoint(url='"https://shop.example:99999/"'), "cannot be read"),
        (an_endpoint(url='"https://shop.example:0/"'), "has a port that does not exist"),
        (an_endpoint(url='"https://shop.example/a b"'), "has a blank"),
        (an_endpoint(url='"https://shöp.example/"'), "not ASCII"),
        (an_endpoint(url='"https://u:s3cr3t@shop.example/"'), "has a user name or a password before its @"),
        (an_endpoint(url='"https://shop.example/#s3cr3t"'), "has a # in it"),
        (an_endpoint(url='"http://169.254.169.254/"'), "is a link-local address"),
        (an_endpoint(url='"http://[::ffff:169.254.169.254]/"'), "is a link-local address"),
        (an_endpoint(url='"http://[fe80::1%25eth0]/"'), "is a link-local address"),
        (an_endpoint(secrets=""), "are missing"),
        (an_endpoint(secrets="[]"), "are missing"),
        (an_endpoint(secrets=f'"{SECRET}"'), "are missing"),
        (an_endpoint(secrets="[1]"), "hold something that is not a text"),
        (an_endpoint(secrets='["s3cr3t"]'), "does not begin with whsec_"),
        (an_endpoint(secrets='["whsec_s3cr3t!"]'), "is not base64"),
        (an_endpoint(secrets='["whsec_c2VjcmV0"]'), "hold one of 6 bytes, which is not between 24 and 64"),
        (an_endpoint(secrets=f'["{SECRET}", "{SECRET}"]'), "name one secret twice"),
        (an_endpoint(secrets='["file:gone"]'), "name a file that does not exist"),
        (an_endpoint(secrets='["file:."]'), "cannot be read"),
        (an_endpoint(ca="1"), "certificates (ca) of endpoint shop are not a text"),
        (an_endpoint(ca='"s3cr3t"'), "are none, or cannot be read"),
        (an_endpoint(ca='"file:gone.pem"'), "name a file that does not exist"),
        (an_endpoint(url='"http://shop.example/"', ca='"file:ca.pem"'), "are of no use"),
        (an_endpoint(types="[]"), "are no list of texts"),
        (an_endpoint(types='"authorization.*"'), "are no list of texts"),
        (an_endpoint(types='["authorization.created"]'), "name authorization.created, which no event is of"),
        (an_endpoint(types='["*", "*"]'), "name one type twice"),
        (f'[endpoints.shop]\n{SECRET} = "x"', f"has an unknown setting ({len(SECRET)} characters)"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_without_a_secret(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(EndpointsError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert said in message
    assert message.startswith(str(tmp_path / "endpoints.toml"))
    assert message.endswith(".")
    assert "s3cr3t" not in message
    assert SECRET not in message


def test_a_secret_file_in_bytes_that_are_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EndpointsError, match="name a file that is no text"):
        load(tmp_path, an_endpoint(secrets='["file:old"]'))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EndpointsError, match="does not exist; create it, or point FLASK_ENDPOINTS at the one you have"):
        Endpoints.load(tmp_path / "endpoints.toml")


def test_a_file_from_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.toml"
    path.write_bytes(b"\xef\xbb\xbf" + an_endpoint().replace("\n", "\r\n").encode())
    assert list(Endpoints.load(path)) == ["shop"]


def test_the_secrets_are_masked(tmp_path: Path) -> None:
    assert SECRET not in repr(load(tmp_path, an_endpoint()))
