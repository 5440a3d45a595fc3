"""which process a guest is

Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("guest", sa.Column("process", sa.Text(), nullable=True))
    op.add_column("guest", sa.Column("uuid", sa.String(length=36), nullable=True))


def downgrade() -> None:
    op.drop_column("guest", "uuid")
    op.drop_column("guest", "process")
