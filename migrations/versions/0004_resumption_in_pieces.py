"""Remember how far the parked entries of an authorization have been resumed, where a transaction cannot take them all.

Hardly any row ever has a value, and the index holds just those.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_IS_UNFINISHED = sa.text("resume_after IS NOT NULL")


def upgrade() -> None:
    op.add_column("authorizations", sa.Column("resume_after", _number))
    op.create_index(
        "ix_authorizations_unfinished",
        "authorizations",
        ["id"],
        postgresql_where=_IS_UNFINISHED,
        sqlite_where=_IS_UNFINISHED,
    )


def downgrade() -> None:
    op.drop_index("ix_authorizations_unfinished", "authorizations")
    # SQLite before 3.35 cannot drop a column in place.
    with op.batch_alter_table("authorizations") as table:
        table.drop_column("resume_after")
