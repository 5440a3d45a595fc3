"""the token that a job or drain was submitted with; what commands say stands in a table

Revises: 0039
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("job", "drain"):
        op.add_column(table, sa.Column("submitted_with", sa.BigInteger(), nullable=True))
    op.create_table(
        "said",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("fields", JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_said"),
    )


def downgrade() -> None:
    op.drop_table("said")
    for table in ("job", "drain"):
        op.drop_column(table, "submitted_with")
