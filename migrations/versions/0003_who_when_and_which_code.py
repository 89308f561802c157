"""Record of each move who reported it, when it was learned and why; which codes were there; whether a flow was said.

Columns are only added, and all may be empty, so that the release before goes on working through the upgrade.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("authorizations", sa.Column("flow_was_said", sa.Boolean()))
    op.add_column("authorizations", sa.Column("other_code_indexes", sa.LargeBinary()))
    op.add_column("transitions", sa.Column("by", sa.Text()))
    op.add_column("transitions", sa.Column("reason", sa.Text()))
    op.add_column("transitions", sa.Column("learned_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    for table, columns in (
        ("transitions", ("learned_at", "reason", "by")),
        ("authorizations", ("other_code_indexes", "flow_was_said")),
    ):
        for column in columns:
            op.drop_column(table, column)
