"""Make two transactions meet that must not miss each other.

One parks a notification because what it names is unknown; the other makes just that known and looks for what is
parked. Were each only to look and then write, both could look before either wrote, and the notification would stay
parked for ever. So both first take the row that stands for the unknown thing: whoever comes second waits, and then
sees what the first has done. SQLite lets one writer in at a time, and needs none of this, but is not treated apart.
"""

from typing import Literal

from sqlalchemy import delete
from sqlalchemy.orm import Session

from app.database import insert
from app.models import Rendezvous

Kind = Literal["authState", "token"]


def meet(session: Session, client_id: str, kind: Kind, key: str | bytes) -> None:
    """Wait until nobody else is parking or making known this key, and keep others waiting until the transaction ends.

    What was read before may be outdated afterwards: look again.
    """
    row = Rendezvous.client_id, Rendezvous.kind, Rendezvous.key
    statement = insert(session, Rendezvous).values(client_id=client_id, kind=kind, key=_stored(key))
    # Setting the kind to itself locks a row that is there already; DO NOTHING would not wait for it.
    session.execute(statement.on_conflict_do_update(index_elements=row, set_={"kind": statement.excluded.kind}))


def part(session: Session, client_id: str, kind: Kind, key: str | bytes) -> None:
    """Remove the row once the key is known for good: from then on everybody finds the thing itself, and locks that."""
    session.execute(
        delete(Rendezvous).where(
            Rendezvous.client_id == client_id, Rendezvous.kind == kind, Rendezvous.key == _stored(key)
        )
    )


def _stored(key: str | bytes) -> bytes:
    return key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
