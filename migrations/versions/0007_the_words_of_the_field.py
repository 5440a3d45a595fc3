"""columns and states have the names that the field uses

Revises: 0006
"""

from collections.abc import Sequence

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

COLUMNS = (
    ("job", "exporter", "nbd_server"),
    ("job", "switch", "switchover"),
    ("job", "crossed_at", "committed_at"),
    ("job", "blackout", "downtime"),
    ("job", "waiting", "wait_reason"),
    ("drain", "waiting", "wait_reason"),
    ("drain", "only", "allowed_hosts"),
    ("guest", "together", "affinity"),
    ("guest", "apart", "anti_affinity"),
)
VALUES = (
    ("job", "state", "undoing", "rolling_back"),
    ("job", "state", "undone", "rolled_back"),
    ("step", "state", "to_undo", "to_roll_back"),
    ("step", "state", "undoing", "rolling_back"),
    ("step", "state", "undone", "rolled_back"),
    ("attempt", "direction", "undo", "rollback"),
    ("attempt", "outcome", "crossed", "committed"),
    ("drain_guest", "state", "left", "skipped"),
)
KEYS = (
    ("job", "options", "max_blackout_ms", "max_downtime_ms"),
    ("drain", "options", "max_blackout_ms", "max_downtime_ms"),
    ("job", "plan", "exporter_detect_zeroes", "nbd_server_detect_zeroes"),
    ("job", "plan", "exporter_version", "nbd_server_version"),
)
UNFINISHED = "CREATE UNIQUE INDEX uq_job_guest_unfinished ON job (guest) WHERE state NOT IN ('done', '{}')"


def upgrade() -> None:
    _rename(COLUMNS, VALUES, KEYS, rolled_back="rolled_back")


def downgrade() -> None:
    _rename(_back(COLUMNS), _back(VALUES), _back(KEYS), rolled_back="undone")


def _back(changes: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return [(*where, new, old) for *where, old, new in changes]


def _rename(
    columns: Sequence[tuple[str, ...]],
    values: Sequence[tuple[str, ...]],
    keys: Sequence[tuple[str, ...]],
    *,
    rolled_back: str,
) -> None:
    """`keys` are those of JSON documents, however deep they lie."""
    for table, old, new in columns:
        op.alter_column(table, old, new_column_name=new)
    op.drop_index("uq_job_guest_unfinished", table_name="job")
    for table, column, old, new in values:
        op.execute(f"UPDATE {table} SET {column} = '{new}' WHERE {column} = '{old}'")
    for table, column, old, new in keys:
        replaced = f"""replace({column}::text, '"{old}":', '"{new}":')::jsonb"""
        op.execute(f"""UPDATE {table} SET {column} = {replaced} WHERE {column}::text LIKE '%"{old}":%'""")
    op.execute(UNFINISHED.format(rolled_back))
