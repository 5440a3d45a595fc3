"""rolls tell by webhooks how they get on; what guests write and change is on record

Revises: 0031
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0033"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("roll", sa.Column("webhook", sa.Text()))
    op.add_column(
        "roll",
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.func.clock_timestamp(), nullable=False),
    )
    op.add_column("delivery", sa.Column("roll_id", sa.BigInteger()))
    op.create_foreign_key("fk_delivery_roll_id_roll", "delivery", "roll", ["roll_id"], ["id"], ondelete="CASCADE")
    op.add_column("guest", sa.Column("activity", JSONB()))


def downgrade() -> None:
    op.drop_column("guest", "activity")
    op.drop_column("delivery", "roll_id")
    op.drop_column("roll", "since")
    op.drop_column("roll", "webhook")
