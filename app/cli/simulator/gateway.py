"""`flask simulator gateway`: a pretend Alipay to call, with pages on which a user consents, and faults on request."""

import signal
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

import click

from app.alipay.keyring import Keyring
from app.cli.errors import Refusal
from app.cli.simulator.options import DEFAULT_URL, key_option, keyring_path, load_key, notify_url, signed_uri
from app.cli.tables import plain
from app.simulator.gateway.faults import KINDS, OPERATIONS, BadFaultError, Fault, Phase
from app.simulator.gateway.keys import ClientKeys, client_keys, why_left_out
from app.simulator.gateway.ledger import Decision, Entry, ReceivedCall, Rejection, SentNotification
from app.simulator.gateway.requests import Operation

_DEFAULT_PORT = 8800
#: Nothing faster than this is of use: a day passes in under a tenth of a second.
_SPEED = click.FloatRange(0, 1_000_000, min_open=True)
_TOKEN_LIFE_SECONDS = click.IntRange(1, 10 * 365 * 86400)

_PHASES = {
    Phase.BEFORE: "Faults in place of the work",
    Phase.ANSWER: "Faults of the answer, the work being done",
    Phase.RESULT: "Faults of what the answer says",
    Phase.NOTIFICATION: "Faults of notifications",
}


def _explanation() -> str:
    """List the faults, and how to ask for them."""
    lines = [
        "\b",
        "A fault is NAME, NAME:OPERATION or NAME:OPERATION:SETTINGS, such as",
        "  --fault cut-after:exchange:times=1      the next exchange is done, its answer lost",
        "  --fault refused:refresh:code=INVALID_REFRESH_TOKEN",
        "  --fault in-process:exchange:times=3,each=true",
        "  --fault slow::seconds=12,share=0.1      a tenth of all calls",
        f"Operations are {', '.join(OPERATIONS[:4])},",
        f"  {', '.join(OPERATIONS[4:])} (exchange and refresh).",
        "Settings: times, each=true (count for each code or token), share, code, seconds.",
        "While it runs: POST the same as JSON to /faults; GET lists, DELETE ends them.",
    ]
    width = max(map(len, KINDS)) + 2
    for phase, title in _PHASES.items():
        lines += ["", "\b", f"{title}:"]
        lines += [f"  {name:<{width}}{kind.story}" for name, kind in KINDS.items() if kind.phase is phase]
    return "\n".join(lines)


class PortTakenError(Refusal):
    """Nobody can listen at this port."""

    def __init__(self, port: int, error: OSError) -> None:
        super().__init__(f"Cannot listen at port {port}: {error.strerror}. Choose another with --port.")


class NoClientError(Refusal):
    """The keyring has no client that a gateway with this key can serve."""

    def __init__(self, path: Path, reasons: Mapping[str, str]) -> None:
        why = "; ".join(f"{plain(client_id)}: {reason}" for client_id, reason in reasons.items())
        super().__init__(f"There is nobody in {path} to answer. {why}. flask simulator keys makes keys that fit.")


def _faults(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> list[Fault]:
    try:
        return [Fault.parse(value) for value in values]
    except BadFaultError as error:
        raise click.BadParameter(str(error)) from None


@click.command(epilog=_explanation())
@click.option("--port", type=click.IntRange(0, 65535), default=_DEFAULT_PORT, show_default=True, help="0 is any.")
@click.option(
    "--to",
    "notify",
    metavar="URL",
    default=DEFAULT_URL,
    show_default=True,
    callback=notify_url,
    help="Where to notify, unless the consult names an authNotifyUrl on this machine.",
)
@click.option("--uri", metavar="URI", callback=signed_uri, help="What to sign, if a proxy rewrites it.")
@key_option
@click.option("--fault", "faults", metavar="FAULT", multiple=True, callback=_faults, help="What goes wrong, see below.")
@click.option("--token-created", is_flag=True, help="Send TOKEN_CREATED after each exchange.")
@click.option(
    "--token-life", metavar="SECONDS", type=_TOKEN_LIFE_SECONDS, help="How long tokens live. [default: the wallet's]"
)
@click.option("--speed", metavar="N", type=_SPEED, default=1, help="Redeliver N times faster than Alipay.")
def gateway(
    *,
    port: int,
    notify: str,
    uri: str | None,
    key_path: Path | None,
    faults: list[Fault],
    token_created: bool,
    token_life: int | None,
    speed: float,
) -> None:
    """Answer consult, applyToken and revoke as Alipay does, ask the user in the browser, and notify the service.

    It serves every client of the keyring, FLASK_KEYRING, that its key belongs to, at 127.0.0.1 only. The normalUrl
    that a consult is answered with leads to a page where a user agrees or declines. Ctrl-C ends it.
    """
    # Imported late: no other command has a use for a server.
    from app.simulator.gateway.gateway import GatewayOptions, PretendGateway  # noqa: PLC0415

    keys = _keys(key_path)
    life = None if token_life is None else timedelta(seconds=token_life)
    options = GatewayOptions(notify_uri=uri, token_created=token_created, token_life=life, speed=speed)
    is_ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: is_ended.set())
    with ExitStack() as stack:
        try:
            running = stack.enter_context(
                PretendGateway(
                    keys,
                    notify=notify,
                    port=port,
                    faults=faults,
                    options=options,
                    watch=_show,
                )
            )
        except OSError as error:
            raise PortTakenError(port, error) from None
        clients = ", ".join(map(plain, keys))
        click.echo(
            f"{running.url}\n  is the gateway of {clients}; in a browser it shows what happens\n{notify}\n  is notified"
        )
        is_ended.wait()


def _keys(key_path: Path | None) -> Mapping[str, ClientKeys]:
    """Load the keys, and say which clients are left out."""
    path = keyring_path()
    keyring = Keyring.load(path)
    keys = client_keys(keyring, load_key(key_path))
    left_out = {name: why_left_out(client) for name, client in keyring.clients.items() if name not in keys}
    if not keys:
        raise NoClientError(path, left_out)
    for name, reason in left_out.items():
        click.echo(f"{plain(name)} is not served: {reason}.", err=True)
    return keys


def _show(entry: Entry) -> None:
    """Print what happened on one line, without codes and tokens."""
    match entry:
        case ReceivedCall():
            said = f"{entry.result_status or 'nothing'} {entry.result_code or ''}".strip()
            subject = f"  authState {entry.subject}" if entry.operation is Operation.CONSULT else ""
            went_wrong = f"  ({', '.join(entry.faults)})" if entry.faults else ""
            _line("call", entry.received_at, f"{entry.operation:<9}{said}{subject}{went_wrong}", good=not entry.faults)
        case Decision():
            _line("user", entry.decided_at, f"{entry.user} {entry.what}  authState {entry.auth_state}")
        case SentNotification():
            named = "" if entry.auth_state is None else f"  authState {entry.auth_state}"
            _line("notify", entry.sent_at, f"{entry.type}{named}: {entry.answer}", good=entry.is_acknowledged)
        case Rejection():
            _line("call", entry.rejected_at, f"{entry.uri} {entry.code}: {entry.message}", good=False)


def _line(what: str, at: datetime, text: str, *, good: bool = True) -> None:
    mark = click.style("✓", fg="green") if good else click.style("✗", fg="red")
    click.echo(f"{at.astimezone():%H:%M:%S}  {mark} {what:<8}{plain(text)}")
