"""`flask endpoints`: see who is told of events, and whether they can be. A command is in its file."""

from app.cli.command_group import CommandGroup
from app.cli.endpoints.check import check
from app.cli.endpoints.list import list_endpoints

endpoints = CommandGroup(
    "endpoints", help="See who is told of events, and whether they can be.", commands=[check, list_endpoints]
)
