"""`flask simulator play`: play scenarios against a running service, and check every response."""

from datetime import UTC, datetime

import click

from app.cli.simulator.options import MISDIRECTED, signer_options, to_option, uri_option
from app.cli.tables import plain
from app.secret import Secret
from app.simulator.merchant import Merchant
from app.simulator.player import Performance, Player
from app.simulator.scenarios import SCENARIOS, Scenario
from app.simulator.sender import Sender, Signer

_STORIES = "\n".join(f"  {name:<18}{scenario.story}" for name, scenario in SCENARIOS.items())


@click.command(epilog=f"\b\nScenarios:\n{_STORIES}")
@click.argument("names", metavar="SCENARIO...", nargs=-1, required=True, type=click.Choice(list(SCENARIOS)))
@to_option
@uri_option
@signer_options
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
        click.echo(
            "Without an API key, the merchant's steps are left out: give one of FLASK_API_KEYS with --api-key, or set "
            "FLASK_SIMULATOR_API_KEY."
        )
    player = Player(signer, sender, uri or sender.uri, now=lambda: datetime.now(UTC), merchant=merchant)
    rights = [_play(player, SCENARIOS[name]) for name in names]
    if sender.was_misdirected:
        click.echo(MISDIRECTED, err=True)
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
