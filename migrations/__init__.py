"""How the schema came to be."""

from importlib.resources import files

from alembic import command
from alembic.config import Config


def config() -> Config:
    """Alembic's configuration, also from an installed wheel: there is no alembic.ini."""
    made = Config()
    made.set_main_option("script_location", str(files("migrations")))
    return made


def upgrade(revision: str = "head") -> None:
    """Bring the database to a revision."""
    command.upgrade(config(), revision)
