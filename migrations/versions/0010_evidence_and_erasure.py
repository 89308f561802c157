"""Make the table of what operators did, remember when a user was erased, and index what listings look up.

The column may be empty, so that the release before goes on working through the upgrade. Making an index keeps writers
out for as long as PostgreSQL takes to read the table, about a second for a million rows. Deliveries are answered 503
until then, and come again. To avoid that, make the indexes beforehand with CREATE INDEX CONCURRENTLY, by the same
names: what is there already is left as it is.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_time = sa.DateTime(timezone=True)

#: The table, the columns, and which rows an index has if not all.
_INDEXES = {
    "ix_authorizations_user_id_id": ("authorizations", ["user_id", "id"], "user_id IS NOT NULL"),
    "ix_authorizations_customer_belongs_to_id": ("authorizations", ["customer_belongs_to", "id"], None),
    "ix_authorizations_state_updated_at_id": ("authorizations", ["state", "updated_at", "id"], None),
    "ix_access_tokens_expires_at": (
        "access_tokens",
        ["access_token_expires_at", "authorization_id"],
        "superseded_at IS NULL AND access_token_expires_at IS NOT NULL",
    ),
}


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", _id, sa.Identity(), nullable=False),
        sa.Column("at", _time, nullable=False),
        sa.Column("who", sa.Text()),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_subject_id", "audit", ["subject", "id"])
    for name, (table, columns, condition) in _INDEXES.items():
        where = None if condition is None else sa.text(condition)
        op.create_index(name, table, columns, if_not_exists=True, postgresql_where=where, sqlite_where=where)
    # The last, since it keeps readers out too.
    op.add_column("authorizations", sa.Column("erased_at", _time))


def downgrade() -> None:
    for name, (table, _, _) in _INDEXES.items():
        op.drop_index(name, table)
    op.drop_table("audit")
    # SQLite before 3.35 cannot drop a column in place.
    with op.batch_alter_table("authorizations") as batch:
        batch.drop_column("erased_at")
