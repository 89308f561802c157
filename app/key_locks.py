"""Key locks: lock rows for what is not on record yet, and so has no row to lock.

One transaction parks a notification because what it names is unknown; another makes just that known, and looks for what
is parked. Were each only to look and then write, both could look before either wrote, and the notification would stay
parked for ever. So both insert the row of the unknown key first: the second waits, and then sees what the first has
done. SQLite lets one transaction write at a time, and needs none of this, but is not treated apart.
"""

from collections.abc import Collection
from typing import Literal, NamedTuple

from sqlalchemy import delete

from app.database.bulk import KeyedStatement, insertion
from app.database.pipeline import Statement, plain
from app.models import KeyLock

#: What a client calls an authorization: client id and authState.
AuthStateKey = tuple[str, str]

Kind = Literal["authState", "token"]


class Key(NamedTuple):
    """What is unknown: the authState of an authorization, or the blind index of a token."""

    client_id: str
    kind: Kind
    key: str | bytes

    def stored(self) -> tuple[str, str, bytes]:
        """Give what the row is found by."""
        key = self.key.encode("utf-8", "surrogatepass") if isinstance(self.key, str) else self.key
        return self.client_id, self.kind, key

    def row(self) -> KeyLock:
        """Give the row that stands for it."""
        client_id, kind, key = self.stored()
        return plain(KeyLock)(client_id=client_id, kind=kind, key=key)


def key_lock_insertion(keys: Collection[Key]) -> Statement:
    """Take key locks until the transaction ends; this waits for transactions that have them.

    Read again afterwards: the wait may have outdated what was read before.
    """
    # In one order for all: two that took the same ones in another would wait for each other.
    return insertion(KeyLock, [each.row() for each in sorted(keys, key=Key.stored)], on_conflict="lock")


def key_lock_deletion(keys: Collection[Key]) -> Statement:
    """Delete the rows. Others that want them still wait until the transaction ends."""
    return _DELETE(keys=[each.stored() for each in keys])


_DELETE = KeyedStatement(
    lambda keys_in: delete(KeyLock).where(keys_in("keys", KeyLock.client_id, KeyLock.kind, KeyLock.key))
)
