"""`flask events`: see what was told to whom, and tell it again. A command is in its file."""

from app.cli.command_group import CommandGroup
from app.cli.events.list import list_events
from app.cli.events.purge import purge
from app.cli.events.recover import recover
from app.cli.events.resend import resend
from app.cli.events.show import show
from app.cli.events.test import test

events = CommandGroup(
    "events",
    help="See what was told to whom, tell it again, and purge it.",
    commands=[list_events, purge, recover, resend, show, test],
)
