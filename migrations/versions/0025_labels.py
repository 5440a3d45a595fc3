"""labels of guests and hosts, drains of some guests, guests that are never drained

Revises: 0023
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0025"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("guest", "host"):
        op.add_column(table, sa.Column("labels", JSONB(), nullable=False, server_default="{}"))
    op.add_column("guest", sa.Column("never_drain", sa.Text(), nullable=True))
    op.add_column("guest", sa.Column("never_drain_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("drain", sa.Column("selector", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("drain", "selector")
    op.drop_column("guest", "never_drain_until")
    op.drop_column("guest", "never_drain")
    for table in ("guest", "host"):
        op.drop_column(table, "labels")
