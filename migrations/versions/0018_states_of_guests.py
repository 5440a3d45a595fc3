"""what is seen of guests: QEMUs of a host, run states, one that runs twice

Revises: 0014
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("host", sa.Column("qemus", postgresql.JSONB(), nullable=True))
    op.add_column("host", sa.Column("qemus_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("guest", sa.Column("runstate", sa.String(length=32), nullable=True))
    op.add_column("guest", sa.Column("twin", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("guest", "twin")
    op.drop_column("guest", "runstate")
    op.drop_column("host", "qemus_at")
    op.drop_column("host", "qemus")
