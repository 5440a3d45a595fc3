"""hosts write no state that a process does not know

Revises: 0042
"""

from alembic import op

revision = "0043"
down_revision = "0042"
branch_labels = None
depends_on = None

WRITTEN_BY_HOSTS = {
    "host": ("active", "cordoned", "maintenance"),
    "job": ("queued", "running", "rolling_back", "done", "rolled_back", "needs_operator"),
    "step": ("pending", "running", "done", "failed", "to_roll_back", "rolling_back", "rolled_back"),
    "host_request": ("asked", "answered", "refused", "failed"),
    "delivery": ("pending", "delivered", "failed"),
}
"""Nobody could read any other one, nor what is asked for together with its row."""


def upgrade() -> None:
    for table, states in WRITTEN_BY_HOSTS.items():
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT ck_{table}_state CHECK (state IN {states})")


def downgrade() -> None:
    for table in WRITTEN_BY_HOSTS:
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_state")
