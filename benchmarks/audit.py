"""Hold a contestant's database against what it acknowledged: a figure counts only if it is on record."""

from collections import Counter
from collections.abc import Iterable

from sqlalchemy import create_engine, func, select

from app.models import Authorization, InboxEntry
from benchmarks.mix import NAME_PREFIX, Life, Mix, SignedMix

#: So many are named in the message; the rest is counted.
_NAMED_MAX = 3


class NotOnRecordError(Exception):
    """A contestant acknowledged what its database does not hold, or holds otherwise."""


def newest_entry(url: str) -> int:
    """Give the last number of the inbox: what is measured comes after it."""
    engine = create_engine(url)
    with engine.connect() as connection:
        newest = connection.scalar(select(func.max(InboxEntry.id)))
    engine.dispose()
    return newest or 0


def audit(url: str, signed: SignedMix, acknowledged: Iterable[int], *, after: int = 0) -> None:
    """Return if everything acknowledged, by its number as often as it was, is in the database and did what it says.

    Raises `NotOnRecordError`.
    """
    counted = Counter(acknowledged)
    engine = create_engine(url)
    with engine.connect() as connection:
        # The signature is different for each notification, and kept as it came.
        stored = select(InboxEntry.signature, InboxEntry.deliveries).where(InboxEntry.id > after)
        deliveries = dict(iter(connection.execute(stored)))
        moved = select(Authorization.auth_state, Authorization.state, Authorization.version).where(
            Authorization.auth_state.startswith(NAME_PREFIX)
        )
        ends = {name: (state, version) for name, state, version in connection.execute(moved)}
    engine.dispose()
    # More may be on record: what was stored when the connection broke before the answer.
    missing = [number for number, times in counted.items() if deliveries.get(signed.signatures[number], 0) < times]
    if missing:
        raise NotOnRecordError(_message("acknowledged notifications are not on record", missing, signed.mix))
    wrong = [
        number
        for number in finished_lives(signed.mix, counted)
        if ends.get(signed.mix.lives[number].auth_state) != _end(signed.mix.lives[number])
    ]
    if wrong:
        names = ", ".join(signed.mix.lives[number].auth_state for number in wrong[:_NAMED_MAX])
        message = f"{len(wrong)} authorizations did not end as everything acknowledged says: {names}."
        raise NotOnRecordError(message)


def _end(life: Life) -> tuple[str, int]:
    """Give the state and the version that are right: the consult and each notification moved it once."""
    return life.ends_as, 1 + len(life.notifications)


def finished_lives(mix: Mix, counted: Counter[int]) -> list[int]:
    """Give the lives all of whose notifications were acknowledged: how those end is known."""
    parts = Counter(mix.life_of[number] for number in counted)
    return [life for life, seen in parts.items() if seen == len(mix.lives[life].notifications)]


def _message(what: str, numbers: list[int], mix: Mix) -> str:
    named = ", ".join(str(mix.notifications[number]) for number in numbers[:_NAMED_MAX])
    return f"{len(numbers)} {what}: {named}."
