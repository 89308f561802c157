"""A new vault key is put first, every row is sealed again under it, and the old one is no longer needed."""

import os
from functools import partial

import pytest
from sqlalchemy import LargeBinary, text
from sqlalchemy.orm import Session

from app import authorizations, inbox, rotation, tokens
from app.alipay.secret import Secret
from app.models import Base
from app.rotation import DRAWERS
from app.simulator.draft import authcode_created, token_created
from app.vault import SealBrokenError, Sealer, UnknownVaultKeyError, Vault, new_index_key
from tests.integration.stage import Stage

OLD, NEW = os.urandom(32), os.urandom(32)
INDEX_KEY = new_index_key()


def reseal(stage: Stage, vault: Vault, *, limit: int) -> int:
    """Run every batch of every drawer, as the command does."""
    count = 0
    for drawer in DRAWERS:
        after = None
        while True:
            batch = partial(rotation.reseal_batch, vault=vault, drawer=drawer, after=after, limit=limit)
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
    stage.report_canceled(authorization_id, "enough")


@pytest.mark.parametrize("limit", [1, 2, 500])
def test_after_resealing_only_the_new_key_is_needed(stage: Stage, limit: int) -> None:
    a_life(stage)
    # Two notifications, a code, two tokens, a refresh token, a reason.
    assert reseal(stage, Vault(Sealer([NEW, OLD]), INDEX_KEY), limit=limit) == 7
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


def test_sealed_values_swapped_between_rows_do_not_open(stage: Stage) -> None:
    stage.notify(authcode_created("s-1", "code-1"))
    stage.notify(authcode_created("s-2", "code-2"))
    first, second = stage.entries()
    swap = text("UPDATE inbox SET sealed_body = :sealed WHERE id = :id")
    stage.database.run(lambda session: session.execute(swap, {"sealed": first.sealed_body, "id": second.id}))
    with pytest.raises(SealBrokenError):
        inbox.open_body(stage.vault, stage.entries()[1])


def test_every_sealed_column_has_its_drawer() -> None:
    sealed = {
        f"{table.name}.{column.name}"
        for table in Base.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary) and column.name.startswith("sealed_")
    }
    assert {drawer.place for drawer in DRAWERS} == sealed
    assert all(drawer.place == f"{drawer.model.__tablename__}.{drawer.column.key}" for drawer in DRAWERS)
