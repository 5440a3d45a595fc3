"""How the schema came to be."""

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from migrations import rights
from models.database import engine

UPGRADE_LOCK = rights.LOCK
"""Two upgrades at once wait for each other."""


def config() -> Config:
    """Alembic's configuration, also from an installed wheel: there is no alembic.ini."""
    made = Config()
    made.set_main_option("script_location", str(files("migrations")))
    return made


def newest() -> str | None:
    """The revision that this version needs."""
    return ScriptDirectory.from_config(config()).get_current_head()


def present(connection: Connection) -> str | None:
    """The revision that a database is at; None if it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(revision: str = "head") -> None:
    """Bring the database to a revision, and the rights of its roles to those of this version."""
    command.upgrade(config(), revision)
    if revision == "head":
        with engine().connect() as connection:
            rights.renew(connection)
