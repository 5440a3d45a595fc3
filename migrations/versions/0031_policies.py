"""policies: how guests with certain labels are moved

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
    op.create_table(
        "move_policy",
        sa.Column("name", sa.String(length=64), primary_key=True),
        sa.Column("selector", sa.Text(), nullable=True),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("options", JSONB(), nullable=False),
        sa.Column(
            "changed_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.UniqueConstraint("priority", name=op.f("uq_move_policy_priority")),
    )


def downgrade() -> None:
    op.drop_table("move_policy")
