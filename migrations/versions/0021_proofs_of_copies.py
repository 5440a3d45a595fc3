"""what the comparison of both sides' images found

Revises: 0024
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0021"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("proof", JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("job", "proof")
