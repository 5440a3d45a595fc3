"""how fast disks and RAM are copied and changed, over the time of each job

Revises: 0044
"""

import sqlalchemy as sa
from alembic import op

revision = "0045"
down_revision = "0044"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sample",
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("of_ram", sa.Boolean(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.func.clock_timestamp(), nullable=False),
        sa.Column("sent_per_s", sa.BigInteger(), nullable=False),
        sa.Column("changed_per_s", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_sample_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "of_ram", "at", name="pk_sample"),
    )
    # Hosts write it, see 0042.
    op.execute("ALTER TABLE sample ADD CONSTRAINT ck_sample_times CHECK (at BETWEEN '1000-01-01' AND '9000-01-01')")


def downgrade() -> None:
    op.drop_table("sample")
