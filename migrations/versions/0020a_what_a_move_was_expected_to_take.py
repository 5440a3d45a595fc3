"""what a move was expected to take

Revises: 0020
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0020a"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("estimate", JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("job", "estimate")
