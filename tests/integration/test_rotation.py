"""A new vault key is put first, every row is sealed again under it, and the old one is no longer needed."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations, product
from typing import Any

import pytest
from sqlalchemy import LargeBinary, inspect, select, update
from sqlalchemy.orm import Session

from app import authorizations, inbox, quarantine, rotation, tokens
from app.models import Base, IndexKey
from app.quarantine import Refused
from app.rotation import SEALED_COLUMNS, SealedColumn
from app.secret import Secret
from app.simulator.draft import authcode_created, token_created
from app.vault import INDEX_KEY_COLUMN, SealBrokenError, Sealer, UnknownVaultKeyError, Vault, new_index_key
from tests.builders import a_delivery
from tests.integration.stage import Stage

OLD, NEW = os.urandom(32), os.urandom(32)
INDEX_KEY = new_index_key()


def reseal(stage: Stage, vault: Vault, *, limit: int) -> int:
    """Run every batch of every sealed column, as the command does."""
    count = 0
    for sealed_column in SEALED_COLUMNS:
        after = None
        while True:
            batch = partial(rotation.reseal_batch, vault=vault, sealed_column=sealed_column, after=after, limit=limit)
            done = stage.database.run(batch)
            count += done.count
            if done.up_to is None:
                break
            after = done.up_to
    return count


def a_life(stage: Stage) -> None:
    stage.vault = Vault(Sealer([OLD]), INDEX_KEY)
    authorization_id = stage.consult()
    stage.notify(authcode_created("s-1", "code-1"))
    stage.notify(token_created("s-1", "token-1"))
    stage.report_token(authorization_id, "token-1", refresh_token=Secret("refresh-1"))
    stage.report_token(authorization_id, "token-2", replaces="token-1")
    stage.begin_call(authorization_id)
    stage.report_canceled(authorization_id, "enough")


@pytest.mark.parametrize("limit", [1, 2, 500])
def test_after_resealing_only_the_new_key_is_needed(stage: Stage, limit: int) -> None:
    a_life(stage)
    # Two notifications, a code, two tokens, each with the refresh token, a reason, a call and its answer.
    assert reseal(stage, Vault(Sealer([NEW, OLD]), INDEX_KEY), limit=limit) == 10
    stage.vault = Vault(Sealer([NEW]), INDEX_KEY)

    def open_all(session: Session) -> tuple[bool, str, list[bytes]]:
        authorization = authorizations.find_all(session, "s-1")[0]
        token = tokens.current(session, authorization)
        assert token is not None
        code = authorizations.auth_code(stage.vault, authorization)
        bodies = [inbox.open_body(stage.vault, entry) for entry in stage.entries()]
        return code == Secret("code-1"), tokens.reveal(stage.vault, token).reveal(), bodies

    same_code, token, bodies = stage.database.run(open_all)
    assert same_code
    assert token == "token-2"
    assert len(bodies) == 2


def test_resealing_again_has_nothing_to_do(stage: Stage) -> None:
    a_life(stage)
    vault = Vault(Sealer([NEW, OLD]), INDEX_KEY)
    reseal(stage, vault, limit=500)
    assert reseal(stage, vault, limit=500) == 0


def test_a_notification_is_still_the_same_after_rotation(stage: Stage) -> None:
    a_life(stage)
    stage.vault = Vault(Sealer([NEW, OLD]), INDEX_KEY)
    reseal(stage, stage.vault, limit=500)
    stage.notify(token_created("s-1", "token-1"))
    assert [entry.deliveries for entry in stage.entries()] == [1, 2]


def test_a_value_under_a_key_that_is_gone_stops_the_resealing(stage: Stage) -> None:
    a_life(stage)
    with pytest.raises(UnknownVaultKeyError):
        reseal(stage, Vault(Sealer([NEW]), INDEX_KEY), limit=500)


@dataclass(frozen=True)
class Box:
    """One sealed value where it lies."""

    sealed_column: SealedColumn
    key: Sequence[Any]
    row: bytes
    sealed: bytes

    def put(self, session: Session, sealed: bytes) -> None:
        columns = inspect(self.sealed_column.model).primary_key
        same = [column == value for column, value in zip(columns, self.key, strict=True)]
        session.execute(
            update(self.sealed_column.model).where(*same).values({self.sealed_column.attribute.key: sealed})
        )

    def look(self, session: Session) -> bytes:
        return bytes(
            getattr(session.get_one(self.sealed_column.model, tuple(self.key)), self.sealed_column.attribute.key)
        )


def boxes(session: Session) -> list[Box]:
    return [
        Box(
            sealed_column,
            inspect(sealed_column.model).primary_key_from_instance(row),
            sealed_column.row_key(row),
            getattr(row, sealed_column.attribute.key),
        )
        for sealed_column in SEALED_COLUMNS
        for row in session.scalars(select(sealed_column.model).where(sealed_column.attribute.is_not(None)))
    ]


def two_lives(stage: Stage) -> None:
    """Two rows for every column that holds sealed values, and the one row of the index key."""
    stage.vault = Vault(Sealer([OLD]), INDEX_KEY)
    for life in ("s-1", "s-2"):
        authorization_id = stage.consult(life)
        said = json.loads(authcode_created(life, f"code-{life}").body()) | {"userLoginId": f"{life}@example.com"}
        stage.notify(json.dumps(said).encode())
        stage.report_token(authorization_id, f"token-{life}", refresh_token=Secret(f"refresh-{life}"))
        stage.begin_call(authorization_id)
        stage.report_canceled(authorization_id, f"reason of {life}")
        refused = Refused(a_delivery(), "mismatch", is_known_client=True, headers={}, at=stage.clock())
        row = quarantine.sealed_row(stage.vault, refused)
        stage.database.run(partial(quarantine.keep, row=row, now=stage.clock()))
    index_key = IndexKey(id=1, sealed_key=stage.vault.seal(INDEX_KEY, column=INDEX_KEY_COLUMN, row_key=b"\x01"))
    stage.database.run(lambda session: session.add(index_key))


def test_a_sealed_value_opens_in_no_other_row_no_other_column_and_no_other_table(stage: Stage) -> None:
    two_lives(stage)
    found = stage.database.run(boxes)
    assert Counter(box.sealed_column.name for box in found) == {
        sealed_column.name: 2 for sealed_column in SEALED_COLUMNS[:-1]
    } | {INDEX_KEY_COLUMN: 1}
    for mine, other in product(found, found):
        if mine is other:
            assert stage.vault.open_bytes(mine.sealed, column=mine.sealed_column.name, row_key=mine.row)
        else:
            with pytest.raises(SealBrokenError):
                stage.vault.open_bytes(mine.sealed, column=other.sealed_column.name, row_key=other.row)


def test_a_sealed_value_that_was_moved_to_another_row_does_not_open(stage: Stage) -> None:
    """Re-sealing reads every place there is: it stops where something lies that was sealed for another."""
    two_lives(stage)
    vault = Vault(Sealer([NEW, OLD]), INDEX_KEY)
    found = stage.database.run(boxes)
    for mine, other in permutations(found, 2):
        stage.database.run(partial(other.put, sealed=mine.sealed))
        with pytest.raises(SealBrokenError, match=other.sealed_column.name):
            stage.database.run(
                partial(rotation.reseal_batch, vault=vault, sealed_column=other.sealed_column, after=None)
            )
        assert stage.database.run(other.look) == mine.sealed
        stage.database.run(partial(other.put, sealed=other.sealed))
    assert reseal(stage, vault, limit=500) == len(found)


def test_two_sealed_values_that_were_swapped_are_not_given_out(stage: Stage) -> None:
    two_lives(stage)
    for sealed_column in SEALED_COLUMNS[:-1]:
        first, second = (box for box in stage.database.run(boxes) if box.sealed_column is sealed_column)
        stage.database.run(partial(first.put, sealed=second.sealed))
        stage.database.run(partial(second.put, sealed=first.sealed))

    def read(session: Session) -> None:
        for auth_state in ("s-1", "s-2"):
            (authorization,) = authorizations.find_all(session, auth_state)
            token = tokens.current(session, authorization)
            assert token is not None
            for opened in (
                partial(authorizations.auth_code, stage.vault, authorization),
                partial(tokens.reveal, stage.vault, token),
            ):
                with pytest.raises(SealBrokenError):
                    opened()

    stage.database.run(read, read_only=True)
    for entry in stage.entries():
        with pytest.raises(SealBrokenError):
            inbox.open_body(stage.vault, entry)


def test_every_column_of_sealed_values_is_resealed() -> None:
    sealed = {
        f"{table.name}.{column.name}"
        for table in Base.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary) and column.name.startswith("sealed_")
    }
    assert {sealed_column.name for sealed_column in SEALED_COLUMNS} == sealed
    assert all(
        sealed_column.name == f"{sealed_column.model.__tablename__}.{sealed_column.attribute.key}"
        for sealed_column in SEALED_COLUMNS
    )
