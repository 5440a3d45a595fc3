"""what a guest had written since it left, where only that was sent

Revises: 0025
"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("disk", sa.Column("delta_bytes", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("disk", "delta_bytes")
