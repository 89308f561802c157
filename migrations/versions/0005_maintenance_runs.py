"""Keep when each kind of maintenance last succeeded, and count what is parked by its age from an index.

Maintenance is run from a shell, and the process that answers for the figures is another. Indexes that were made
beforehand with CREATE INDEX CONCURRENTLY, by the same names, are left as they are.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

#: Hardly any row ever has a value, and the index holds just those.
_IS_UNFINISHED = sa.text("resume_after IS NOT NULL")
_IS_PARKED = sa.text("outcome = 'parked' AND reason IS NOT NULL")


def upgrade() -> None:
    op.create_index(
        "ix_authorizations_unfinished",
        "authorizations",
        ["id"],
        if_not_exists=True,
        postgresql_where=_IS_UNFINISHED,
        sqlite_where=_IS_UNFINISHED,
    )
    op.create_table(
        "maintenance_runs",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_maintenance_runs"),
    )
    op.create_index(
        "ix_inbox_parked_reason_received_at",
        "inbox",
        ["reason", "received_at"],
        if_not_exists=True,
        postgresql_where=_IS_PARKED,
        sqlite_where=_IS_PARKED,
    )


def downgrade() -> None:
    op.drop_index("ix_inbox_parked_reason_received_at", "inbox")
    op.drop_table("maintenance_runs")
    op.drop_index("ix_authorizations_unfinished", "authorizations")
