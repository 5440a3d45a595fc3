"""find what ended lately

Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_job_finished_at", "job", ["finished_at"], unique=False)
    op.create_index("ix_attempt_ended_at", "attempt", ["ended_at"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_attempt_ended_at", table_name="attempt")
    op.drop_index("ix_job_finished_at", table_name="job")
