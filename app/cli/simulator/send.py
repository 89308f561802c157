"""`flask simulator send`: send one notification, signed as Alipay does, and redeliver it if wanted."""

import functools
import itertools
import time
from datetime import UTC, datetime, timedelta

import click

from app.alipay.delivery import Delivery
from app.cli.simulator.options import MISDIRECTED, signer_options, to_option, uri_option
from app.cli.tables import plain
from app.simulator.draft import Draft
from app.simulator.forgery import Forgery, forge
from app.simulator.sender import REDELIVERY_DELAYS, Sender, ServiceResponse, Signer, deliver, epoch_milliseconds

#: Nothing faster than this is of use: a day passes in under a tenth of a second.
_SPEED = click.FloatRange(0, 1_000_000, min_open=True)


@click.command()
@click.argument("notification_type", metavar="TYPE")
@click.option("--auth-state", metavar="TEXT")
@click.option("--auth-code", metavar="TEXT")
@click.option("--access-token", metavar="TEXT")
@click.option("--reason", metavar="TEXT")
@click.option("--result-status", metavar="S|F|U", default="S", help="By default S; Alipay sends nothing else.")
@to_option
@uri_option
@signer_options
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
    if sender.was_misdirected:
        click.echo(MISDIRECTED, err=True)
    if not acknowledged:
        raise click.exceptions.Exit(1)


def _shown(answer: ServiceResponse) -> str:
    """Show an answer, and what it says to people where it is no acknowledgement."""
    return str(answer) if answer.acknowledged or not answer.message else f"{answer}: {answer.message}"
