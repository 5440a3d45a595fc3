"""How Alembic reaches the database: the settings' URL, one revision at a time under an advisory lock."""

from alembic import context
from sqlalchemy import text

from migrations import UPGRADE_LOCK
from models.base import Base
from models.database import engine

with engine().connect() as connection:
    connection.execute(text("SET lock_timeout = '10s'"))
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": UPGRADE_LOCK})
    connection.commit()
    context.configure(
        connection=connection, target_metadata=Base.metadata, transaction_per_migration=True, compare_type=True
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.invalidate()  # really closed, and the lock with it, instead of going back to the pool
