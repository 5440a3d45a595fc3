"""policies: how guests with certain labels are moved, and who is asked before

Revises: 0030
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "move_policy",
        sa.Column("name", sa.String(length=64), primary_key=True),
        sa.Column("selector", sa.Text(), nullable=True),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("options", JSONB(), nullable=False),
        sa.Column("changed_at", moment, server_default=sa.func.clock_timestamp(), nullable=False),
        sa.UniqueConstraint("priority", name=op.f("uq_move_policy_priority")),
    )
    op.create_table(
        "guest_notice",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("drain_id", sa.BigInteger(), nullable=False),
        sa.Column("guest", sa.String(length=128), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("notice", JSONB(), nullable=False),
        sa.Column("asked_at", moment, server_default=sa.func.clock_timestamp(), nullable=False),
        sa.Column("answer", sa.String(length=32), nullable=True),
        sa.Column("answered_at", moment, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("not_before", moment, nullable=True),
        sa.Column("job_id", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_guest_notice")),
        sa.ForeignKeyConstraint(
            ["drain_id"], ["drain.id"], name=op.f("fk_guest_notice_drain_id_drain"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_guest_notice_job_id_job")),
    )
    op.create_index("ix_guest_notice_drain_id", "guest_notice", ["drain_id", "guest"])


def downgrade() -> None:
    op.drop_table("guest_notice")
    op.drop_table("move_policy")
