"""a new fleet takes submissions by task name only if they are signed; figures that hosts write are bounded

Revises: 0045
"""

import sqlalchemy as sa
from alembic import op

revision = "0046"
down_revision = "0045"
branch_labels = None
depends_on = None

WRITTEN_BY_HOSTS = {
    "host": ("guest_memory_bytes", "guest_disk_bytes"),
    "storage": ("total_bytes", "free_bytes"),
    "guest": ("allocated_bytes",),
    "disk": ("bytes_total", "bytes_copied", "bytes_first", "delta_bytes", "retired_bytes"),
    "sample": ("sent_per_s", "changed_per_s"),
}
"""Out of these bounds, a sum of one with those of others could be out of all: no statement that reckons would go on."""
MOST = 1 << 60
BOUNDS = f"BETWEEN {-MOST} AND {MOST}"
RECKONED = {"downtime": "ms", "ram": "transferred"}
"""Parts of documents of `job`, by which statements reckon."""


def upgrade() -> None:
    op.alter_column("fleet_limits", "signed_submissions", server_default=sa.true())
    # One that has hosts already keeps what it had: its schedulers may have no tokens.
    op.execute("UPDATE fleet_limits SET signed_submissions = true WHERE NOT EXISTS (SELECT FROM host)")
    for table, columns in WRITTEN_BY_HOSTS.items():
        held = " AND ".join(f"{column} {BOUNDS}" for column in columns)
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT ck_{table}_figures CHECK ({held})")
    for column, name in RECKONED.items():
        figure = f"CASE jsonb_typeof({column} -> '{name}') WHEN 'number' THEN ({column} ->> '{name}')::numeric {BOUNDS}"
        held = f"{figure} ELSE COALESCE({column} -> '{name}', 'null') = 'null' END"
        op.execute(f"ALTER TABLE job ADD CONSTRAINT ck_job_{column} CHECK ({held})")


def downgrade() -> None:
    for column in RECKONED:
        op.execute(f"ALTER TABLE job DROP CONSTRAINT ck_job_{column}")
    for table in WRITTEN_BY_HOSTS:
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_figures")
    op.alter_column("fleet_limits", "signed_submissions", server_default=sa.false())
