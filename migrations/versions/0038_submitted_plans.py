"""plans that are submitted stand in the database; guests that were not well are found at once

Revises: 0033
"""

import sqlalchemy as sa
from alembic import op

revision = "0038"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "submitted_plan",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("submitted_by", sa.String(128), nullable=False),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("withdrawn_by", sa.String(128), nullable=True),
        sa.Column("applied_by", sa.String(128), nullable=True),
        sa.Column("drain_id", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["drain_id"], ["drain.id"], name="fk_submitted_plan_drain_id_drain", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_submitted_plan"),
        sa.UniqueConstraint("digest", name="uq_submitted_plan_digest"),
    )
    op.create_index("ix_submitted_plan_drain_id", "submitted_plan", ["drain_id"])
    op.create_index("ix_job_way_back_needed", "job", ["guest"], postgresql_where=sa.text("way_back_needed"))


def downgrade() -> None:
    op.drop_index("ix_job_way_back_needed", "job")
    op.drop_table("submitted_plan")
