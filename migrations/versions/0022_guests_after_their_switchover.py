"""how guests are after their switchover

Revises: 0028
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0022"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("health", JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("job", "health")
