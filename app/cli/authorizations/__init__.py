"""`flask authorizations`: see, report, prove, refresh, revoke and forget. A command is in its file."""

from app.cli.authorizations.consult import consult
from app.cli.authorizations.diagram import diagram
from app.cli.authorizations.erase import erase
from app.cli.authorizations.evidence import evidence
from app.cli.authorizations.list import list_authorizations
from app.cli.authorizations.record import record
from app.cli.authorizations.refresh import refresh
from app.cli.authorizations.revoke import revoke
from app.cli.authorizations.show import show
from app.cli.authorizations.verify import verify
from app.cli.command_group import CommandGroup

authorizations = CommandGroup(
    "authorizations",
    help="See authorizations, report what the merchant learned itself, prove it, refresh, revoke, and forget a user.",
    commands=[consult, diagram, erase, evidence, list_authorizations, record, refresh, revoke, show, verify],
)
