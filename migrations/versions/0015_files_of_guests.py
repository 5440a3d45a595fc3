"""files that a guest needs besides its disks

Revises: 0014
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    document = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql")
    op.add_column("job", sa.Column("file_copy", document, nullable=True))


def downgrade() -> None:
    op.drop_column("job", "file_copy")
