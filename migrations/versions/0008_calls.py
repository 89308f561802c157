"""Make calls: each is a row with its attempts. Remember when a token is to be refreshed, and whether to be revoked.

Columns are only added, and all may be empty, so that the release before goes on working through the upgrade. The
indexes over them are made by the next migration.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_time = sa.DateTime(timezone=True)
_IS_DUE = sa.text("status = 'due'")


def upgrade() -> None:
    op.add_column("authorizations", sa.Column("merchant_region", sa.Text()))
    op.add_column("authorizations", sa.Column("revoke_asked_at", _time))
    op.add_column("access_tokens", sa.Column("refresh_due_at", _time))
    op.add_column("access_tokens", sa.Column("refresh_asked_at", _time))
    for table in ("event_outbox", "events"):
        op.add_column(table, sa.Column("call_id", sa.Uuid()))
        op.add_column(table, sa.Column("call_status", sa.Text()))
        op.add_column(table, sa.Column("result_code", sa.Text()))
    _create_calls()


def _create_calls() -> None:
    op.create_table(
        "calls",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("authorization_id", sa.Uuid(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attempts", _number, nullable=False),
        sa.Column("is_in_flight", sa.Boolean(), nullable=False),
        sa.Column("is_uncertain", sa.Boolean(), nullable=False),
        sa.Column("due_at", _time),
        sa.Column("deadline_at", _time),
        sa.Column("subject_index", sa.LargeBinary()),
        sa.Column("sealed_request", sa.LargeBinary()),
        sa.Column("sealed_answer", sa.LargeBinary()),
        sa.Column("result_code", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("by", sa.Text()),
        sa.Column("created_at", _time, nullable=False),
        sa.Column("finished_at", _time),
        sa.ForeignKeyConstraint(["authorization_id"], ["authorizations.id"], name="fk_calls_authorization_id"),
        sa.PrimaryKeyConstraint("id", name="pk_calls"),
    )
    op.create_index("ix_calls_authorization_id_id", "calls", ["authorization_id", "id"])
    op.create_index("ix_calls_status_id", "calls", ["status", "id"])
    op.create_index("ix_calls_kind_id", "calls", ["kind", "id"])
    op.create_index("ix_calls_client_id_id", "calls", ["client_id", "id"])
    for name, columns, condition in (
        ("due", ["kind", "due_at", "id"], _IS_DUE),
        ("due_authorization_id", ["authorization_id"], _IS_DUE),
        ("deadline_at", ["deadline_at"], sa.text("status = 'due' AND deadline_at IS NOT NULL")),
        ("in_flight", ["id"], sa.text("is_in_flight")),
    ):
        op.create_index(f"ix_calls_{name}", "calls", columns, postgresql_where=condition, sqlite_where=condition)
    op.create_table(
        "call_attempts",
        sa.Column("call_id", sa.Uuid(), nullable=False),
        sa.Column("number", _number, autoincrement=False, nullable=False),
        sa.Column("started_at", _time, nullable=False),
        sa.Column("milliseconds", _number),
        sa.Column("http_status", _number),
        sa.Column("result_status", sa.Text()),
        sa.Column("result_code", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.ForeignKeyConstraint(["call_id"], ["calls.id"], name="fk_call_attempts_call_id"),
        sa.PrimaryKeyConstraint("call_id", "number", name="pk_call_attempts"),
    )


def downgrade() -> None:
    op.drop_table("call_attempts")
    op.drop_table("calls")
    for table, columns in (
        ("events", ("result_code", "call_status", "call_id")),
        ("event_outbox", ("result_code", "call_status", "call_id")),
        ("access_tokens", ("refresh_asked_at", "refresh_due_at")),
        ("authorizations", ("revoke_asked_at", "merchant_region")),
    ):
        # SQLite before 3.35 cannot drop a column in place.
        with op.batch_alter_table(table) as batch:
            for column in columns:
                batch.drop_column(column)
