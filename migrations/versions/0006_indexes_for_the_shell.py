"""Index what the shell looks entries up by: their age, the reason they ended for, and the token they name.

Making an index keeps writers out for as long as PostgreSQL takes to read the table, about a second for a million
entries. Deliveries are answered 503 until then, and come again. To avoid that, make the indexes beforehand with
CREATE INDEX CONCURRENTLY, by the same names: what is there already is left as it is.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

#: The columns, and which rows an index has if not all.
_INDEXES = {
    "ix_inbox_received_at_id": (["received_at", "id"], None),
    "ix_inbox_reason_id": (["reason", "id"], "reason IS NOT NULL"),
    "ix_inbox_token_index_id": (["token_index", "id"], "outcome <> 'applied'"),
}


def upgrade() -> None:
    for name, (columns, condition) in _INDEXES.items():
        where = None if condition is None else sa.text(condition)
        op.create_index(name, "inbox", columns, if_not_exists=True, postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    for name in _INDEXES:
        op.drop_index(name, "inbox")
