"""how a move gets on

Revises: 0018
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0020"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("pace", JSONB(), nullable=True))
    op.add_column("job", sa.Column("silent", sa.Text(), nullable=True))
    op.add_column("disk", sa.Column("bytes_first", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("disk", "bytes_first")
    op.drop_column("job", "silent")
    op.drop_column("job", "pace")
