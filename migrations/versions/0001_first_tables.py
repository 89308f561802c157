"""Make the first tables: authorizations with their tokens and history, the inbox, the rendezvous and the index key."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# Text of strangers arrives escaped and times arrive in UTC: what the models add to these types is done by then.
_text = sa.Text()
_time = sa.DateTime(timezone=True)
_number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_IS_CURRENT = sa.text("superseded_at IS NULL")
_IS_PARKED = sa.text("outcome = 'parked'")


def upgrade() -> None:
    op.create_table(
        "authorizations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("client_id", _text, nullable=False),
        sa.Column("auth_state", _text, nullable=False),
        sa.Column("flow", _text, nullable=False),
        sa.Column("state", _text, nullable=False),
        sa.Column("version", _number, nullable=False),
        sa.Column("user_ref", _text),
        sa.Column("customer_belongs_to", _text),
        sa.Column("user_id", _text),
        sa.Column("sealed_login_id", sa.LargeBinary()),
        sa.Column("sealed_auth_code", sa.LargeBinary()),
        sa.Column("auth_code_received_at", _time),
        sa.Column("sealed_cancel_reason", sa.LargeBinary()),
        sa.Column("created_at", _time, nullable=False),
        sa.Column("updated_at", _time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_authorizations"),
    )
    op.create_index(
        "uq_authorizations_client_id_auth_state", "authorizations", ["client_id", "auth_state"], unique=True
    )
    op.create_index("ix_authorizations_auth_state_id", "authorizations", ["auth_state", "id"])
    op.create_index("ix_authorizations_user_ref_id", "authorizations", ["user_ref", "id"])
    op.create_index("ix_authorizations_state_id", "authorizations", ["state", "id"])
    op.create_index("ix_authorizations_client_id_id", "authorizations", ["client_id", "id"])

    op.create_table(
        "access_tokens",
        sa.Column("client_id", _text, nullable=False),
        sa.Column("token_index", sa.LargeBinary(), nullable=False),
        sa.Column("authorization_id", sa.Uuid(), nullable=False),
        sa.Column("sealed_access_token", sa.LargeBinary(), nullable=False),
        sa.Column("access_token_expires_at", _time),
        sa.Column("sealed_refresh_token", sa.LargeBinary()),
        sa.Column("refresh_token_expires_at", _time),
        sa.Column("superseded_at", _time),
        sa.Column("created_at", _time, nullable=False),
        sa.PrimaryKeyConstraint("client_id", "token_index", name="pk_access_tokens"),
        sa.ForeignKeyConstraint(["authorization_id"], ["authorizations.id"], name="fk_access_tokens_authorization_id"),
    )
    op.create_index("ix_access_tokens_authorization_id", "access_tokens", ["authorization_id"])
    op.create_index(
        "uq_access_tokens_current",
        "access_tokens",
        ["authorization_id"],
        unique=True,
        postgresql_where=_IS_CURRENT,
        sqlite_where=_IS_CURRENT,
    )

    op.create_table(
        "inbox",
        sa.Column("id", _number, sa.Identity(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("client_id", _text, nullable=False),
        sa.Column("type", _text),
        sa.Column("auth_state", _text),
        sa.Column("token_index", sa.LargeBinary()),
        sa.Column("sealed_body", sa.LargeBinary(), nullable=False),
        sa.Column("uri", _text, nullable=False),
        sa.Column("request_time", _text, nullable=False),
        sa.Column("signature", _text, nullable=False),
        sa.Column("deliveries", _number, nullable=False),
        sa.Column("received_at", _time, nullable=False),
        sa.Column("last_received_at", _time, nullable=False),
        sa.Column("outcome", _text, nullable=False),
        sa.Column("reason", _text),
        sa.Column("found_state", _text),
        sa.Column("authorization_id", sa.Uuid()),
        sa.PrimaryKeyConstraint("id", name="pk_inbox"),
        sa.UniqueConstraint("fingerprint", name="uq_inbox_fingerprint"),
        sa.ForeignKeyConstraint(["authorization_id"], ["authorizations.id"], name="fk_inbox_authorization_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_inbox_authorization_id", "inbox", ["authorization_id"])
    op.create_index("ix_inbox_outcome_id", "inbox", ["outcome", "id"])
    op.create_index("ix_inbox_type_id", "inbox", ["type", "id"])
    op.create_index("ix_inbox_auth_state_id", "inbox", ["auth_state", "id"])
    for key in ("auth_state", "token_index"):
        op.create_index(
            f"ix_inbox_parked_{key}",
            "inbox",
            ["client_id", key, "id"],
            postgresql_where=_IS_PARKED,
            sqlite_where=_IS_PARKED,
        )

    op.create_table(
        "transitions",
        sa.Column("authorization_id", sa.Uuid(), nullable=False),
        sa.Column("sequence", _number, autoincrement=False, nullable=False),
        sa.Column("event", _text, nullable=False),
        sa.Column("from_state", _text),
        sa.Column("to_state", _text, nullable=False),
        sa.Column("cause", _text, nullable=False),
        sa.Column("notification_id", _number),
        sa.Column("at", _time, nullable=False),
        sa.PrimaryKeyConstraint("authorization_id", "sequence", name="pk_transitions"),
        sa.ForeignKeyConstraint(["authorization_id"], ["authorizations.id"], name="fk_transitions_authorization_id"),
    )
    op.create_table(
        "rendezvous",
        sa.Column("client_id", _text, nullable=False),
        sa.Column("kind", _text, nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("client_id", "kind", "key", name="pk_rendezvous"),
    )
    op.create_table(
        "index_key",
        sa.Column("id", _number, autoincrement=False, nullable=False),
        sa.Column("sealed_key", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_index_key"),
        sa.CheckConstraint("id = 1", name="one_row"),
    )


def downgrade() -> None:
    for table in ("index_key", "rendezvous", "transitions", "inbox", "access_tokens", "authorizations"):
        op.drop_table(table)
