"""`flask inbox`: see, deliver, process, dismiss and purge stored notifications. A command is in its file."""

from app.cli.command_group import CommandGroup
from app.cli.inbox.deliver import deliver
from app.cli.inbox.dismiss import dismiss
from app.cli.inbox.find_token import find_token
from app.cli.inbox.list import list_entries
from app.cli.inbox.process import process
from app.cli.inbox.purge import purge
from app.cli.inbox.show import show

inbox = CommandGroup(
    "inbox",
    help="See stored notifications, deliver, process, dismiss and purge them.",
    commands=[deliver, dismiss, find_token, list_entries, process, purge, show],
)
