"""Make two transactions meet that must not miss each other.

One parks a notification because what it names is unknown; the other makes just that known and looks for what is
parked. Were each only to look and then write, both could look before either wrote, and the notification would stay
parked for ever. So both first take the row that stands for the unknown thing: whoever comes second waits, and then
sees what the first has done. SQLite lets one writer in at a time, and needs none of this, but is not treated apart.
"""

from collections.abc import Collection
from typing import Literal, NamedTuple

from sqlalchemy import delete, tuple_
from sqlalchemy.orm import Session

from app.database import insert
from app.models import Rendezvous

Kind = Literal["authState", "token"]


class Place(NamedTuple):
    """Where two must meet: what a client calls an authorization, or the blind index of a token."""

    client_id: str
    kind: Kind
    key: str | bytes

    def stored(self) -> tuple[str, str, bytes]:
        """Give what the row is found by."""
        key = self.key.encode("utf-8", "surrogatepass") if isinstance(self.key, str) else self.key
        return self.client_id, self.kind, key


def meet(session: Session, places: Collection[Place]) -> None:
    """Wait until nobody else is parking or making known any of these, and keep others waiting until they are left.

    What was read before may be outdated afterwards: look again.
    """
    if not places:
        return
    # In one order, whoever meets: two who met the same places in another would wait for each other.
    rows = [dict(zip(_ROW, stored, strict=True)) for stored in sorted(place.stored() for place in places)]
    statement = insert(session, Rendezvous)
    # Setting the kind to itself locks a row that is there already; DO NOTHING would not wait for it.
    locking = statement.on_conflict_do_update(index_elements=_ROW, set_={"kind": statement.excluded.kind})
    session.connection().execute(locking.returning(Rendezvous.kind), rows)


def part(session: Session, places: Collection[Place]) -> None:
    """Remove the rows, which keeps others waiting until the transaction ends all the same."""
    if not places:
        return
    row = tuple_(Rendezvous.client_id, Rendezvous.kind, Rendezvous.key)
    session.execute(delete(Rendezvous).where(row.in_([place.stored() for place in places])))


_ROW = ("client_id", "kind", "key")
