"""names of guests, hosts and groups match a pattern

Names of guests and groups that do not are changed: `web server` becomes `web_server-1a2b3c4d`, in jobs and drains as
well, whose story says so. A host is named by its own settings, so its row stays as it is; its worker says what to do.

Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

PATTERN = "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$"
GUESTS = (("guest", "name"), ("job", "guest"), ("drain_guest", "guest"))
GROUPS = (("guest", "affinity"), ("guest", "anti_affinity"))


def upgrade() -> None:
    _tell_the_jobs()
    for table, column in (*GUESTS, *GROUPS):
        op.execute(f"UPDATE {table} SET {column} = {_changed(column)} WHERE NOT {_fits(column)}")
        op.create_check_constraint(op.f(f"ck_{table}_{column}"), table, sa.text(_fits(column)))
    _check_hosts()


def downgrade() -> None:
    for table, column in (*GUESTS, *GROUPS, ("host", "name")):
        op.drop_constraint(op.f(f"ck_{table}_{column}"), table)


def _check_hosts() -> None:
    """Where a row of an earlier version has another name, the constraint holds for all that is written from now on."""
    allowed = f"{_fits('name')} AND name <> 'control'"
    op.execute(f"ALTER TABLE host ADD CONSTRAINT ck_host_name CHECK ({allowed}) NOT VALID")
    op.execute(
        f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM host WHERE NOT ({allowed})) THEN "
        "ALTER TABLE host VALIDATE CONSTRAINT ck_host_name; END IF; END $$"
    )


def _fits(column: str) -> str:
    return f"""({column} COLLATE "C" ~ '{PATTERN}')"""


def _changed(column: str) -> str:
    """What is allowed of it, and a part that differs where the names did."""
    kept = f"regexp_replace(left({column}, 50), '^[.-]|[^A-Za-z0-9_.-]', '_', 'g')"
    return f"{kept} || '-' || left(md5({column}), 8)"


def _tell_the_jobs() -> None:
    before = "'its guest was called \"' || guest || '\", which is no name any more"
    told = f"{before}, and is called ' || {_changed('guest')}"
    op.execute(
        "INSERT INTO event (job_id, by, action, sentence) "
        f"SELECT id, 'drover db upgrade', 'renamed', {told} FROM job WHERE NOT {_fits('guest')}"
    )
