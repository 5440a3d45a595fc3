"""a new fleet takes submissions by task name only if they are signed

Revises: 0045
"""

import sqlalchemy as sa
from alembic import op

revision = "0046"
down_revision = "0045"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.alter_column("fleet_limits", "signed_submissions", server_default=sa.true())
    # One that has hosts already keeps what it had: its schedulers may have no tokens.
    op.execute("UPDATE fleet_limits SET signed_submissions = true WHERE NOT EXISTS (SELECT FROM host)")


def downgrade() -> None:
    op.alter_column("fleet_limits", "signed_submissions", server_default=sa.false())
