"""the token that a roll was submitted with

Revises: 0041
"""

import sqlalchemy as sa
from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("roll", sa.Column("submitted_with", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("roll", "submitted_with")
