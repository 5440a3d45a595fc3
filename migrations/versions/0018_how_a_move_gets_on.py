"""how a move gets on, and what it was expected to take

Revises: 0017
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("pace", JSONB(), nullable=True))
    op.add_column("job", sa.Column("estimate", JSONB(), nullable=True))
    op.add_column("disk", sa.Column("bytes_first", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("disk", "bytes_first")
    op.drop_column("job", "estimate")
    op.drop_column("job", "pace")
