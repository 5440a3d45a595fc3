"""hosts that are out of service are forgotten

Revises: 0043
"""

from alembic import op

revision = "0044"
down_revision = "0043"
branch_labels = None
depends_on = None

BEFORE = ("active", "cordoned", "maintenance")


def upgrade() -> None:
    _allow((*BEFORE, "forgotten"))


def downgrade() -> None:
    op.execute("UPDATE host SET state = 'maintenance' WHERE state = 'forgotten'")
    _allow(BEFORE)


def _allow(states: tuple[str, ...]) -> None:
    op.execute("ALTER TABLE host DROP CONSTRAINT ck_host_state")
    op.execute(f"ALTER TABLE host ADD CONSTRAINT ck_host_state CHECK (state IN {states})")
