"""Tell what happens: events are staged with each move, numbered into a feed, and delivered to endpoints.

Moves that processes of the release before still make, while they go on beside this one, have no event.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_time = sa.DateTime(timezone=True)
_IS_DUE = sa.text("status = 'due'")
_IS_EXPIRING = sa.text("status = 'due' AND expires_at IS NOT NULL")


def upgrade() -> None:
    _create_feed()
    _create_deliveries()
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text()),
        sa.Column("beat", _number, nullable=False),
        sa.Column("at", _time, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )


def _create_feed() -> None:
    op.create_table(
        "event_outbox",
        sa.Column("id", _number, sa.Identity(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("authorization_id", sa.Uuid(), nullable=False),
        sa.Column("sequence", _number, nullable=False),
        sa.Column("expires_at", _time),
        sa.Column("at", _time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event_outbox"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "events",
        sa.Column("position", _number, autoincrement=False, nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("authorization_id", sa.Uuid(), nullable=False),
        sa.Column("sequence", _number, nullable=False),
        sa.Column("expires_at", _time),
        sa.Column("at", _time, nullable=False),
        sa.Column("numbered_at", _time, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_events"),
        sa.UniqueConstraint("event_id", name="uq_events_event_id"),
    )
    op.create_index("ix_events_type_position", "events", ["type", "position"])
    op.create_index("ix_events_authorization_id_position", "events", ["authorization_id", "position"])
    op.create_index("ix_events_numbered_at_position", "events", ["numbered_at", "position"])
    feed = op.create_table(
        "feed",
        sa.Column("id", _number, autoincrement=False, nullable=False),
        sa.Column("last_position", _number, nullable=False),
        sa.Column("purged_through", _number, nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_feed_one_row")),
        sa.PrimaryKeyConstraint("id", name="pk_feed"),
    )
    op.bulk_insert(feed, [{"id": 1, "last_position": 0, "purged_through": 0}])


def _create_deliveries() -> None:
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", _number, sa.Identity(), nullable=False),
        sa.Column("position", _number, nullable=False),
        sa.Column("authorization_id", sa.Uuid(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attempts", _number, nullable=False),
        sa.Column("due_at", _time),
        sa.Column("expires_at", _time),
        sa.Column("created_at", _time, nullable=False),
        sa.Column("finished_at", _time),
        sa.Column("resend_of", _number),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_webhook_deliveries_position", "webhook_deliveries", ["position"])
    op.create_index("ix_webhook_deliveries_endpoint_id", "webhook_deliveries", ["endpoint", "id"])
    op.create_index("ix_webhook_deliveries_status_id", "webhook_deliveries", ["status", "id"])
    for name, condition in {"due": _IS_DUE, "expiring": _IS_EXPIRING}.items():
        op.create_index(
            f"ix_webhook_deliveries_{name}",
            "webhook_deliveries",
            ["endpoint", "due_at", "id"],
            postgresql_where=condition,
            sqlite_where=condition,
        )
    op.create_table(
        "webhook_attempts",
        sa.Column("delivery_id", _number, autoincrement=False, nullable=False),
        sa.Column("number", _number, autoincrement=False, nullable=False),
        sa.Column("at", _time, nullable=False),
        sa.Column("milliseconds", _number, nullable=False),
        sa.Column("http_status", _number),
        sa.Column("error", sa.Text()),
        sa.Column("answer", sa.Text()),
        sa.ForeignKeyConstraint(["delivery_id"], ["webhook_deliveries.id"], name="fk_webhook_attempts_delivery_id"),
        sa.PrimaryKeyConstraint("delivery_id", "number", name="pk_webhook_attempts"),
    )


def downgrade() -> None:
    for table in ("leases", "webhook_attempts", "webhook_deliveries", "feed", "events", "event_outbox"):
        op.drop_table(table)
