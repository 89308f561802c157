"""`flask simulator`: a pretend Alipay. A command is in its file.

None needs the application: Alipay has neither the database's URL nor the vault's keys.
"""

from app.cli.command_group import CommandGroup
from app.cli.simulator.keys import make_keys
from app.cli.simulator.play import play
from app.cli.simulator.send import send
from app.cli.simulator.sign import sign

simulator = CommandGroup(
    "simulator",
    help="A pretend Alipay: make its keys, send a notification, sign any body, play a scenario.",
    commands=[make_keys, play, send, sign],
)
