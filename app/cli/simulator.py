"""A pretend Alipay: make its keys, send a notification, sign any body, play a scenario."""

import functools
import itertools
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import click
import urllib3
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from flask import Flask

from app.alipay.delivery import Delivery
from app.alipay.keyring import load_private_key
from app.cli.errors import Refusal, UsageProblem
from app.cli.groups import Commands
from app.cli.tables import plain
from app.config import DEFAULT_NOTIFY_PATH, read_keyring_path
from app.secret import Secret
from app.simulator.draft import Draft
from app.simulator.forgery import Forgery, forge
from app.simulator.keys import MERCHANT_KEY_NAME, SANDBOX_CLIENT_ID, SIMULATOR_KEY_NAME, KeysExistError, make_sandbox
from app.simulator.merchant import Merchant
from app.simulator.player import Performance, Player
from app.simulator.scenarios import SCENARIOS, Scenario
from app.simulator.sender import (
    REDELIVERY_DELAYS,
    Sender,
    ServiceResponse,
    Signer,
    UnusableUrlError,
    deliver,
    epoch_milliseconds,
    headers_of,
)

#: Where `flask serve` listens unless it is told otherwise.
DEFAULT_URL = f"http://127.0.0.1:8000{DEFAULT_NOTIFY_PATH}"

_ADDRESS = re.compile(r"https?://[^/?#]*(?P<uri>[^#]*)(#.*)?", re.IGNORECASE)

_NO_HEADER_VALUE = "no header can carry it: only visible ASCII characters, without blanks, will do."

#: Nothing faster than this is of use: a day passes in under a tenth of a second.
_SPEED = click.FloatRange(0, 1_000_000, min_open=True)

_CURL_EXAMPLE = f"""\b
Example:
  flask simulator sign body.json |
    curl -H @- --data-binary @body.json \\
    {DEFAULT_URL}
"""

_STORIES = "\n".join(f"  {name:<18}{scenario.story}" for name, scenario in SCENARIOS.items())

_WHOLE_URL = f"write the whole URL, with its path, such as {DEFAULT_URL}."

simulator = Commands("simulator", help=__doc__)

# No application is needed: whoever plays Alipay has neither the database's URL nor the vault's keys.
_command = functools.partial(simulator.command, with_appcontext=False)


class NoKeyError(UsageProblem):
    """The private key to sign with cannot be read."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"{path} cannot be read ({error.strerror}): name a key with --key, or make one with flask simulator keys."
        )


def _sender(context: click.Context, _option: click.Parameter, url: str) -> Sender:
    try:
        sender = Sender(url)
    except UnusableUrlError as error:
        message = f"{error} So {_WHOLE_URL}"
        raise click.BadParameter(message) from None
    if not urllib3.util.parse_url(url).path:
        message = f"{url!r} has no path: {_WHOLE_URL}"
        raise click.BadParameter(message)
    return context.with_resource(sender)


def _signed_uri(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Take the path and query out of a URL too: it is what people have at hand, and never what is signed."""
    uri = _header_value(context, option, value)
    if uri is None:
        return None
    address = _ADDRESS.fullmatch(uri)
    if address is not None:
        uri = address["uri"] if address["uri"].startswith("/") else f"/{address['uri']}"
    if not uri.startswith("/"):
        message = f"{uri!r} does not begin with a slash: it is the path, with the query if there is one."
        raise click.BadParameter(message)
    return uri


