"""room of storages: what images take now, and how far a storage is over-committed

Revises: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "storage",
        sa.Column("host", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("driver", sa.String(length=32), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("total_bytes", sa.BigInteger(), nullable=True),
        sa.Column("free_bytes", sa.BigInteger(), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("thin_factor", sa.Float(), server_default="20", nullable=False),
        sa.CheckConstraint("thin_factor BETWEEN 1 AND 1000", name=op.f("ck_storage_thin_factor")),
        sa.ForeignKeyConstraint(["host"], ["host.name"], name=op.f("fk_storage_host_host"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("host", "name", name=op.f("pk_storage")),
    )
    op.create_table(
        "storage_mapping",
        sa.Column("host", sa.String(length=64), nullable=False),
        sa.Column("storage", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("destination_storage", sa.String(length=64), nullable=False),
        sa.Column("format", sa.String(length=16), nullable=True),
        sa.Column("thick", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.ForeignKeyConstraint(["host"], ["host.name"], name=op.f("fk_storage_mapping_host_host"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["destination"], ["host.name"], name=op.f("fk_storage_mapping_destination_host"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("host", "storage", "destination", name=op.f("pk_storage_mapping")),
    )
    op.add_column("guest", sa.Column("allocated_bytes", sa.BigInteger(), nullable=True))
    op.add_column("guest", sa.Column("device_bytes", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("guest", sa.Column("gone_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("disk", sa.Column("retired_bytes", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("disk", "retired_bytes")
    op.drop_column("guest", "gone_at")
    op.drop_column("guest", "device_bytes")
    op.drop_column("guest", "allocated_bytes")
    op.drop_table("storage_mapping")
    op.drop_table("storage")
