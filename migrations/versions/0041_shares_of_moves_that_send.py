"""a move shares the budgets from its first byte on

Revises: 0040
"""

from alembic import op

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None

COLUMNS = (
    "SELECT id, source, destination, coalesce((options ->> 'bandwidth_bytes_per_s')::bigint, 0) AS asked_bytes_per_s "
    "FROM job WHERE state = 'running' AND "
)
COPIES = "EXISTS (SELECT FROM disk WHERE job_id = job.id AND ready_at IS NULL)"
BEGUN = "EXISTS (SELECT FROM step WHERE job_id = job.id AND name = 'prepare_dest_image' AND state = 'done')"
SENDS_RAM = (
    "EXISTS (SELECT FROM step WHERE job_id = job.id AND name = 'migrate_ram' AND side = 'source' AND state = 'running')"
)


def upgrade() -> None:
    # what waits for its destination to prepare the images, or is tried again there, sends nothing
    op.execute(f"CREATE OR REPLACE VIEW move_under_way AS {COLUMNS} ({BEGUN} AND {COPIES} OR {SENDS_RAM})")


def downgrade() -> None:
    op.execute(f"CREATE OR REPLACE VIEW move_under_way AS {COLUMNS} ({COPIES} OR {SENDS_RAM})")
