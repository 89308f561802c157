"""`flask calls`: see what the service asks of Alipay, and ask once more. A command is in its file."""

from app.cli.calls.list import list_calls
from app.cli.calls.retry import retry
from app.cli.calls.show import show
from app.cli.command_group import CommandGroup

calls = CommandGroup(
    "calls",
    help="See what the service asks of Alipay, and how each attempt ended; make a call once more.",
    commands=[list_calls, retry, show],
)
