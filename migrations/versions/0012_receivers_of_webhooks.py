"""receivers of webhooks

Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "webhook_receiver",
        sa.Column("name", sa.String(length=253), nullable=False),
        sa.Column("within", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("allowed_at", sa.DateTime(timezone=True), server_default=sa.func.clock_timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_webhook_receiver")),
    )
    op.create_table(
        "webhook_secret",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("receiver", sa.String(length=253), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.func.clock_timestamp(), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["receiver"], ["webhook_receiver.name"], name=op.f("fk_webhook_secret_receiver"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_secret")),
    )
    op.create_index(op.f("ix_webhook_secret_receiver"), "webhook_secret", ["receiver"], unique=False)


def downgrade() -> None:
    op.drop_table("webhook_secret")
    op.drop_table("webhook_receiver")
