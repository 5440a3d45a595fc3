"""limits of the fleet

Revises: 0007

They were variables of each process. What they are where the schema is upgraded becomes the row's first values.
"""

import os

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

FORMER = {
    "max_outgoing": ("DROVER_MAX_OUTGOING", 1, 1000),
    "max_incoming": ("DROVER_MAX_INCOMING", 1, 1000),
    "max_moves": ("DROVER_MAX_MOVES", 1, 100_000),
    "max_held": ("DROVER_MAX_HELD", 1, 1000),
    "bandwidth_bytes_per_s": ("DROVER_BANDWIDTH_BYTES_PER_S", 1 << 16, 10**13),
    "stalled_after": ("DROVER_STALLED_AFTER_S", 10, 30 * 86400),
    "host_patience": ("DROVER_HOST_PATIENCE_S", 5, 86400),
    "retention": ("DROVER_RETENTION_S", 0, 3650 * 86400),
}
"""Of each limit the former variable, and what is a sensible amount."""
DURATIONS = {"stalled_after", "host_patience", "retention"}


def upgrade() -> None:
    op.create_table(
        "fleet_limits",
        sa.Column("id", sa.Integer(), autoincrement=False, server_default="1", nullable=False),
        sa.Column("max_outgoing", sa.Integer(), server_default="2", nullable=False),
        sa.Column("max_incoming", sa.Integer(), server_default="2", nullable=False),
        sa.Column("max_moves", sa.Integer(), server_default="10", nullable=False),
        sa.Column("max_held", sa.Integer(), server_default="8", nullable=False),
        sa.Column("stalled_after", sa.Interval(), server_default="10 min", nullable=False),
        sa.Column("host_patience", sa.Interval(), server_default="5 min", nullable=False),
        sa.Column("bandwidth_bytes_per_s", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("retention", sa.Interval(), server_default="24 h", nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet_limits")),
        sa.CheckConstraint("id = 1", name=op.f("ck_fleet_limits_one_row")),
        sa.CheckConstraint(
            "least(max_outgoing, max_incoming, max_moves, max_held) >= 1",
            name=op.f("ck_fleet_limits_something_may_move"),
        ),
        sa.CheckConstraint(
            "stalled_after > interval '0' AND host_patience > interval '0' AND retention >= interval '0' "
            "AND bandwidth_bytes_per_s >= 0",
            name=op.f("ck_fleet_limits_no_negative_amounts"),
        ),
    )
    op.execute("INSERT INTO fleet_limits DEFAULT VALUES")
    for column, (variable, least, most) in FORMER.items():
        _take_over(column, os.environ.get(variable, ""), least, most)
    op.add_column("host", sa.Column("bandwidth_bytes_per_s", sa.BigInteger(), nullable=True))
    op.add_column("host", sa.Column("retention", sa.Interval(), nullable=True))


def _take_over(column: str, text: str, least: int, most: int) -> None:
    """What is no sensible amount is left out: the row has its default, and a service that starts says so."""
    try:
        number = float(text)
    except ValueError:
        return
    if least <= number <= most:
        amount = "make_interval(secs => :number)" if column in DURATIONS else "CAST(:number AS bigint)"
        op.get_bind().execute(sa.text(f"UPDATE fleet_limits SET {column} = {amount}"), {"number": number})


def downgrade() -> None:
    op.drop_column("host", "retention")
    op.drop_column("host", "bandwidth_bytes_per_s")
    op.drop_table("fleet_limits")
