"""the public keys of hosts

Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("public_key", "trusted_key"):
        op.add_column("host", sa.Column(name, sa.String(length=64), nullable=True))


def downgrade() -> None:
    for name in ("trusted_key", "public_key"):
        op.drop_column("host", name)
