"""Tell apart the indexes of what waits for an authState and of what waits for a token.

Of two indexes that hold the same few rows, PostgreSQL may choose either, and go through all of what waits.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_IS_PARKED = "outcome = 'parked'"
_WAITS = {
    "auth_state": f"{_IS_PARKED} AND auth_state IS NOT NULL",
    "token_index": f"{_IS_PARKED} AND type = 'TOKEN_CANCELED'",
}


def upgrade() -> None:
    for key, waits in _WAITS.items():
        _replace(key, waits)


def downgrade() -> None:
    for key in _WAITS:
        _replace(key, _IS_PARKED)


def _replace(key: str, condition: str) -> None:
    name = f"ix_inbox_parked_{key}"
    op.drop_index(name, "inbox")
    op.create_index(
        name,
        "inbox",
        ["client_id", key, "id"],
        postgresql_where=sa.text(condition),
        sqlite_where=sa.text(_IS_PARKED),
    )
