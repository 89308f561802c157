"""Index which tokens are to be refreshed, and of which nobody has said when.

Making an index keeps writers out for as long as PostgreSQL takes to read the table, about a second for a million
tokens. Deliveries are answered 503 until then, and come again. To avoid that, make the indexes beforehand with
CREATE INDEX CONCURRENTLY, by the same names: what is there already is left as it is.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_INDEXES = {
    "ix_access_tokens_refresh_due": (
        ["client_id", "refresh_due_at"],
        "refresh_due_at IS NOT NULL AND refresh_asked_at IS NULL AND superseded_at IS NULL",
    ),
    "ix_access_tokens_refresh_unplanned": (
        ["client_id", "token_index"],
        (
            "refresh_due_at IS NULL AND superseded_at IS NULL"
            " AND sealed_refresh_token IS NOT NULL AND access_token_expires_at IS NOT NULL"
        ),
    ),
}


def upgrade() -> None:
    for name, (columns, condition) in _INDEXES.items():
        where = sa.text(condition)
        op.create_index(name, "access_tokens", columns, if_not_exists=True, postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    for name in _INDEXES:
        op.drop_index(name, "access_tokens", if_exists=True)
