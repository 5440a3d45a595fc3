"""what tokens are bound to, and their keys for submissions; who submitted a drain

Revises: 0038
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_token", sa.Column("bounds", JSONB(), server_default="{}", nullable=False))
    op.add_column("api_token", sa.Column("submission_key", sa.LargeBinary(), nullable=True))
    op.add_column("drain", sa.Column("submitted_by", sa.String(64), nullable=True))
    op.add_column(
        "fleet_limits", sa.Column("signed_submissions", sa.Boolean(), server_default=sa.false(), nullable=False)
    )


def downgrade() -> None:
    op.drop_column("fleet_limits", "signed_submissions")
    op.drop_column("drain", "submitted_by")
    op.drop_column("api_token", "submission_key")
    op.drop_column("api_token", "bounds")
