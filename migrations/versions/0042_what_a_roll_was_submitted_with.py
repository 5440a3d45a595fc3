"""the token that a roll was submitted with; hosts write no time that a process cannot hold

Revises: 0041
"""

import sqlalchemy as sa
from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None

WRITTEN_BY_HOSTS = {
    "host": ("heartbeat_at", "qemus_at"),
    "storage": ("seen_at",),
    "guest": ("moved_at", "gone_at"),
    "host_request": ("answered_at",),
    "job": ("started_at", "progress_at", "cutover_begun_at", "committed_at", "finished_at"),
    "step": ("next_at", "enqueued_at", "started_at", "lease_until", "finished_at"),
    "attempt": ("started_at", "ended_at"),
    "disk": ("ready_at", "retired_until"),
    "event": ("at",),
    "delivery": ("created_at", "next_at", "delivered_at"),
}
"""With `infinity` in one of them no statement could read, or reckon with, what it asks for together with that row."""


def upgrade() -> None:
    op.add_column("roll", sa.Column("submitted_with", sa.BigInteger(), nullable=True))
    for table, columns in WRITTEN_BY_HOSTS.items():
        held = " AND ".join(f"{column} BETWEEN '1000-01-01' AND '9000-01-01'" for column in columns)
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT ck_{table}_times CHECK ({held})")


def downgrade() -> None:
    for table in WRITTEN_BY_HOSTS:
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_times")
    op.drop_column("roll", "submitted_with")
