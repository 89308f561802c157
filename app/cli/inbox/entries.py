"""Find the inbox entry that a command is about, and print entries as a table."""

from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from app import inbox
from app.cli.errors import Refusal
from app.cli.options import WholeNumber
from app.cli.tables import ending, minute, moment, print_table
from app.models import Authorization, InboxEntry

#: What a column of ids holds on every database.
_ID_MAX = 2**63 - 1

entry_id_type = WholeNumber("the ID of an entry, a number such as 17", 1, _ID_MAX)


class NoEntryError(Refusal):
    """There is no inbox entry with this id."""

    def __init__(self, entry_id: int) -> None:
        super().__init__(f"There is no entry {entry_id} in the inbox; it may have been purged.")


def find_entry(session: Session, entry_id: int) -> InboxEntry:
    """Find an entry.

    Raises `NoEntryError`.
    """
    entry = inbox.find(session.connection(), entry_id)
    if entry is None:
        raise NoEntryError(entry_id)
    return entry


def print_entries(entries: Sequence[InboxEntry]) -> None:
    """Print a table of entries, one row each."""
    print_table(
        ("ID", "RECEIVED", "TYPE", "OUTCOME", "AUTH STATE"),
        [
            (entry.id, moment(entry.received_at), entry.type, ending(entry.outcome, entry.reason), entry.auth_state)
            for entry in entries
        ],
        last="AUTH STATE",
        shorter=[
            (entry.id, minute(entry.received_at), entry.type, ending(entry.outcome, entry.reason), entry.auth_state)
            for entry in entries
        ],
    )


def authorization_facts(authorization: Authorization | None) -> Mapping[str, object]:
    """Name the authorization that an entry is linked to, and its state now."""
    if authorization is None:
        return {}
    return {
        "authState": authorization.auth_state,
        "state now": authorization.state,
        "authorization": authorization.id,
    }
