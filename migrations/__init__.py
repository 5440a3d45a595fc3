"""How the schema came to be."""

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


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
    """Bring the database to a revision."""
    command.upgrade(config(), revision)
