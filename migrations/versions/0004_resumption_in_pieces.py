"""Remember how far the parked entries of an authorization have been resumed, where a transaction cannot take them all.

The index that finds them is made by the next migration: beside the new column, which locks the whole table for an
instant, it would keep readers out for as long as it takes to read the table.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("authorizations", sa.Column("resume_after", _number))


def downgrade() -> None:
    op.drop_index("ix_authorizations_unfinished", "authorizations", if_exists=True)
    # SQLite before 3.35 cannot drop a column in place.
    with op.batch_alter_table("authorizations") as table:
        table.drop_column("resume_after")
