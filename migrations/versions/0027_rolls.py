"""rolls

Revises: 0021
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0027"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "roll",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("max_unavailable", sa.Integer(), nullable=False),
        sa.Column("hook", JSONB(), nullable=False),
        sa.Column("back_within", sa.Interval(), nullable=False),
        sa.Column("allowed_hosts", JSONB(), nullable=False),
        sa.Column("options", JSONB(), nullable=False),
        sa.Column("wait_reason", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", moment, server_default=sa.func.now(), nullable=False),
        sa.Column("finished_at", moment),
        sa.PrimaryKeyConstraint("id", name="pk_roll"),
    )
    op.create_table(
        "hook_run",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("roll_id", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.String(64), nullable=False),
        sa.Column("asked_at", moment, server_default=sa.func.clock_timestamp(), nullable=False),
        sa.Column("machine", sa.String(255)),
        sa.Column("pid", sa.Integer()),
        sa.Column("begun_at", moment),
        sa.Column("seen_at", moment),
        sa.Column("ended_at", moment),
        sa.Column("exit_code", sa.Integer()),
        sa.Column("output", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_hook_run"),
        sa.ForeignKeyConstraint(["roll_id"], ["roll.id"], name="fk_hook_run_roll_id_roll", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["host"], ["host.name"], name="fk_hook_run_host_host"),
    )
    op.create_index("ix_hook_run_roll_id", "hook_run", ["roll_id"])
    op.create_table(
        "roll_host",
        sa.Column("roll_id", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.String(64), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("since", moment, server_default=sa.func.now(), nullable=False),
        sa.Column("drain_id", sa.BigInteger()),
        sa.Column("return_id", sa.BigInteger()),
        sa.Column("hook_run_id", sa.BigInteger()),
        sa.Column("before", JSONB()),
        sa.Column("reason", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("roll_id", "host", name="pk_roll_host"),
        sa.ForeignKeyConstraint(["roll_id"], ["roll.id"], name="fk_roll_host_roll_id_roll", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["host"], ["host.name"], name="fk_roll_host_host_host"),
        sa.ForeignKeyConstraint(["drain_id"], ["drain.id"], name="fk_roll_host_drain_id_drain"),
        sa.ForeignKeyConstraint(["return_id"], ["drain.id"], name="fk_roll_host_return_id_drain"),
        sa.ForeignKeyConstraint(["hook_run_id"], ["hook_run.id"], name="fk_roll_host_hook_run_id_hook_run"),
    )


def downgrade() -> None:
    op.drop_table("roll_host")
    op.drop_table("hook_run")
    op.drop_table("roll")
