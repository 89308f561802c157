"""`flask simulator`: a pretend Alipay. A command is in its file.

None needs the application: Alipay has neither the database's URL nor the vault's keys.
"""

from app.cli.command_group import CommandGroup, on_demand

_NAMES = ("gateway", "keys", "listen", "play", "send", "sign")

simulator = CommandGroup(
    "simulator",
    help="A pretend Alipay: make its keys, send, sign, play, be called; and a pretend endpoint that listens.",
    commands=on_demand(__name__, {name: name for name in _NAMES}),
)
