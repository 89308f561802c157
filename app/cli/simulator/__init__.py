"""`flask simulator`: a pretend Alipay. A command is in its file.

None needs the application: Alipay has neither the database's URL nor the vault's keys.
"""

from app.cli.command_group import CommandGroup
from app.cli.simulator.gateway import gateway
from app.cli.simulator.keys import make_keys
from app.cli.simulator.listen import listen
from app.cli.simulator.play import play
from app.cli.simulator.send import send
from app.cli.simulator.sign import sign

simulator = CommandGroup(
    "simulator",
    help="A pretend Alipay: make its keys, send, sign, play, be called; and a pretend endpoint that listens.",
    commands=[gateway, make_keys, listen, play, send, sign],
)
