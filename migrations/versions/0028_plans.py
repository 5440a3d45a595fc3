"""plans of drains

Revises: 0026
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0028"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("drain", sa.Column("follows_plan", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("drain_guest", sa.Column("planned", JSONB(), nullable=True))
    op.add_column("fleet_limits", sa.Column("plan_approvals", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "plan_approval",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("by", sa.String(128), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", "by", name="pk_plan_approval"),
    )


def downgrade() -> None:
    op.drop_table("plan_approval")
    op.drop_column("fleet_limits", "plan_approvals")
    op.drop_column("drain_guest", "planned")
    op.drop_column("drain", "follows_plan")
