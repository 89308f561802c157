"""The options that the simulator's commands share: where to post, what to sign, and with which key."""

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import click
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from flask import Flask

from app.alipay.keyring import load_private_key
from app.cli.errors import UsageProblem
from app.config import DEFAULT_NOTIFY_PATH, read_keyring_path
from app.simulator.keys import SANDBOX_CLIENT_ID, SIMULATOR_KEY_NAME
from app.simulator.sender import Sender, Signer, UnusableUrlError

#: Where `flask serve` listens unless it is told otherwise.
DEFAULT_URL = f"http://127.0.0.1:8000{DEFAULT_NOTIFY_PATH}"

_ADDRESS = re.compile(r"https?://[^/?#]*(?P<uri>[^#]*)(#.*)?", re.IGNORECASE)

_NO_HEADER_VALUE = "no header can carry it: only visible ASCII characters, without blanks, will do."

_WHOLE_URL = f"write the whole URL, with its path, such as {DEFAULT_URL}."


MISDIRECTED = (
    "404 says that the service does not listen at this path: give --to the whole URL, with the path that the service "
    "has in FLASK_NOTIFY_PATH."
)


class NoKeyError(UsageProblem):
    """The private key to sign with cannot be read."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"{path} cannot be read ({error.strerror}): name a key with --key, or make one with flask simulator keys."
        )


def _sender(context: click.Context, _option: click.Parameter, url: str) -> Sender:
    return context.with_resource(Sender(notify_url(context, _option, url)))


def notify_url(_context: click.Context, _option: click.Parameter, url: str) -> str:
    """Refuse what is no address of a service that can be notified."""
    try:
        Sender(url).close()
    except UnusableUrlError as error:
        message = f"{error} So {_WHOLE_URL}"
        raise click.BadParameter(message) from None
    if not urlsplit(url).path:
        message = f"{url!r} has no path: {_WHOLE_URL}"
        raise click.BadParameter(message)
    return url


def signed_uri(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Take the path and query out of a URL too: it is what people have at hand, and never what is signed."""
    uri = header_value(context, option, value)
    if uri is None:
        return None
    address = _ADDRESS.fullmatch(uri)
    if address is not None:
        uri = address["uri"] if address["uri"].startswith("/") else f"/{address['uri']}"
    if not uri.startswith("/"):
        message = f"{uri!r} does not begin with a slash: it is the path, with the query if there is one."
        raise click.BadParameter(message)
    return uri


def header_value(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Refuse what an HTTP header cannot carry."""
    if value is not None and not re.fullmatch(r"[!-~]+", value):
        raise click.BadParameter(_NO_HEADER_VALUE)
    return value


to_option = click.option(
    "--to",
    "sender",
    metavar="URL",
    default=DEFAULT_URL,
    show_default=True,
    callback=_sender,
    help="Where to post: the whole URL, with its path.",
)
uri_option = click.option(
    "--uri", metavar="URI", callback=signed_uri, help="What to sign, if a proxy rewrites it. [default: that of --to]"
)
client_option = click.option(
    "--client",
    "client_id",
    metavar="ID",
    default=SANDBOX_CLIENT_ID,
    show_default=True,
    callback=header_value,
    help="The client id.",
)


key_option = click.option(
    "--key",
    "key_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"Who signs: a private key. [default: {SIMULATOR_KEY_NAME} beside the keyring]",
)


def signer_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say who signs, and give the command the signer they make."""

    @client_option
    @key_option
    @click.option(
        "--key-version", metavar="N", type=click.IntRange(min=0), default=1, help="Which key it is, by default 1."
    )
    @functools.wraps(command)
    def with_signer(*args: object, client_id: str, key_path: Path | None, key_version: int, **options: object) -> None:
        command(*args, signer=Signer(client_id, load_key(key_path), key_version), **options)

    return with_signer


def keyring_path() -> Path:
    """Return the path of the service's keyring, FLASK_KEYRING or the default."""
    return read_keyring_path(os.environ, instance_path=Path(Flask("app", static_folder=None).instance_path))


def load_key(path: Path | None) -> RSAPrivateKey:
    """Read the key that signs as Alipay, by default the simulator's beside the keyring."""
    path = path or keyring_path().with_name(SIMULATOR_KEY_NAME)
    try:
        return load_private_key(path.read_bytes(), where=str(path))
    except OSError as error:
        raise NoKeyError(path, error) from None
