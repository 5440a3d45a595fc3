"""budgets by the time of day, of links and of the fleet; when the controller last looked

Revises: 0029
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0026"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "controller",
        sa.Column("id", sa.Integer(), autoincrement=False, primary_key=True),
        sa.Column("looked_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_controller_one_row")),
    )
    op.add_column("host", sa.Column("bandwidth_hours", JSONB(), nullable=True))
    op.create_table(
        "budget",
        sa.Column("name", sa.String(length=64), primary_key=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("destination", sa.Text(), nullable=True),
        sa.Column("bytes_per_s", sa.BigInteger(), nullable=False),
        sa.Column("hours", JSONB(), nullable=True),
        sa.CheckConstraint("bytes_per_s >= 0", name=op.f("ck_budget_no_negative_amounts")),
    )

    # A host's role sees its own row and its own moves; what all of them share is computed from all of them.
    op.execute("CREATE VIEW host_budget AS SELECT name, labels, bandwidth_bytes_per_s, bandwidth_hours FROM host")
    op.execute(
        "CREATE VIEW move_under_way AS SELECT id, source, destination, "
        "coalesce((options ->> 'bandwidth_bytes_per_s')::bigint, 0) AS asked_bytes_per_s FROM job "
        "WHERE state = 'running' AND (EXISTS (SELECT FROM disk WHERE job_id = job.id AND ready_at IS NULL) OR EXISTS "
        "(SELECT FROM step WHERE job_id = job.id AND name = 'migrate_ram' AND side = 'source' AND state = 'running'))"
    )


def downgrade() -> None:
    op.execute("DROP VIEW move_under_way")
    op.execute("DROP VIEW host_budget")
    op.drop_table("budget")
    op.drop_column("host", "bandwidth_hours")
    op.drop_table("controller")
