"""submissions that were refused and name no guest or host

Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "refused_submission",
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("idempotency_key", sa.String(length=128), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.func.clock_timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "idempotency_key", name=op.f("pk_refused_submission")),
    )


def downgrade() -> None:
    op.drop_table("refused_submission")
