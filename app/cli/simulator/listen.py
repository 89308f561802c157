"""`flask simulator listen`: a pretend endpoint that shows what it is told, and can be told to fail."""

import signal
import threading
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from app.cli.errors import Refusal
from app.cli.tables import plain

if TYPE_CHECKING:
    from app.simulator.listener import Arrival

#: What an endpoint may answer that is not taken: no 1xx ends an answer, and 204 and 304 have no body.
_STATUS = click.IntRange(200, 599)
#: Longer than the service waits for an answer.
_DELAY_SECONDS = click.FloatRange(0, 60)
_FAILED = 500
_FOUND = 302

_EXAMPLES = """\b
Examples:
  flask simulator listen                  take everything
  flask simulator listen --fail 3         fail three times, then take everything
  flask simulator listen --status 410     answer 410 Gone, always
  flask simulator listen --slow 12        answer later than the service waits
  flask simulator listen --redirect https://elsewhere.example/
"""


class PortTakenError(Refusal):
    """Nobody can listen at this port."""

    def __init__(self, port: int, error: OSError) -> None:
        super().__init__(f"Cannot listen at port {port}: {error.strerror}. Choose another with --port.")


def _location(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and (not value.isascii() or not value.isprintable() or not urlsplit(value).netloc):
        message = "it must be a whole URL."
        raise click.BadParameter(message)
    return value


@click.command(epilog=_EXAMPLES)
@click.option("--port", type=click.IntRange(0, 65535), default=9000, show_default=True, help="0 is any that is free.")
@click.option("--secret", metavar="WHSEC", help="What the service signs with. [default: a new one, which is shown]")
@click.option("--fail", "times", metavar="N", type=click.IntRange(1), help="Fail N times, then take everything.")
@click.option("--status", metavar="CODE", type=_STATUS, help="Answer with this. [default: 200, and 500 with --fail]")
@click.option("--slow", "delay", metavar="SECONDS", type=_DELAY_SECONDS, default=0, help="Wait before each answer.")
@click.option("--redirect", "location", metavar="URL", callback=_location, help="Answer 302, with this Location.")
def listen(
    port: int, secret: str | None, times: int | None, status: int | None, delay: float, location: str | None
) -> None:
    """Listen as an endpoint does, verify what arrives, and say what a receiver drops.

    It listens at 127.0.0.1, and prints the lines of endpoints.toml that lead the service to it. Ctrl-C ends it.
    """
    # Imported late: no other command has a use for a server.
    from app.simulator.listener import (  # noqa: PLC0415
        Answers,
        Listener,
        Receiver,
        UnusableSecretError,
        new_secret,
    )

    if location is not None and status is None:
        status = _FOUND
    if times is not None and status is None:
        status = _FAILED
    shown_secret = secret or new_secret()
    try:
        receiver = Receiver.with_secret(shown_secret, Answers(status, times, delay, location))
    except UnusableSecretError as error:
        raise click.BadParameter(str(error), param_hint="--secret") from None
    tally = _Tally()
    try:
        listener = Listener(receiver, tally.show, port=port)
    except OSError as error:
        raise PortTakenError(port, error) from None
    with listener:
        _introduce(listener.url, shown_secret, is_new=secret is None)
        # SIGTERM ends it as Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            listener.listen()
        except KeyboardInterrupt:
            tally.conclude()


def _introduce(url: str, secret: str, *, is_new: bool) -> None:
    secrets = f'["{secret}"]' if is_new else '["whsec_…"]  # the one that --secret names'
    click.echo(f"Listening at {url} for what these lines of endpoints.toml send:\n")
    click.echo(f'[endpoints.listen]\nurl = "{url}"\nsecrets = {secrets}\n')


class _Tally:
    """Prints what arrives, and counts it. Several may arrive at once."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def show(self, arrival: "Arrival") -> None:
        """Print what arrived, what a receiver makes of it, and how it is answered."""
        with self._lock:
            click.echo(_line(arrival))
            answered = f"answered {arrival.status}"
            if arrival.problem is not None:
                self._counts["not verified"] += 1
                click.echo(f"  {click.style('✗', fg='red')} {plain(arrival.problem)}; {answered}")
                return
            if not arrival.is_taken:
                self._counts["not taken"] += 1
                click.echo(f"  {click.style('✗', fg='red')} verified, not taken; {answered}")
                return
            self._counts["taken" if arrival.dropped is None else "dropped"] += 1
            said = "verified" if arrival.dropped is None else f"verified, dropped as {arrival.dropped}"
            click.echo(f"  {click.style('✓', fg='green')} {said}; {answered}")

    def conclude(self) -> None:
        """Say how many arrived, and what became of them."""
        counts = ", ".join(f"{count} {what}" for what, count in sorted(self._counts.items()))
        click.echo(f"\n{self._counts.total()} arrived{': ' if counts else ''}{counts}.")


def _line(arrival: "Arrival") -> str:
    """Write on one line what an event says, as far as it says it."""
    if not arrival.event:
        return f"webhook-id {plain(arrival.webhook_id)}"
    data = arrival.event["data"]
    words = [arrival.event.get("type")]
    words += [f"{name} {data[name]}" for name in ("authState", "sequence") if data.get(name) is not None]
    if data.get("to") is not None:
        words.append(f"{data.get('from') or '·'} → {data['to']}")
    return plain("  ".join(map(str, words)))