def _header_value(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[!-~]+", value):
        raise click.BadParameter(_NO_HEADER_VALUE)
    return value


_to = click.option(
    "--to",
    "sender",
    metavar="URL",
    default=DEFAULT_URL,
    show_default=True,
    callback=_sender,
    help="Where to post: the whole URL, with its path.",
)
_uri = click.option(
    "--uri", metavar="URI", callback=_signed_uri, help="What to sign, if a proxy rewrites it. [default: that of --to]"
)
_client = click.option(
    "--client",
    "client_id",
    metavar="ID",
    default=SANDBOX_CLIENT_ID,
    show_default=True,
    callback=_header_value,
    help="The client id.",
)


def _takes_signer(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say who signs, and give the command the signer they make."""

    @_client
    @click.option(
        "--key",
        "key_path",
        type=click.Path(dir_okay=False, path_type=Path),
        help=f"Who signs: a private key. [default: {SIMULATOR_KEY_NAME} beside the keyring]",
    )
    @click.option(
        "--key-version", metavar="N", type=click.IntRange(min=0), default=1, help="Which key it is, by default 1."
    )
    @functools.wraps(command)
    def with_signer(*args: object, client_id: str, key_path: Path | None, key_version: int, **options: object) -> None:
        key = _private_key(key_path or _keyring_path().with_name(SIMULATOR_KEY_NAME))
        command(*args, signer=Signer(client_id, key, key_version), **options)

    return with_signer


def _keyring_path() -> Path:
    return read_keyring_path(os.environ, instance_path=Path(Flask("app", static_folder=None).instance_path))


def _private_key(path: Path) -> RSAPrivateKey:
    try:
        return load_private_key(path.read_bytes(), place=str(path))
    except OSError as error:
        raise NoKeyError(path, error) from None


@_command("keys")
@_client
@click.option("--dir", "directory", type=click.Path(file_okay=False, path_type=Path), help="Where to put the files.")
def make_keys(client_id: str, directory: Path | None) -> None:
    """Make the keys of a sandbox, and the keyring that knows them.

    Without --dir the keyring is the one the service reads, FLASK_KEYRING. Nothing is ever overwritten.
    """
    service_path = _keyring_path()
    path = directory / "keyring.toml" if directory else service_path
    try:
        make_sandbox(path, client_id=client_id)
    except (KeysExistError, OSError) as error:
        raise Refusal(str(error)) from None
    click.echo(f"{path}\n  introduces client {client_id} to the service")
    click.echo(f"{path.with_name(SIMULATOR_KEY_NAME)}\n  signs as Alipay, for the simulator only")
    click.echo(f"{path.with_name(MERCHANT_KEY_NAME)}\n  signs the service's acknowledgements")
    if path != service_path:
        click.echo(f"The service reads it with FLASK_KEYRING={path}")


@_command()
@click.argument("notification_type", metavar="TYPE")
@click.option("--auth-state", metavar="TEXT")
@click.option("--auth-code", metavar="TEXT")
@click.option("--access-token", metavar="TEXT")
@click.option("--reason", metavar="TEXT")
@click.option("--result-status", metavar="S|F|U", default="S", help="By default S; Alipay sends nothing else.")
@_to
@_uri
@_takes_signer
@click.option("--redeliver", is_flag=True, help="Repeat until acknowledged: up to 8 times in 24 h 22 min.")
@click.option("--speed", metavar="N", type=_SPEED, default=1, help="With --redeliver: N times faster than Alipay.")
@click.option("--same-signature", is_flag=True, help="With --redeliver: repeat the headers, do not sign anew.")
@click.option("--forge", "forged", is_flag=True, help="Let a stranger sign.")
def send(
    signer: Signer,
    sender: Sender,
    uri: str | None,
    notification_type: str,
    speed: float,
    *,
    redeliver: bool,
    same_signature: bool,
    forged: bool,
    **fields: str,
) -> None:
    """Send one notification, signed as Alipay does.

    TYPE is AUTHCODE_CREATED, TOKEN_CREATED, TOKEN_CANCELED, or any other. A field that is not given is left out, so
    that a malformed notification can be sent too. Ends with 0 if the notification was acknowledged, and with 1
    otherwise.
    """
    draft = Draft(notification_type, **fields)

    def sign_attempt() -> Delivery:
        return forge(
            signer,
            Forgery.STRANGER if forged else None,
            draft.body(),
            uri=uri or sender.uri,
            request_time=epoch_milliseconds(datetime.now(UTC)),
        )

    def sleep(delay: timedelta) -> None:
        time.sleep(delay.total_seconds() / speed)

    click.echo(f"{plain(str(draft))}\n  to {sender.url} for {signer.client_id}")
    delays = REDELIVERY_DELAYS if redeliver else REDELIVERY_DELAYS[:1]
    answers = deliver(
        sender, functools.cache(sign_attempt) if same_signature else sign_attempt, sleep=sleep, delays=delays
    )
    acknowledged = False
    for number, (answer, offset) in enumerate(zip(answers, itertools.accumulate(delays), strict=False), start=1):
        click.echo(f"  {number}. after {offset}: {plain(_shown(answer))}")
        acknowledged = answer.acknowledged
    if not acknowledged:
        raise click.exceptions.Exit(1)


def _shown(answer: ServiceResponse) -> str:
    """Show an answer, and what it says to people where it is no acknowledgement."""
    return str(answer) if answer.acknowledged or not answer.message else f"{answer}: {answer.message}"


@_command(epilog=_CURL_EXAMPLE)
@click.argument("file", type=click.File("rb"))
@click.option(
    "--uri",
    metavar="URI",
    default=DEFAULT_NOTIFY_PATH,
    show_default=True,
    callback=_signed_uri,
    help="The path it will be posted to, with the query if there is one; of a URL just those are signed.",
)
@click.option("--request-time", metavar="TEXT", callback=_header_value, help="By default now, in epoch milliseconds.")
@_takes_signer
def sign(file: BinaryIO, signer: Signer, uri: str, request_time: str | None) -> None:
    """Print the headers that make any bytes a delivery of Alipay's.

    FILE holds the body, - is stdin. The headers are printed as curl reads them, and any test can.
    """
    request_time = request_time or epoch_milliseconds(datetime.now(UTC))
    delivery = signer.sign(file.read(), uri=uri, request_time=request_time)
    for name, value in headers_of(delivery).items():
        click.echo(f"{name}: {value}")


@_command(epilog=f"\b\nScenarios:\n{_STORIES}")
@click.argument("names", metavar="SCENARIO...", nargs=-1, required=True, type=click.Choice(list(SCENARIOS)))
@_to
@_uri
@_takes_signer
@click.option(
    "--api", "api_url", metavar="URL", help="Where the merchant's own interface is. [default: the host of --to]"
)
@click.option(
    "--api-key", metavar="KEY", envvar="FLASK_SIMULATOR_API_KEY", show_envvar=True, help="One of FLASK_API_KEYS."
)
@click.pass_context
def play(
    context: click.Context,
    signer: Signer,
    sender: Sender,
    uri: str | None,
    api_url: str | None,
    api_key: str | None,
    names: tuple[str, ...],
) -> None:
    """Play scenarios against a running service, and check every answer.

    The simulator plays Alipay and, with an API key, the merchant: it consults, reports and looks things up. Without
    one those steps are left out. Ends with 0 if every answer was the right one, and with 1 otherwise.
    """
    merchant = None
    if api_key:
        merchant = context.with_resource(
            Merchant(api_url or sender.url, Secret(api_key.strip()), client_id=signer.client_id)
        )
    else:
        click.echo("Without an API key, the merchant's steps are left out.")
    player = Player(signer, sender, uri or sender.uri, now=lambda: datetime.now(UTC), merchant=merchant)
    rights = [_play(player, SCENARIOS[name]) for name in names]
    if not all(rights):
        raise click.exceptions.Exit(1)


def _play(player: Player, scenario: Scenario) -> bool:
    """Print the scenario as it goes, and say whether every answer was the right one."""
    click.secho(f"\n{scenario.name}: {scenario.story}", bold=True)
    rights = []
    for performance in player.play(scenario):
        _print(performance)
        rights.append(performance.right)
    right = all(rights)
    click.secho(f"{sum(rights)} of {len(rights)} answers right.", fg="green" if right else "red")
    return right


def _print(performance: Performance) -> None:
    """Print who did what, what came back, and what should have if that is something else."""
    first, *more = performance.action.splitlines()
    click.echo(f"  {performance.actor:<10}{plain(first)}")
    for line in more:
        click.echo(f"{'':12}{plain(line)}")
    mark = click.style("✓", fg="green") if performance.right else click.style("✗", fg="red")
    click.echo(f"{'':10}{mark} {plain(performance.answer)}")
    if not performance.right:
        click.echo(f"{'':12}expected: {plain(performance.expected)}")
